"""The processor: its kind, what it computes by itself, and how much of it this process has."""

from __future__ import annotations

import os
import platform
from pathlib import Path


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
    """Physical cores that this process may use; where they cannot be told apart, its logical ones."""
    if not hasattr(os, "sched_getaffinity"):
        return os.cpu_count() or 1
    allowed = os.sched_getaffinity(0)
    return len({_core(processor) for processor in allowed}) or 1


def _core(processor: int) -> str:
    """What the hardware threads of one core have in common."""
    siblings = Path(f"/sys/devices/system/cpu/cpu{processor}/topology/thread_siblings_list")
    try:
        return siblings.read_text(encoding="ascii").strip()
    except OSError:
        return str(processor)
