"""What this machine has, with the limits of its container; and what a config asks of it."""

import os
import re
from collections.abc import Mapping
from pathlib import Path
from typing import Any

_CGROUP = Path("/sys/fs/cgroup")


def usable_cores() -> float:
    """Cores that this process may use; less than one in a tightly limited container."""
    cores = float(len(os.sched_getaffinity(0)))
    quota, period = (_words(_CGROUP / "cpu.max") or ["max", "1"])[:2]
    if quota == "max":
        return cores
    return min(cores, int(quota) / int(period))


def usable_memory() -> int:
    """Bytes of memory that new processes can have: what is free, within the container's limit."""
    available = re.search(r"^MemAvailable:\s+(\d+) kB", Path("/proc/meminfo").read_text(), re.MULTILINE)
    free = int(available[1]) * 1024 if available else 0
    for limit_file, used_file in (("memory.max", "memory.current"), ("memory/memory.limit_in_bytes", "")):
        limit = (_words(_CGROUP / limit_file) or ["max"])[0]
        if limit != "max":
            used = (_words(_CGROUP / used_file) or ["0"])[0] if used_file else "0"
            free = min(free, int(limit) - int(used))
    return free


def _words(path: Path) -> list[str]:
    try:
        return path.read_text().split()
    except OSError:
        return []


def asks_for_gpus(application: Mapping[str, Any]) -> bool:
    """Whether an application of a Serve config gives any of its replicas a share of a GPU."""
    entries = application.get("deployments") or []
    return any((entry.get("ray_actor_options") or {}).get("num_gpus") for entry in entries)
