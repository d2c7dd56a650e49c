"""Who takes part: every process, started on loopback with ports of its own, all in front of the same service."""

import hashlib
import json
import os
import random
import subprocess

from . import tools
from .process import Process
from .redis import Redis

CONF = os.path.join(os.path.dirname(os.path.dirname(os.path.abspath(__file__))), "conf")
BASE62 = "0123456789ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz"
KEYS = 1000
FEW = 3  # requests a minute of the key that must get a 429


class Contender:
    """One line of the tables: a process and what is asked of it."""

    def __init__(self, name, process, port, path, full):
        self.name, self.process, self.port, self.path, self.full = name, process, port, path, full

    def url(self, scheme):
        return f"{scheme}://127.0.0.1:{self.port}{self.path}"


class Field:
    """Everything that runs. `workers` -> contender name -> Contender."""

    def __init__(self, folder, binaries):
        self.folder, self.binaries, self.processes = folder, binaries, []
        self.redis_port, self.upstream_port = tools.free_ports(2)
        chosen = random.Random(20261122)
        self.keys = ["sg_" + "".join(chosen.choices(BASE62, k=43)) for _ in range(KEYS + 2)]
        self.hot, self.limited, self.unknown = self.keys[0], self.keys[1], "sg_" + "0" * 43
        self.many = os.path.join(folder, "keys.txt")
        with open(self.many, "w") as file:
            file.write("\n".join(self.keys[2:]) + "\n")
        self.by_workers, self.tls, self.idle_kib = {}, {}, {}

    def start(self):
        tools.read_anew(["nginx", "haproxy", *self.binaries.values()])
        self.certificate()
        redis = ["redis-server", "--port", self.redis_port, "--bind", "127.0.0.1", "--save", "", "--appendonly", "no"]
        self.redis_process = self.run("redis", redis + ["--dir", self.folder], self.redis_port)
        self.redis = Redis(self.redis_port)
        self.upstream = self.run("upstream", self.nginx("upstream", BODY="x" * 1024), self.upstream_port)
        for workers in (1, 2):
            self.by_workers[workers] = self.of_workers(workers)
        self.tls = self.with_tls("tls")
        self.mint()

    def stop(self):
        for process in reversed(self.processes):
            process.stop()

    def run(self, name, command, port, env=None):
        process = Process(name, [str(part) for part in command], self.folder, env, port)
        self.processes.append(process)
        return process

    def of_workers(self, workers):
        direct = Contender("service alone", self.upstream, self.upstream_port, "/v1/items", False)
        found = {"direct": direct} | {key: self.peer(key, str(workers), workers) for key in ("nginx", "lua", "haproxy")}
        for key, binary in self.binaries.items():
            full = self.gate(key, str(workers), binary, workers)
            found[key] = full
            label = full.name.removesuffix(", full")
            found[f"{key}-public"] = Contender(f"{label}, public route", full.process, full.port, "/public", False)
            if key == "gate":
                found["triple"] = Contender(f"{label}, full, three windows", full.process, full.port, "/v1/triple", True)
        for key, contender in found.items():
            self.idle_kib[key, workers] = contender.process.rss_kib()
        return found

    def peer(self, key, mark, workers, tls=False):
        """A fresh nginx, nginx with Lua, or haproxy."""
        port, tls_port = tools.free_ports(2)
        name = f"{key}-{mark}"
        if key == "haproxy":
            command = ["haproxy", "-db", "-f", self.fill("haproxy.cfg", name, PORT=port, WORKERS=workers)]
        else:
            conf = "nginx" if key == "nginx" else "nginx-lua"
            command = self.nginx(conf, NAME=name, PORT=port, TLS_PORT=tls_port, WORKERS=workers)
        process = self.run(name, command, port, {"BENCH_REDIS_PORT": str(self.redis_port)})
        titles = {"nginx": "nginx, pass-through", "lua": "nginx + Lua + Redis", "haproxy": "haproxy, pass-through"}
        title = f"{titles[key]}, TLS" if tls else titles[key]
        return Contender(title, process, tls_port if tls else port, "/v1/items", key == "lua")

    def gate(self, key, mark, binary, workers, tls=False):
        """A fresh sidegate."""
        port, admin = tools.free_ports(2)
        pair = f'{{cert: "{self.folder}/tls.crt", key: "{self.folder}/tls.key"}}'
        tls_lines = f", tls: {{certificates: [{pair}]}}" if tls else ""
        name = f"{key}-{mark}"
        file = self.fill("sidegate.yaml", name, PORT=port, ADMIN=admin, WORKERS=workers, TLS=tls_lines)
        process = self.run(name, [binary, "run", "--config", file], port)
        label = "sidegate" if key == "gate" else "sidegate (other build)"
        return Contender(f"{label}, full" + (", TLS" if tls else ""), process, port, "/v1/items", True)

    def with_tls(self, mark):
        return {
            "nginx": self.peer("nginx", mark, 1, tls=True),
            "gate": self.gate("gate", mark, self.binaries["gate"], 1, tls=True),
        }

    def nginx(self, conf, **values):
        name = values.get("NAME", conf)
        return ["nginx", "-p", self.folder, "-e", f"{self.folder}/{name}.err", "-c", self.fill(f"{conf}.conf", name, **values)]

    def fill(self, conf, name, **values):
        values = {"DIR": self.folder, "CONF": CONF, "MODULES": tools.MODULES, "NAME": name, **values}
        values |= {"UPSTREAM": self.upstream_port, "REDIS": self.redis_port}
        with open(os.path.join(CONF, conf)) as file:
            text = file.read()
        for key, value in values.items():
            text = text.replace(f"@{key}@", str(value))
        filled = os.path.join(self.folder, f"{name}-{conf}")
        with open(filled, "w") as file:
            file.write(text)
        return filled

    def certificate(self):
        request = "openssl req -x509 -newkey ec -pkeyopt ec_paramgen_curve:prime256v1 -nodes -days 2 -subj /CN=localhost"
        files = ["-keyout", f"{self.folder}/tls.key", "-out", f"{self.folder}/tls.crt"]
        names = ["-addext", "subjectAltName=DNS:localhost,IP:127.0.0.1"]
        subprocess.run(request.split() + files + names, check=True, stdin=subprocess.DEVNULL, capture_output=True)

    def mint(self):
        """The same keys for both: as sidegate's documents, and as the hashes that gate.lua reads."""
        lines, hashes = [], []
        for index, key in enumerate(self.keys):
            digest = hashlib.sha256(key.encode()).hexdigest()
            business, limit = f"acme-{index % 100}", FEW if key == self.limited else 100_000_000
            record = {"sha256": digest, "id": f"key-{index}", "name": f"Key {index}", "business": business}
            record["scopes"] = ["items:read", "items:write"]
            if key == self.limited:
                record["limits"] = {"per-key": f"{FEW}/1m", "triple": f"{FEW}/1m"}
            lines.append(json.dumps(record))
            fields = ["id", f"key-{index}", "name", f"Key {index}", "business", business, "limit", limit]
            hashes.append(["HSET", f"lua:key:{digest}", "scopes", " items:read items:write "] + fields)
        self.redis.pipeline(hashes)
        config = os.path.join(self.folder, "gate-1-sidegate.yaml")
        command = [self.binaries["gate"], "keys", "import", "--config", config]
        done = subprocess.run(command, input="\n".join(lines) + "\n", text=True, capture_output=True)
        if done.returncode:
            raise SystemExit(f"keys import: {done.stderr or done.stdout}")
