"""What is on this machine, looked up without importing what may not import."""

from __future__ import annotations

import ctypes
import os
import platform
import re
import sys
from collections.abc import Iterable
from dataclasses import dataclass, field
from importlib.metadata import PackageNotFoundError, requires, version
from pathlib import Path

from pnseg_runtime.cuda.flavours import FLAVOURS
from pnseg_runtime.cuda.nvidia import Driver, find_driver
from pnseg_runtime.sessions.cpu import cpu_quota, cpu_told

#: Packages whose versions decide what works; of those with several names the first that is installed counts.
PACKAGES = (
    "pnseg",
    "numpy",
    "onnxruntime",
    "onnxruntime-gpu",
    "openvino",
    *(name for flavour in FLAVOURS.values() for name in flavour.packages),
    "pycuda",
    "nvidia-cudnn-cu12",
    "nvidia-cudnn-cu13",
    "nvidia-cublas-cu12",
    "nvidia-cublas",
    "torch",
)
#: Instructions that decide how fast a network runs here.
FLAGS = ("avx2", "avx512f", "avx512_vnni", "avx_vnni", "avx512_bf16", "amx_int8", "amx_bf16")


@dataclass(frozen=True)
class Facts:
    """Everything the rules are about.

    Attributes:
        python: version.
        system: kernel and machine.
        cpu: its model.
        flags: of :data:`FLAGS` those it has.
        cores: logical ones that this process may use.
        quota: cores that the container may use at a time, None without a limit.
        packages: distribution → version, of :data:`PACKAGES` those that are installed.
        cuda: of those the ones that say it: distribution → major version of the CUDA that it is built for.
        driver: NVIDIA's.
        libraries: shared library → whether it loads; those of the GPU providers.
    """

    python: str = platform.python_version()
    system: str = ""
    cpu: str = ""
    flags: tuple[str, ...] = ()
    cores: int = 1
    quota: float | None = None
    packages: dict[str, str] = field(default_factory=dict)
    cuda: dict[str, int] = field(default_factory=dict)
    driver: Driver = field(default_factory=Driver)
    libraries: dict[str, bool] = field(default_factory=dict)


#: What ONNX Runtime's TensorRT provider is linked with.
TENSORRT = "libnvinfer.so.10"
LIBRARIES = ("libcudnn.so.9", "libcublas.so.12", "libcublas.so.13", TENSORRT)


def gather() -> Facts:
    """Look at this machine."""
    told = cpu_told()
    return Facts(
        python=platform.python_version(),
        system=f"{platform.system()} {platform.release()}, {platform.machine()}",
        cpu=told.get("model name") or platform.processor() or "unknown",
        flags=tuple(flag for flag in FLAGS if flag in told.get("flags", "").split()),
        cores=len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1,
        quota=cpu_quota(),
        packages=(packages := installed()),
        cuda={name: major for name in packages if (major := cuda_of(name, requires(name) or ())) is not None},
        driver=find_driver(),
        libraries={name: loads(name) for name in LIBRARIES},
    )


def installed(names: tuple[str, ...] = PACKAGES) -> dict[str, str]:
    """Distribution → version of those that are installed."""
    found = {}
    for name in names:
        try:
            found[name] = version(name)
        except PackageNotFoundError:  # noqa: PERF203
            continue
    return found


def cuda_of(name: str, requirements: Iterable[str]) -> int | None:
    """The CUDA that a distribution is built for, by its own name or those of the libraries that it requires.

    Args:
        name: e.g. ``tensorrt-cu13``.
        requirements: as its metadata have them, e.g. ``nvidia-cuda-runtime~=13.0; extra == "cuda"``.
    """
    for text in (name, *requirements):
        if found := re.match(r"[\w-]*[-_]cu(1[0-9])\b|nvidia-cuda-runtime\s*\(?[~=>]=\s*(1[0-9])\b", text):
            return int(found[1] or found[2])
    return None


def loads(library: str) -> bool:
    """Whether a shared library is found: by the loader, or in one of NVIDIA's packages."""
    try:
        ctypes.CDLL(library)
    except OSError:
        patterns = (f"nvidia/*/lib/{library}", f"tensorrt_libs/{library}")
        places = (Path(entry) for entry in sys.path if entry)
        return any(next(place.glob(pattern), None) for place in places if place.is_dir() for pattern in patterns)
    return True
