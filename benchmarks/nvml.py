"""What NVIDIA's management library tells of the GPUs: name, driver, clocks, power, throttling."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from importlib import import_module
from typing import Any

from pydantic import BaseModel, ConfigDict

#: What holds the clocks down → NVML's bit. ``idle`` and the user's own settings are not among them.
THROTTLING = {
    "power cap": 0x4,
    "hardware slowdown": 0x8,
    "temperature": 0x20,
    "hardware temperature": 0x40,
    "hardware power brake": 0x80,
}


class Gpu(BaseModel):
    """One GPU at one moment; None where the driver does not tell.

    Attributes:
        name: e.g. ``"NVIDIA GeForce RTX 3090"``.
        driver, cuda: versions.
        memory_mib: in all.
        sm_mhz, memory_mhz: clocks now; sm_max_mhz, memory_max_mhz: the highest they can be.
        power_w, power_limit_w: watts.
        temperature_c: °C.
        throttling: what holds the clocks down now, of :data:`THROTTLING`.
    """

    model_config = ConfigDict(extra="forbid", frozen=True)

    name: str
    driver: str | None = None
    cuda: str | None = None
    memory_mib: int | None = None
    sm_mhz: int | None = None
    sm_max_mhz: int | None = None
    memory_mhz: int | None = None
    memory_max_mhz: int | None = None
    power_w: float | None = None
    power_limit_w: float | None = None
    temperature_c: int | None = None
    throttling: list[str] = []


def read_gpus() -> list[Gpu]:
    """Every GPU now; none without the package ``nvidia-ml-py``, a driver or a GPU."""
    with _library() as nvml:
        if nvml is None:
            return []
        return [_read(nvml, nvml.nvmlDeviceGetHandleByIndex(i)) for i in range(nvml.nvmlDeviceGetCount())]


@contextmanager
def _library() -> Iterator[Any]:
    try:
        nvml = import_module("pynvml")
        nvml.nvmlInit()
    except Exception:  # not installed, or no driver; the package's error class is not at hand in the first case
        yield None
        return
    try:
        yield nvml
    finally:
        nvml.nvmlShutdown()


def _read(nvml: Any, device: Any) -> Gpu:
    def ask(verb: str, *arguments: Any) -> Any:
        try:
            return getattr(nvml, verb)(*arguments)
        except (nvml.NVMLError, AttributeError):
            return None

    memory = ask("nvmlDeviceGetMemoryInfo", device)
    power, limit = ask("nvmlDeviceGetPowerUsage", device), ask("nvmlDeviceGetEnforcedPowerLimit", device)
    cuda = ask("nvmlSystemGetCudaDriverVersion")
    reasons = ask("nvmlDeviceGetCurrentClocksEventReasons", device)
    if reasons is None:
        reasons = ask("nvmlDeviceGetCurrentClocksThrottleReasons", device)
    sm, dram = nvml.NVML_CLOCK_SM, nvml.NVML_CLOCK_MEM
    return Gpu(
        name=_text(ask("nvmlDeviceGetName", device)) or "unknown",
        driver=_text(ask("nvmlSystemGetDriverVersion")),
        cuda=None if cuda is None else f"{cuda // 1000}.{cuda % 1000 // 10}",
        memory_mib=None if memory is None else memory.total >> 20,
        sm_mhz=ask("nvmlDeviceGetClockInfo", device, sm),
        sm_max_mhz=ask("nvmlDeviceGetMaxClockInfo", device, sm),
        memory_mhz=ask("nvmlDeviceGetClockInfo", device, dram),
        memory_max_mhz=ask("nvmlDeviceGetMaxClockInfo", device, dram),
        power_w=None if power is None else power / 1e3,
        power_limit_w=None if limit is None else limit / 1e3,
        temperature_c=ask("nvmlDeviceGetTemperature", device, nvml.NVML_TEMPERATURE_GPU),
        throttling=[name for name, bit in THROTTLING.items() if (reasons or 0) & bit],
    )


def _text(value: str | bytes | None) -> str | None:
    return value.decode() if isinstance(value, bytes) else value
