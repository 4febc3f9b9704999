"""The processor: its kind, what it computes by itself, and how much of it this process has."""

from __future__ import annotations

import math
import os
import platform
from collections.abc import Iterator
from contextlib import suppress
from pathlib import Path

# Files of a control group that say how many of how many microseconds its processes may compute: its second version
# has them in one, the first in two.
_QUOTAS = (("cpu.max",), ("cpu.cfs_quota_us", "cpu.cfs_period_us"))


def cpu() -> str:
    """The kind of CPU: what is made for one may not run, or run slowly, on another."""
    told = cpu_told()
    return " ".join((platform.machine(), told.get("model name", platform.processor()), told.get("flags", "")))


def cpu_told() -> dict[str, str]:
    """What ``/proc/cpuinfo`` tells of a processor; empty on other systems."""
    try:
        lines = Path("/proc/cpuinfo").read_text(encoding="utf-8", errors="replace").splitlines()
    except OSError:
        return {}
    return {key.strip(): value.strip() for key, _, value in (line.partition(":") for line in lines) if value}


def has_vnni() -> bool:
    """Whether the CPU sums up 8-bit products in 32 bits."""
    return bool({"avx512_vnni", "avx_vnni", "amx_int8"} & set(cpu().split()))


def has_bfloat16() -> bool:
    """Whether the CPU computes in bfloat16 by itself."""
    return bool({"avx512_bf16", "amx_bf16"} & set(cpu().split()))


def physical_cores() -> int:
    """Physical cores that this process may use at a time; where they cannot be told apart, its logical ones."""
    if not hasattr(os, "sched_getaffinity"):
        return os.cpu_count() or 1
    cores = len({_core(processor) for processor in os.sched_getaffinity(0)}) or 1
    return min(cores, math.ceil(cpu_quota() or cores))


def cpu_quota(root: Path = Path("/sys/fs/cgroup"), own: Path = Path("/proc/self/cgroup")) -> float | None:
    """Cores that this process may use at a time by the quotas of its control groups, as a container's; None without.

    Args:
        root: where the control groups are mounted.
        own: names the process's, which are those of the mount itself inside most containers.
    """
    return min((quota for group in _groups(root, own) if (quota := _quota_of(group)) is not None), default=None)


def _groups(root: Path, own: Path) -> Iterator[Path]:
    """The folders of the groups that a process is in; not all of them are there."""
    try:
        named = [line.split(":", 2)[-1].strip("/") for line in own.read_text(encoding="utf-8").splitlines()]
    except OSError:
        named = []
    for version in (root, root / "cpu"):  # the second and the first
        yield version
        for name in named:
            yield from (version / place for place in (Path(name), *Path(name).parents))


def _quota_of(group: Path) -> float | None:
    for names in _QUOTAS:
        with suppress(OSError, ValueError, ZeroDivisionError):  # not there, or "max"
            quota, period = (int(part) for name in names for part in (group / name).read_text("ascii").split())
            if quota > 0:
                return quota / period
    return None


def _core(processor: int) -> str:
    """What the hardware threads of one core have in common."""
    siblings = Path(f"/sys/devices/system/cpu/cpu{processor}/topology/thread_siblings_list")
    try:
        return siblings.read_text(encoding="ascii").strip()
    except OSError:
        return str(processor)
