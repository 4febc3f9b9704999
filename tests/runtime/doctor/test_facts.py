import ctypes
import subprocess

import pytest

from pnseg_runtime.cuda.nvidia import Driver, find_driver
from pnseg_runtime.doctor import facts
from pnseg_runtime.doctor.facts import cuda_of, gather, installed, loads
from pnseg_runtime.sessions import cpu

# A stand-in for libcuda.so.1 with the calls that are asked of it.
SOURCE = r"""
#include <stddef.h>
#include <string.h>
int cuDriverGetVersion(int *v) { *v = 12040; return 0; }
int cuInit(unsigned flags) { return INIT; }
int cuDeviceGetCount(int *n) { *n = 2; return 0; }
int cuDeviceGet(int *d, int i) { *d = i; return 0; }
int cuDeviceGetName(char *s, int n, int d) { strncpy(s, d ? "Second" : "First", n); return 0; }
int cuDeviceGetAttribute(int *v, int what, int d) { *v = what == 75 ? 8 : 6 + 3 * d; return 0; }
int cuDeviceTotalMem_v2(size_t *n, int d) { *n = (size_t)24 << 30; return 0; }
"""


def driver_library(folder, answer):
    source, library = folder / "cuda.c", folder / "libcuda.so.1"
    source.write_text(SOURCE)
    try:
        subprocess.run(["gcc", "-shared", "-fPIC", f"-DINIT={answer}", "-o", library, source], check=True)
    except FileNotFoundError:
        pytest.skip("needs gcc")
    return lambda _: ctypes.CDLL(str(library))


def version_file(folder, number):
    path = folder / "version"
    path.write_text(f"NVRM version: NVIDIA UNIX x86_64 Kernel Module  {number}  Thu Jan  1 00:00:00 UTC 2026\n")
    return path


def test_a_driver_tells_its_gpus(tmp_path):
    driver = find_driver(driver_library(tmp_path, 0), version_file(tmp_path, "550.54.15"))
    assert (driver.cuda, driver.version, driver.error) == ((12, 4), "550.54.15", 0)
    assert [(gpu.name, gpu.architecture, gpu.gib) for gpu in driver.gpus] == [
        ("First", "sm86", 24.0),
        ("Second", "sm89", 24.0),
    ]


def test_a_driver_that_does_not_start_tells_why(tmp_path):
    driver = find_driver(driver_library(tmp_path, 803), tmp_path / "none")
    assert driver == Driver((12, 4), "", 803)


def test_a_machine_without_a_driver_has_none(tmp_path):
    def absent(_):
        raise OSError

    assert find_driver(absent, tmp_path / "none") == Driver()
    assert find_driver(absent, version_file(tmp_path, "580.82")) == Driver(version="580.82")


def test_the_quota_of_a_container_is_the_one_that_threads_follow(monkeypatch):
    assert facts.cpu_quota is cpu.cpu_quota
    monkeypatch.setattr(facts, "cpu_quota", lambda: 2.5)
    assert gather().quota == 2.5


def test_only_what_is_installed_has_a_version():
    assert set(installed(("numpy", "no-such-package"))) == {"numpy"}


def test_a_library_that_is_not_there_does_not_load():
    assert not loads("libno_such_library.so.9")


@pytest.mark.parametrize("folder", ["nvidia/cu13/lib", "tensorrt_libs"])
def test_a_library_of_a_package_of_pips_is_found(tmp_path, monkeypatch, folder):
    monkeypatch.syspath_prepend(tmp_path)
    assert not loads("libno_such_library.so.9")
    (tmp_path / folder).mkdir(parents=True)
    (tmp_path / folder / "libno_such_library.so.9").touch()
    assert loads("libno_such_library.so.9")


def test_this_machine_can_be_looked_at():
    facts = gather()
    assert facts.cores >= 1
    assert "numpy" in facts.packages


@pytest.mark.parametrize(("name", "requirements", "cuda"), [
    ("onnxruntime-gpu", ["numpy", 'nvidia-cuda-runtime~=13.0; extra == "cuda"'], 13),
    ("onnxruntime-gpu", ["numpy", 'nvidia-cuda-runtime-cu12~=12.0; extra == "cuda"'], 12),
    ("tensorrt-rtx", ["tensorrt_rtx_cu13==1.7.1.116"], 13),
    ("tensorrt-cu12", [], 12),
    ("onnxruntime", ["numpy>=1.21.6"], None),
])  # fmt: skip
def test_packages_say_which_cuda_they_are_built_for(name, requirements, cuda):
    assert cuda_of(name, requirements) == cuda
