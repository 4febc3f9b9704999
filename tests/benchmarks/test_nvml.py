"""The GPU's part of a machine's description, from a library that answers as NVML does."""

import sys
import types

import pytest

from benchmarks.nvml import read_gpus


def nvml(**answers):
    """A stand-in for the module ``pynvml`` with one GPU; an answer that is an exception is raised."""
    module = types.ModuleType("pynvml")
    module.NVMLError = type("NVMLError", (Exception,), {})
    module.NVML_CLOCK_SM, module.NVML_CLOCK_MEM, module.NVML_TEMPERATURE_GPU = 1, 2, 0
    module.shut = []
    defaults = {
        "nvmlInit": None,
        "nvmlDeviceGetCount": 1,
        "nvmlDeviceGetHandleByIndex": "gpu0",
        "nvmlDeviceGetName": b"NVIDIA GeForce RTX 3090",
        "nvmlSystemGetDriverVersion": "570.86",
        "nvmlSystemGetCudaDriverVersion": 12080,
        "nvmlDeviceGetMemoryInfo": types.SimpleNamespace(total=24 << 30),
        "nvmlDeviceGetClockInfo": 1695,
        "nvmlDeviceGetMaxClockInfo": 2100,
        "nvmlDeviceGetPowerUsage": 341500,
        "nvmlDeviceGetEnforcedPowerLimit": 350000,
        "nvmlDeviceGetTemperature": 83,
        "nvmlDeviceGetCurrentClocksEventReasons": 0x4 | 0x20 | 0x1,
    }

    def verb(answer):
        def call(*arguments):
            if answer is NotImplementedError:
                raise module.NVMLError("not supported")
            return answer

        return call

    for name, answer in (defaults | answers).items():
        setattr(module, name, verb(answer))
    module.nvmlShutdown = lambda: module.shut.append(True)
    return module


def test_a_gpu_tells_clocks_power_driver_and_what_throttles_it(monkeypatch):
    module = nvml()
    monkeypatch.setitem(sys.modules, "pynvml", module)
    (gpu,) = read_gpus()
    assert gpu.name == "NVIDIA GeForce RTX 3090"
    assert (gpu.driver, gpu.cuda, gpu.memory_mib) == ("570.86", "12.8", 24576)
    assert (gpu.sm_mhz, gpu.sm_max_mhz, gpu.power_w, gpu.power_limit_w) == (1695, 2100, 341.5, 350.0)
    assert gpu.throttling == ["power cap", "temperature"]  # idle, bit 0, is no throttling
    assert module.shut == [True]


def test_what_a_driver_does_not_support_is_left_open(monkeypatch):
    module = nvml(
        nvmlDeviceGetPowerUsage=NotImplementedError, nvmlDeviceGetCurrentClocksEventReasons=NotImplementedError
    )
    monkeypatch.setitem(sys.modules, "pynvml", module)  # nor is there the older name of the reasons
    (gpu,) = read_gpus()
    assert gpu.power_w is None
    assert gpu.throttling == []
    assert gpu.sm_mhz == 1695


@pytest.mark.parametrize("module", [None, nvml(nvmlInit=NotImplementedError)], ids=["not installed", "no driver"])
def test_without_library_or_driver_there_is_no_gpu(monkeypatch, module):
    monkeypatch.setitem(sys.modules, "pynvml", module)
    assert read_gpus() == []
