"""NVIDIA's driver, asked through the library that comes with it: no package is needed, and none is imported."""

from __future__ import annotations

import ctypes
import re
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

LIBRARY = "libcuda.so.1"
VERSION_FILE = Path("/proc/driver/nvidia/version")
#: GPUs that TensorRT for RTX builds for, without one being there: its ``ComputeCapability`` in small letters.
RTX_ARCHITECTURES = ("sm80", "sm86", "sm89", "sm120", "sm121")
#: In the sentence for kernels that a driver does not take.
OLD_DRIVER = "it may be older than CUDA 13"

#: What the driver answers most often where it does not work.
DRIVER_ERRORS = {
    3: "not initialised",
    34: "it is the stub that CUDA toolkits link against, not the driver; take its folder off LD_LIBRARY_PATH",
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
        return architecture(self.capability)


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

    @property
    def problem(self) -> str | None:
        """Why nothing runs on a GPU here, in a few words; None if something may."""
        if self.error is None:
            return f"there is no NVIDIA driver here ({LIBRARY} is not found)"
        if self.error:
            reason = DRIVER_ERRORS.get(self.error, "unknown error")
            return f"the NVIDIA driver does not start (error {self.error}, {reason})"
        return None if self.gpus else "the NVIDIA driver finds no GPU"


def architecture(capability: tuple[int, int]) -> str:
    """As engines name it, e.g. ``sm86``."""
    return f"sm{capability[0]}{capability[1]}"


def find_driver(open_library: Callable[[str], ctypes.CDLL] = ctypes.CDLL, version_file: Path = VERSION_FILE) -> Driver:
    """Ask NVIDIA's driver."""
    try:
        found = re.search(r"\b(\d{3}\.\d+(?:\.\d+)?)\b", version_file.read_text(encoding="utf-8", errors="replace"))
    except OSError:
        found = None
    number = found[1] if found else ""
    try:
        library = open_library(LIBRARY)
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
