"""The machine that something was measured on."""

from __future__ import annotations

import os
import platform
import sys
from datetime import datetime, timezone
from importlib.metadata import PackageNotFoundError, version

import psutil
from pydantic import BaseModel, ConfigDict, Field

from benchmarks.nvml import Gpu, read_gpus
from pnseg_runtime.sessions.cpu import cpu_told

PACKAGES = (
    "pnseg",
    "torch",
    "onnxruntime",
    "onnxruntime-gpu",
    "openvino",
    "tensorrt",
    "tensorrt-rtx",
    "pycuda",
    "cellseg-models-pytorch",
    "numpy",
    "opencv-python-headless",
    "scipy",
)
# What decides how fast a network runs on an x86 CPU, of all its flags.
FLAGS = ("avx2", "fma", "avx512f", "avx512_vnni", "avx_vnni", "avx512_bf16", "amx_tile", "amx_int8", "amx_bf16")
THREAD_VARIABLES = ("OMP_NUM_THREADS", "MKL_NUM_THREADS", "OPENBLAS_NUM_THREADS")


class Machine(BaseModel):
    """What a reader must know to compare two machines.

    Attributes:
        cpu: its model; cores and threads: physical and logical ones; usable: logical ones that this process may use.
        flags: instructions of the CPU that matter here.
        torch_threads: PyTorch's threads; None where it was not imported.
        thread_variables: environment variables that set threads.
        load_1m: processes that wanted a core in the last minute, on average; far above this
            process's own, others were running.
        packages: package → version.
        gpus: as they were when the machine was described, at the end of the measurement.
    """

    model_config = ConfigDict(extra="forbid", frozen=True)

    time: str = Field(description="UTC, ISO 8601")
    system: str
    python: str
    cpu: str
    cores: int | None
    threads: int | None
    usable: int
    max_mhz: float | None
    flags: list[str]
    memory_gib: float
    load_1m: float
    torch_threads: int | None
    thread_variables: dict[str, str]
    packages: dict[str, str]
    gpus: list[Gpu]

    @property
    def title(self) -> str:
        """In one line."""
        gpus = ", ".join(gpu.name for gpu in self.gpus) or "no GPU"
        return f"{self.cpu}, {self.usable} of {self.threads} threads, {self.memory_gib:.0f} GiB, {gpus}"


def describe() -> Machine:
    """This machine, now."""
    frequency = psutil.cpu_freq()
    torch = sys.modules.get("torch")
    return Machine(
        time=datetime.now(timezone.utc).isoformat(timespec="seconds"),
        system=platform.platform(),
        python=platform.python_version(),
        cpu=cpu_model(),
        cores=psutil.cpu_count(logical=False),
        threads=psutil.cpu_count(),
        usable=len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1,
        max_mhz=frequency.max or None if frequency else None,
        flags=[flag for flag in FLAGS if flag in cpu_told().get("flags", "").split()],
        memory_gib=round(psutil.virtual_memory().total / 2**30, 1),
        load_1m=round(psutil.getloadavg()[0], 2),
        torch_threads=torch.get_num_threads() if torch else None,
        thread_variables={name: os.environ[name] for name in THREAD_VARIABLES if name in os.environ},
        packages=_versions(PACKAGES),
        gpus=read_gpus(),
    )


def cpu_model() -> str:
    """The name that the CPU gives itself."""
    return cpu_told().get("model name") or platform.processor() or platform.machine()


def _versions(packages: tuple[str, ...]) -> dict[str, str]:
    installed = {package: _version(package) for package in packages}
    return {package: found for package, found in installed.items() if found}


def _version(package: str) -> str | None:
    try:
        return version(package)
    except PackageNotFoundError:
        return None
