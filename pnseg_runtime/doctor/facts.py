"""What is on this machine, looked up without importing what may not import."""

from __future__ import annotations

import ctypes
import os
import platform
import re
import sys
from collections.abc import Callable
from dataclasses import dataclass, field
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path

from pnseg_runtime.sessions.cache import cpu_told

#: Packages whose versions decide what works; of those with several names the first that is installed counts.
PACKAGES = (
    "pnseg",
    "numpy",
    "onnxruntime",
    "onnxruntime-gpu",
    "openvino",
    "tensorrt",
    "tensorrt-cu12",
    "tensorrt-cu13",
    "tensorrt-rtx",
    "pycuda",
    "nvidia-cudnn-cu12",
    "nvidia-cudnn-cu13",
    "nvidia-cublas-cu12",
    "nvidia-cublas",
    "torch",
)
#: Instructions that decide how fast a network runs here.
FLAGS = ("avx2", "avx512f", "avx512_vnni", "avx_vnni", "avx512_bf16", "amx_int8", "amx_bf16")
DRIVER = "libcuda.so.1"
VERSION_FILE = Path("/proc/driver/nvidia/version")

#: What the driver answers most often where it does not work.
DRIVER_ERRORS = {
    3: "not initialised",
    35: "older than the CUDA that asks",
    100: "no GPU",
    101: "no such GPU",
    802: "the system is not ready yet",
    803: "its parts have different versions; the machine has not been restarted since an update",
    804: "it has no forward compatibility on this GPU",
    999: "unknown error",
}


@dataclass(frozen=True)
class Gpu:
    """A GPU as the driver tells it.

    Attributes:
        name: its model.
        capability: (major, minor).
        gib: its memory.
    """

    name: str
    capability: tuple[int, int]
    gib: float

    @property
    def architecture(self) -> str:
        """As engines name it, e.g. ``sm86``."""
        return f"sm{self.capability[0]}{self.capability[1]}"


@dataclass(frozen=True)
class Driver:
    """The NVIDIA driver.

    Attributes:
        cuda: newest CUDA that it serves, (major, minor); None where the library is not there.
        version: of the kernel's part, e.g. ``"580.82"``.
        error: what its library answers when it is started; 0 is success, None where it is not there.
        gpus: what it finds.
    """

    cuda: tuple[int, int] | None = None
    version: str = ""
    error: int | None = None
    gpus: tuple[Gpu, ...] = ()


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
    driver: Driver = Driver()
    libraries: dict[str, bool] = field(default_factory=dict)


LIBRARIES = ("libcudnn.so.9", "libcublas.so.12", "libcublas.so.13")


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
        packages=installed(),
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


def cpu_quota(root: Path = Path("/sys/fs/cgroup")) -> float | None:
    """Cores that a container may use at a time, None without a limit."""
    try:
        quota, period = (root / "cpu.max").read_text(encoding="ascii").split()
        return None if quota == "max" else int(quota) / int(period)
    except (OSError, ValueError):
        return None


def loads(library: str) -> bool:
    """Whether a shared library is found: by the loader, or in one of NVIDIA's packages."""
    try:
        ctypes.CDLL(library)
    except OSError:
        places = (Path(entry) / "nvidia" for entry in sys.path if entry)
        return any(next(place.glob(f"*/lib/{library}"), None) for place in places if place.is_dir())
    return True


def find_driver(open_library: Callable[[str], ctypes.CDLL] = ctypes.CDLL, version_file: Path = VERSION_FILE) -> Driver:
    """Ask NVIDIA's driver, through the library that comes with it."""
    try:
        found = re.search(r"\b(\d{3}\.\d+(?:\.\d+)?)\b", version_file.read_text(encoding="utf-8", errors="replace"))
    except OSError:
        found = None
    number = found[1] if found else ""
    try:
        library = open_library(DRIVER)
    except OSError:
        return Driver(version=number)
    cuda = ctypes.c_int()
    library.cuDriverGetVersion(ctypes.byref(cuda))
    serves = (cuda.value // 1000, cuda.value % 1000 // 10)
    if error := library.cuInit(0):
        return Driver(serves, number, int(error))
    count = ctypes.c_int()
    library.cuDeviceGetCount(ctypes.byref(count))
    return Driver(serves, number, 0, tuple(_gpu(library, index) for index in range(count.value)))


def _gpu(library: ctypes.CDLL, index: int) -> Gpu:
    device, major, minor = ctypes.c_int(), ctypes.c_int(), ctypes.c_int()
    name, size = ctypes.create_string_buffer(128), ctypes.c_size_t()
    library.cuDeviceGet(ctypes.byref(device), index)
    library.cuDeviceGetName(name, len(name), device)
    library.cuDeviceGetAttribute(ctypes.byref(major), 75, device)  # CU_DEVICE_ATTRIBUTE_COMPUTE_CAPABILITY_MAJOR
    library.cuDeviceGetAttribute(ctypes.byref(minor), 76, device)  # … MINOR
    library.cuDeviceTotalMem_v2(ctypes.byref(size), device)
    return Gpu(name.value.decode(errors="replace"), (major.value, minor.value), size.value / 2**30)
