"""What the comparison needs from the machine: packages, free ports, descriptors, a description of it."""

import os
import platform
import resource
import shutil
import socket
import subprocess
import sys

MODULES = "/usr/lib/nginx/modules"
NEEDED = {  # command or file -> Debian package
    "nginx": "nginx",
    f"{MODULES}/ngx_http_lua_module.so": "libnginx-mod-http-lua",
    "haproxy": "haproxy",
    "redis-server": "redis-server",
    "wrk": "wrk",
    "openssl": "openssl",
}


def install():
    """Installs what is missing with apt; says what to install where that is not possible."""
    missing = sorted({package for need, package in NEEDED.items() if not (shutil.which(need) or os.path.exists(need))})
    if not missing:
        return
    apt = (["sudo", "-n"] if os.geteuid() else []) + ["env", "DEBIAN_FRONTEND=noninteractive", "apt-get"]
    options = ["-y", "-qq", "--no-install-recommends"]
    update = subprocess.run(apt + ["update", "-qq"], stdin=subprocess.DEVNULL, stdout=sys.stderr)
    done = subprocess.run(apt + ["install"] + options + missing, stdin=subprocess.DEVNULL, stdout=sys.stderr)
    if update.returncode or done.returncode:
        sys.exit(f"missing, and apt-get could not install them: {' '.join(missing)}")


def raise_descriptors():
    """As many as this user may have; returns how many those are."""
    _, most = resource.getrlimit(resource.RLIMIT_NOFILE)
    resource.setrlimit(resource.RLIMIT_NOFILE, (most, most))
    return most


def free_ports(count):
    sockets = [socket.socket() for _ in range(count)]
    for one in sockets:
        one.bind(("127.0.0.1", 0))
    ports = [one.getsockname()[1] for one in sockets]
    for one in sockets:
        one.close()
    return ports


def build(root):
    """The release build with the image's allocator, unless it is there and newer than all of its sources (cargo knows)."""
    subprocess.run(["cargo", "build", "--release", "--locked", "--features", "jemalloc"], cwd=root, check=True, stdout=sys.stderr)
    target = os.environ.get("CARGO_TARGET_DIR", os.path.join(root, "target"))
    return os.path.join(target, "release", "sidegate")


def read_anew(programs):
    """Lets the system forget the programs' pages, so that each is read from the disk as after a start of the machine. Right after it was
    written, a file is cached in larger pieces, and a process maps whole pieces: its resident memory would tell how old the file is."""
    for program in programs:
        file = os.open(shutil.which(program), os.O_RDONLY)
        os.fsync(file)
        os.posix_fadvise(file, 0, 0, os.POSIX_FADV_DONTNEED)
        os.close(file)


def first_line(*command):
    done = subprocess.run(command, stdin=subprocess.DEVNULL, capture_output=True, text=True)
    return (done.stdout + done.stderr).strip().split("\n")[0]


def machine():
    """One paragraph: processor, cores, memory, kernel, versions."""
    with open("/proc/cpuinfo") as info:
        model = next((line.split(":", 1)[1].strip() for line in info if line.startswith("model name")), "?")
    with open("/proc/meminfo") as info:
        memory = int(next(info).split()[1]) / 1024 / 1024
    versions = [
        first_line("nginx", "-v").replace("nginx version: ", ""),
        "HAProxy " + first_line("haproxy", "-v").split()[2],
        "Redis " + first_line("redis-server", "--version").split("v=")[-1].split()[0],
        " ".join(first_line("wrk", "-v").split()[:2]),
    ]
    cores = len(os.sched_getaffinity(0))
    load = os.getloadavg()[0]
    kernel = '.'.join(platform.release().split('.')[:2])
    return (
        f"{model}, {cores} cores shared by all of it, {memory:.0f} GiB, Linux {kernel}; {'; '.join(versions)}; "
        f"load average at the start {load:.2f}."
    )
