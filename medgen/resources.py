"""How much memory and disk this computer has left. Standard library only; whatever cannot be known is None."""

from __future__ import annotations

import ctypes
import platform
import re
import shutil
import subprocess
from dataclasses import dataclass
from pathlib import Path


@dataclass(frozen=True)
class Memory:
    """Main memory in bytes: all of it, and what a new program can have without others being swapped out."""

    total: int | None
    free: int | None


def memory() -> Memory:
    """The computer's memory, within the limit of a container where there is one."""
    here = {"Linux": _linux, "Darwin": _mac, "Windows": _windows}.get(platform.system())
    found = Memory(None, None) if here is None else here()
    left = _left_to_process()
    return found if left is None or found.free is None else Memory(found.total, min(found.free, left))


def _left_to_process(status: Path = Path("/proc/self/status")) -> int | None:
    """What this process may still have where it was given a limit (`ulimit -v`), in bytes."""
    try:
        import resource

        most = resource.getrlimit(resource.RLIMIT_AS)[0]
        if most == resource.RLIM_INFINITY:
            return None
        used = re.search(r"^VmSize:\s+(\d+) kB$", status.read_text(), re.MULTILINE)
    except (ImportError, OSError):
        return None
    return None if used is None else max(0, most - int(used[1]) * 1024)


def _linux(meminfo: Path = Path("/proc/meminfo"), cgroup: Path = Path("/sys/fs/cgroup")) -> Memory:
    total = free = None
    try:
        found = dict(re.findall(r"^(\w+):\s+(\d+) kB$", meminfo.read_text(), re.MULTILINE))
        total, free = int(found["MemTotal"]) * 1024, int(found["MemAvailable"]) * 1024
    except (OSError, KeyError, ValueError):
        return Memory(total, free)
    try:  # version 2 of control groups: containers
        most = int((cgroup / "memory.max").read_text())  # "max" where there is no limit
        used = int((cgroup / "memory.current").read_text())
        cached = dict(line.split() for line in (cgroup / "memory.stat").read_text().splitlines())
    except (OSError, ValueError):
        return Memory(total, free)
    left = most - used + int(cached.get("inactive_file", 0))
    return Memory(min(total, most), max(0, min(free, left)))


def _mac() -> Memory:
    try:
        total = int(subprocess.check_output(["/usr/sbin/sysctl", "-n", "hw.memsize"], timeout=5))
        pages = subprocess.check_output(["/usr/bin/vm_stat"], timeout=5, text=True)
        size = int(re.findall(r"page size of (\d+) bytes", pages)[0])
        counts = dict(re.findall(r"^Pages (free|inactive|speculative|purgeable):\s+(\d+)", pages, re.MULTILINE))
    except (OSError, ValueError, IndexError, subprocess.SubprocessError):
        return Memory(None, None)
    return Memory(total, size * sum(int(count) for count in counts.values()))


class _Status(ctypes.Structure):
    """Windows' MEMORYSTATUSEX."""

    _fields_ = (
        ("dwLength", ctypes.c_uint32),
        ("dwMemoryLoad", ctypes.c_uint32),
        ("ullTotalPhys", ctypes.c_uint64),
        ("ullAvailPhys", ctypes.c_uint64),
        ("ullTotalPageFile", ctypes.c_uint64),
        ("ullAvailPageFile", ctypes.c_uint64),
        ("ullTotalVirtual", ctypes.c_uint64),
        ("ullAvailVirtual", ctypes.c_uint64),
        ("ullAvailExtendedVirtual", ctypes.c_uint64),
    )


def _windows() -> Memory:
    status = _Status(dwLength=ctypes.sizeof(_Status))
    try:
        done = ctypes.windll.kernel32.GlobalMemoryStatusEx(ctypes.byref(status))  # type: ignore[attr-defined]
    except (AttributeError, OSError):
        return Memory(None, None)
    return Memory(status.ullTotalPhys, status.ullAvailPhys) if done else Memory(None, None)


def free_disk(path: Path) -> int | None:
    """Bytes that are free where `path` is, or would be."""
    while not path.exists() and path != path.parent:
        path = path.parent
    try:
        return shutil.disk_usage(path).free
    except OSError:
        return None


@dataclass(frozen=True)
class Gpu:
    """An NVIDIA GPU as its driver tells: memory in bytes, compute capability ("8.9") where the driver knows it."""

    name: str
    driver: str
    total: int
    free: int
    capability: str | None


def gpus() -> list[Gpu]:
    """NVIDIA GPUs by their driver's own program; none where there is no driver. Takes a moment."""
    program = shutil.which("nvidia-smi")
    if program is None:
        return []
    for fields in (
        "name,driver_version,memory.total,memory.free,compute_cap",
        "name,driver_version,memory.total,memory.free",
    ):
        command = [program, f"--query-gpu={fields}", "--format=csv,noheader,nounits"]
        try:
            done = subprocess.run(command, capture_output=True, text=True, timeout=10, check=True)
        except (OSError, subprocess.SubprocessError):
            continue  # old drivers do not know compute_cap
        rows = [[cell.strip() for cell in line.split(",")] for line in done.stdout.splitlines() if line.strip()]
        try:
            return [
                Gpu(row[0], row[1], int(row[2]) << 20, int(row[3]) << 20, row[4] if len(row) > 4 else None)
                for row in rows
            ]
        except (ValueError, IndexError):
            continue
    return []
