"""What the container may use: CPU cores and memory, by its control group, and what its cores can do."""

import math
import os
from pathlib import Path

import psutil

CGROUP = Path("/sys/fs/cgroup")
_CPU_INFO = Path("/proc/cpuinfo")


def usable_cores(cgroup: Path = CGROUP) -> int:
    """The cores that threads of the container may use, a part of one counted as one."""
    return math.ceil(_cores(cgroup))


def whole_cores(cgroup: Path = CGROUP) -> int:
    """The cores that the container may use all of, at least 1."""
    return max(1, math.floor(_cores(cgroup)))


def usable_memory(cgroup: Path = CGROUP) -> int:
    """The container's memory limit in bytes (cgroup v2 or v1); half of its node's memory without one.

    Not what its node has available: that is less in the next attempt if others have started, and pods that
    start together would all count on it. With half, two of them fit.
    """
    node = int(psutil.virtual_memory().total)
    told = (_read(cgroup / name).strip() for name in ("memory.max", "memory/memory.limit_in_bytes"))
    limits = [int(limit) for limit in told if limit.isdigit()]
    return min((limit for limit in limits if limit < node), default=node // 2)


def multiplies_in_bf16(cpu_info: Path = _CPU_INFO) -> bool:
    """Whether the processor has instructions for products in bf16 (x86: AVX-512 or AMX)."""
    lines = (line for line in _read(cpu_info).splitlines() if line.startswith("flags"))
    return not {"avx512_bf16", "amx_bf16"}.isdisjoint(next(lines, "").split())


def oom_kills(cgroup: Path = CGROUP) -> int:
    """How many processes of the container the kernel has killed for memory; 0 if it does not say."""
    for path in (cgroup / "memory.events", cgroup / "memory" / "memory.oom_control"):
        for line in _read(path).splitlines():
            name, _, count = line.partition(" ")
            if name == "oom_kill":
                return int(count)
    return 0


def _cores(cgroup: Path) -> float:
    """The cores this process may run on, cut to the container's CPU limit (cgroup v2 or v1)."""
    allowed = len(os.sched_getaffinity(0))
    limit = _limit_v2(cgroup / "cpu.max") or _limit_v1(cgroup / "cpu")
    return min(allowed, limit) if limit else allowed


def _limit_v2(path: Path) -> float | None:
    quota, _, period = _read(path).strip().partition(" ")
    return int(quota) / int(period) if quota.isdigit() and period.isdigit() else None


def _limit_v1(folder: Path) -> float | None:
    quota, period = (_read(folder / f"cpu.cfs_{name}_us").strip() for name in ("quota", "period"))
    return int(quota) / int(period) if quota.isdigit() and period.isdigit() else None


def _read(path: Path) -> str:
    try:
        return path.read_text(encoding="utf-8")
    except OSError:
        return ""
