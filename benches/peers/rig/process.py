"""Processes that the comparison starts, and what they cost: scheduler time and memory, children included."""

import os
import signal
import socket
import subprocess
import time


class Process:
    """One contender's process tree. Its standard output goes to a file that `forget_log` empties between runs."""

    def __init__(self, name, command, folder, env=None, serves=None):
        self.name = name
        self.log = os.path.join(folder, f"{name}.out")
        self.access_log = os.path.join(folder, f"{name}.log")
        # In append mode, so that emptying the file does not leave a hole in front of the next line.
        with open(self.log, "ab") as out, open(os.path.join(folder, f"{name}.err.out"), "ab") as err:
            self.child = subprocess.Popen(
                command, stdin=subprocess.DEVNULL, stdout=out, stderr=err, env={**os.environ, **(env or {})}
            )
        self.errors = os.path.join(folder, f"{name}.err.out")
        if serves:
            self.wait_for(serves)

    def wait_for(self, port, patience=10):
        until = time.monotonic() + patience
        while time.monotonic() < until:
            if self.child.poll() is not None:
                break
            try:
                socket.create_connection(("127.0.0.1", port), 1).close()
                return
            except OSError:
                time.sleep(0.02)
        with open(self.errors) as errors:
            raise SystemExit(f"{self.name} did not start:\n{errors.read()[-2000:]}")

    def pids(self):
        found, ahead = [], [self.child.pid]
        while ahead:
            pid = ahead.pop()
            found.append(pid)
            try:
                for task in os.listdir(f"/proc/{pid}/task"):
                    with open(f"/proc/{pid}/task/{task}/children") as children:
                        ahead += [int(child) for child in children.read().split()]
            except FileNotFoundError:
                pass
        return found

    def cpu_us(self):
        """Microseconds on a processor so far, by the scheduler's own account."""
        total = 0
        for pid in self.pids():
            for task in os.listdir(f"/proc/{pid}/task"):
                with open(f"/proc/{pid}/task/{task}/schedstat") as stat:
                    total += int(stat.read().split()[0])
        return total / 1000

    def rss_kib(self):
        """Of the processes that serve: an nginx master only waits, and shares nearly all that it holds."""
        pids = self.pids()
        return sum(rss_kib(pid) for pid in (pids[1:] or pids))

    def forget_log(self):
        for file in (self.log, self.access_log):
            if os.path.exists(file):
                os.truncate(file, 0)

    def stop(self):
        if self.child.poll() is None:
            self.child.send_signal(signal.SIGINT)
        try:
            self.child.wait(3)
        except subprocess.TimeoutExpired:
            self.child.kill()
            self.child.wait()


def rss_kib(pid):
    with open(f"/proc/{pid}/status") as status:
        return next((int(line.split()[1]) for line in status if line.startswith("VmRSS")), 0)
