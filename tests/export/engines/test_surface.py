"""Everything that the code asks of TensorRT is there, in both libraries."""

import importlib.util
import os
import subprocess
import sys
from pathlib import Path

import pytest

from tests.export.engines.surface import missing, names_in, used_names

ROOT = Path(__file__).parents[3]
PACKAGES = ("pnseg_export", "pnseg_runtime")
RTX_ONLY = {"ComputeCapability"}  # what the adapter asks of TensorRT for RTX alone
#: What execution contexts that share their memory need, asked of objects.
MEMORY = {"IExecutionContext.set_device_memory", "ICudaEngine.get_device_memory_size_for_profile_v2"}

# The bindings of classic TensorRT are on PyPI, its libraries are not: these nine functions let the bindings import.
STUB = """
#define S(n) void* n() { return 0; }
S(createInferBuilder_INTERNAL) S(createInferRefitter_INTERNAL) S(createInferRuntime_INTERNAL)
S(createNvOnnxParserRefitter_INTERNAL) S(createNvOnnxParser_INTERNAL) S(getBuilderPluginRegistry)
S(getPluginRegistry) S(initLibNvInferPlugins) int getNvOnnxParserVersion() { return 110400; }
"""


def names() -> set[str]:
    return {name for package in PACKAGES for name in names_in(ROOT / package)}


def test_names_are_read_from_attribute_chains():
    source = "trt.Builder(trt.Logger.Severity.INFO); other.x; a.trt.y; self._trt.Runtime.x; self._trt"
    assert used_names(source) == {"Builder", "Logger.Severity.INFO", "Runtime.x"}


def test_a_name_that_is_not_there_is_found():
    trt = pytest.importorskip("tensorrt_rtx")
    assert missing(trt, {"BuilderFlag.FP16", "BuilderFlag.TF32"}) == {"BuilderFlag.FP16"}


def test_tensorrt_for_rtx_has_all_that_is_used():
    trt = pytest.importorskip("tensorrt_rtx", reason="needs the extra rtx")
    assert len(names()) > 10
    assert "ExecutionContextAllocationStrategy.USER_MANAGED" in names()  # the runtime's are among them
    assert missing(trt, names() | MEMORY) == set()


def test_classic_tensorrt_has_all_that_is_used(tmp_path):
    if importlib.util.find_spec("tensorrt_bindings") is None:
        pytest.skip("tensorrt-cu13-bindings, the bindings of classic TensorRT, are not installed")
    (tmp_path / "stub.c").write_text(STUB)
    for library in ("libnvinfer", "libnvonnxparser", "libnvinfer_plugin"):
        target = tmp_path / f"{library}.so.11"
        command = ["cc", "-shared", "-fPIC", "-o", target, tmp_path / "stub.c", f"-Wl,-soname,{target.name}"]
        subprocess.run(command, check=True)
    script = (
        "import sys, tensorrt_bindings as trt\n"
        "from tests.export.engines.surface import missing\n"
        "print(trt.__version__, sorted(missing(trt, set(sys.argv[1:]))))"
    )
    environment = os.environ | {"LD_LIBRARY_PATH": str(tmp_path), "PYTHONPATH": str(ROOT)}
    wanted = sorted(name for name in names() | MEMORY if name.partition(".")[0] not in RTX_ONLY)
    command = [sys.executable, "-c", script, *wanted]
    done = subprocess.run(command, env=environment, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr[-2000:]
    version, _, absent = done.stdout.strip().partition(" ")
    assert int(version.partition(".")[0]) >= 11
    assert absent == "[]"
