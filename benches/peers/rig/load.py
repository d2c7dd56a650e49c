"""One measurement: wrk against one contender, with what the contender and Redis spent meanwhile."""

import os
import re
import subprocess
import time

from .contenders import CONF

UNITS = {"us": 1.0, "ms": 1e3, "s": 1e6}


class Shape:
    """How the load looks: a line of the plan."""

    def __init__(self, title, workers, connections, contenders, key="hot", steady=False, threads=1, tls=False):
        self.title, self.workers, self.connections, self.contenders = title, workers, connections, contenders
        self.key, self.steady, self.threads, self.tls = key, steady, threads, tls


def measure(field, shape, contender, seconds):
    """Returns what one run showed: req_s, p50, p99 (µs), proxy_us, redis_us (µs per request), calls, rss (KiB), failed."""
    process, redis = contender.process, field.redis_process
    process.forget_log()
    cpu, redis_cpu, calls = process.cpu_us(), redis.cpu_us(), field.redis.script_calls()
    command = wrk(field, shape, contender, seconds)
    child = subprocess.Popen(command, stdin=subprocess.DEVNULL, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True)
    time.sleep(max(seconds - 0.3, 0.1))
    rss = process.rss_kib()
    text = child.communicate(timeout=seconds + 30)[0]
    cpu, redis_cpu = process.cpu_us() - cpu, redis.cpu_us() - redis_cpu
    calls = field.redis.script_calls() - calls
    process.forget_log()
    return read(text, cpu, redis_cpu, calls, rss, contender.full)


def wrk(field, shape, contender, seconds):
    command = ["wrk", f"-t{shape.threads}", f"-c{shape.connections}", f"-d{seconds}s", "--latency", "--timeout", "5s"]
    if shape.key == "hot" and contender.full:
        command += ["-H", f"Authorization: Bearer {field.hot}"]
    if shape.steady:
        command += ["-s", os.path.join(CONF, "steady.lua")]
    if shape.key == "many" and contender.full:
        command += ["-s", os.path.join(CONF, "keys.lua")]
    command += [contender.url("https" if shape.tls else "http")]
    return command + (["--", field.many] if shape.key == "many" and contender.full else [])


def read(text, cpu, redis_cpu, calls, rss, full):
    found = re.search(r"(\d+) requests in ([\d.]+)(us|ms|s|m)\b", text)
    if not found or not int(found[1]):
        raise SystemExit(f"wrk says nothing that can be read:\n{text}")
    requests = int(found[1])
    failed = sum(int(count) for count in re.findall(r"Non-2xx or 3xx responses: (\d+)", text))
    for line in re.findall(r"Socket errors: .*", text):
        failed += sum(int(count) for count in re.findall(r" (\d+)", line))
    return {
        "req_s": float(re.search(r"Requests/sec:\s+([\d.]+)", text)[1]),
        "p50": percentile(text, 50),
        "p99": percentile(text, 99),
        "proxy_us": cpu / requests,
        "redis_us": redis_cpu / requests if full else None,
        "calls": calls / requests if full else None,
        "rss": rss,
        "failed": failed,
    }


def percentile(text, which):
    value, unit = re.search(rf"^\s+{which}%\s+([\d.]+)(us|ms|s)\s*$", text, re.M).groups()
    return float(value) * UNITS[unit]


class Results:
    """All runs: (shape, contender) -> one entry a round, so that ratios are taken within a round."""

    def __init__(self):
        self.runs = {}

    def add(self, shape, contender, run):
        self.runs.setdefault((shape, contender), []).append(run)

    def values(self, shape, contender, figure):
        return [run[figure] for run in self.runs.get((shape, contender), [])]

    def median(self, shape, contender, figure):
        values = [value for value in self.values(shape, contender, figure) if value is not None]
        return median(values) if values else None

    def paired(self, shape, contender, base, figure, combine):
        """The median over rounds of what `combine` makes of both contenders' figures in that round."""
        pairs = list(zip(self.values(shape, contender, figure), self.values(shape, base, figure)))
        return median([combine(mine, theirs) for mine, theirs in pairs]) if pairs else None


def median(values):
    ordered, middle = sorted(values), len(values) // 2
    return ordered[middle] if len(values) % 2 else (ordered[middle - 1] + ordered[middle]) / 2


def rounds(field, plan, repetitions, seconds, say):
    """Round by round through all shapes; within a shape each round begins with another contender."""
    results = Results()
    for number in range(repetitions):
        for name, shape in plan.items():
            crowd = field.tls if shape.tls else field.by_workers[shape.workers]
            present = [key for key in shape.contenders if key in crowd]
            start = number % len(present)
            for key in present[start:] + present[:start]:
                # The two that most ratios come from run longest.
                run = measure(field, shape, crowd[key], seconds if name in ("hot", "two") else max(seconds - 1, 1))
                results.add(name, key, run)
                say(f"{number + 1}/{repetitions} {name:<10} {key:<12} {run['req_s']:>9,.0f} req/s, {run['proxy_us']:.1f} µs")
                if run["failed"]:
                    say(f"    {run['failed']} failed")
    return results
