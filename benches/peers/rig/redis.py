"""As much of a Redis client as the comparison needs."""

import socket


class Redis:
    def __init__(self, port):
        self.stream = socket.create_connection(("127.0.0.1", port), 5).makefile("rwb")

    def pipeline(self, commands):
        """Sends all commands at once and returns their answers."""
        for command in commands:
            parts = [str(part).encode() for part in command]
            self.stream.write(b"*%d\r\n" % len(parts))
            for part in parts:
                self.stream.write(b"$%d\r\n%s\r\n" % (len(part), part))
        self.stream.flush()
        return [self._read() for _ in commands]

    def _read(self):
        line = self.stream.readline()
        kind, rest = line[:1], line[1:-2]
        if kind == b"-":
            raise RuntimeError(rest.decode())
        if kind == b"$":
            size = int(rest)
            return None if size < 0 else self.stream.read(size + 2)[:-2].decode()
        if kind == b"*":
            return [self._read() for _ in range(int(rest))]
        return int(rest) if kind == b":" else rest.decode()

    def script_calls(self):
        """How often a script was called so far. What runs inside scripts is not a call over the wire, and not counted."""
        calls = 0
        for line in self.pipeline([["INFO", "commandstats"]])[0].splitlines():
            name, _, stats = line.partition(":")
            if name in ("cmdstat_evalsha", "cmdstat_eval", "cmdstat_fcall"):
                calls += int(stats.split(",")[0].split("=")[1])
        return calls

    def version(self):
        text = self.pipeline([["INFO", "server"]])[0]
        return next(line.split(":")[1] for line in text.splitlines() if line.startswith("redis_version"))
