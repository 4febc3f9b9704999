"""TensorRT behind the engine adapter: the names exist in the real library, and every refusal becomes an error."""

import ast
import inspect
import logging
import sys
from dataclasses import replace
from enum import IntEnum
from types import SimpleNamespace

import numpy as np
import pytest
from click.testing import CliRunner

from pnseg_runtime.cli import cli
from pnseg_runtime.cuda import driver, engines, tensorrt
from pnseg_runtime.cuda.driver import Device
from pnseg_runtime.cuda.fitting import open_engines
from pnseg_runtime.cuda.flavours import FLAVOURS
from pnseg_runtime.cuda.nvidia import OLD_DRIVER, Driver, Gpu
from pnseg_runtime.cuda.tensorrt import TensorRTEngine
from pnseg_runtime.errors import BackendError, BundleError
from pnseg_runtime.sessions.cache import keep
from tests.fakes import fake_bundle
from tests.runtime.made import SAMPLES

DTYPES = {"image_index": np.int64}
#: Smallest, tuned and largest shape of the one input.
PROFILES = [((1, 3, 64, 64),) * 3, ((1, 3, 32, 32), (1, 3, 96, 96), (1, 3, 128, 128))]


class Context:
    """An execution context that says no where it is told to."""

    refuses = ""

    def __init__(self):
        self.calls = []

    def set_optimization_profile_async(self, index, stream):
        self.calls.append(("profile", index, stream))
        if self.refuses == "profile raised":  # as the bindings do where memory is lacking
            raise RuntimeError("Error in set optimization profile async.")
        return self.refuses != "profile"

    def set_input_shape(self, name, shape):
        self.calls.append(("shape", name, shape))
        return self.refuses != "shape"

    def infer_shapes(self):
        if self.refuses == "shapes raised":
            raise RuntimeError("Error in infer shapes.")
        return ["image"] if self.refuses == "missing" else []

    def get_tensor_shape(self, name):
        return (-1, 2) if self.refuses == "unknown" else (3, 2)

    def set_device_memory(self, address, size):
        self.calls.append(("memory", address, size))

    def set_tensor_address(self, name, address):
        self.calls.append(("address", name, address))
        return self.refuses != "address"

    def execute_async_v3(self, stream):
        self.calls.append(("run", stream))
        return self.refuses != "run"


class ILogger:
    Severity = IntEnum("Severity", "INTERNAL_ERROR ERROR WARNING INFO VERBOSE", start=0)


class Library(SimpleNamespace):
    """What the adapter uses of TensorRT."""

    def __init__(self, loads=True, gives=True):
        self.contexts = []

        def give(config):
            if gives:
                self.contexts.append(Context())
            return self.contexts[-1] if gives else None

        tensors = {"image": "input", "points": "output"}
        engine = SimpleNamespace(
            num_io_tensors=len(tensors),
            get_tensor_name=list(tensors).__getitem__,
            get_tensor_mode=tensors.get,
            get_tensor_dtype=lambda name: DTYPES.get(name, np.float32),
            num_optimization_profiles=2,
            get_tensor_profile_shape=lambda name, index: PROFILES[index],
            get_device_memory_size_for_profile_v2=lambda index: 1000 + index,
            create_runtime_config=lambda: SimpleNamespace(set_execution_context_allocation_strategy=print),
            create_execution_context=give,
        )
        runtime = SimpleNamespace(deserialize_cuda_engine=lambda content: engine if loads else None)
        super().__init__(
            __version__="1.2.3",
            ILogger=ILogger,
            Runtime=lambda logger: self.loggers.append(logger) or runtime,
            loggers=[],
            TensorIOMode=SimpleNamespace(INPUT="input"),
            ExecutionContextAllocationStrategy=SimpleNamespace(USER_MANAGED=2),
            nptype=lambda kind: kind,
        )


@pytest.fixture
def path(tmp_path):
    file = tmp_path / "prompter.engine"
    file.write_bytes(b"engine")
    return file


def opened(monkeypatch, path, **library):
    monkeypatch.setitem(sys.modules, "tensorrt", made := Library(**library))
    return TensorRTEngine(path, FLAVOURS["tensorrt"]), made


def execution_of(engine, captured=False, scratch=lambda nbytes: 512):
    return engine.execution(7, scratch, captured)


def test_a_network_is_given_shapes_and_addresses_and_put_on_the_stream(monkeypatch, path):
    engine, library = opened(monkeypatch, path)
    assert engine.inputs == {"image": np.float32}
    assert engine.outputs == {"points": np.float32}
    asked = []
    execution = execution_of(engine, scratch=lambda nbytes: asked.append(nbytes) or 512)
    assert execution.prepare({"image": (1, 3, 64, 64)}) == {"points": (3, 2)}
    execution.run({"image": 16, "points": 32})
    assert asked == [1000]
    assert library.contexts[0].calls == [
        ("profile", 0, 7),
        ("shape", "image", (1, 3, 64, 64)),
        ("memory", 512, 1000),
        ("address", "image", 16),
        ("address", "points", 32),
        ("run", 7),
    ]


def test_each_profile_has_a_context_of_its_own_that_is_made_when_it_is_needed(monkeypatch, path):
    engine, library = opened(monkeypatch, path)
    execution = execution_of(engine)
    for side in (64, 128, 64, 96):
        execution.prepare({"image": (1, 3, side, side)})
    taken = [[call for call in context.calls if call[0] != "address"] for context in library.contexts]
    assert taken == [
        [("profile", 0, 7), ("shape", "image", (1, 3, 64, 64))],
        [("profile", 1, 7), ("shape", "image", (1, 3, 128, 128)), ("shape", "image", (1, 3, 96, 96))],
    ]


def test_what_is_captured_has_a_context_for_each_set_of_shapes_which_is_told_only_what_is_new(monkeypatch, path):
    engine, library = opened(monkeypatch, path)
    places = iter([512, 512, 512, 512, 768])
    execution = execution_of(engine, captured=True, scratch=lambda nbytes: next(places))
    for side in (128, 96, 128, 96, 128):
        assert execution.prepare({"image": (1, 3, side, side)}) == {"points": (3, 2)}
        execution.run({"image": 16, "points": 32})
    addresses = [("address", "image", 16), ("address", "points", 32)]
    once = ("memory", 512, 1001), *addresses, ("run", 7), ("run", 7)
    assert [context.calls for context in library.contexts] == [
        [("profile", 1, 7), ("shape", "image", (1, 3, 128, 128)), *once, ("memory", 768, 1001), ("run", 7)],
        [("profile", 1, 7), ("shape", "image", (1, 3, 96, 96)), *once],
    ]


def test_a_network_without_shapes_does_not_run(monkeypatch, path):
    engine, _ = opened(monkeypatch, path)
    with pytest.raises(BackendError, match=r"prompter\.engine.*no shapes"):
        execution_of(engine).run({"image": 16})


def test_a_shape_that_no_profile_takes_is_told_with_those_they_take(monkeypatch, path):
    engine, _ = opened(monkeypatch, path)
    with pytest.raises(BackendError) as caught:
        execution_of(engine).prepare({"image": (1, 3, 256, 256)})
    assert "takes no image of 1×3×256×256, but 1×3×64×64 to 1×3×64×64 or 1×3×32×32 to 1×3×128×128" in str(caught.value)
    assert "pnseg build --side" in str(caught.value)


def test_shapes_that_only_different_profiles_take_are_refused(path):
    profiles = [{"a": ((1,), (1,)), "b": ((1,), (1,))}, {"a": ((2,), (2,)), "b": ((2,), (2,))}]
    with pytest.raises(BackendError, match="takes all of a 1, b 2"):
        engines.profile_of(profiles, {"a": (1,), "b": (2,)}, path)


REFUSALS = ["profile", "profile raised", "shape", "shapes raised", "missing", "unknown", "address", "run"]


@pytest.mark.parametrize("refuses", REFUSALS)
def test_every_refusal_is_an_error_that_names_the_file(monkeypatch, path, refuses):
    engine, _ = opened(monkeypatch, path)
    monkeypatch.setattr(Context, "refuses", refuses)
    execution = execution_of(engine)

    def use():
        execution.prepare({"image": (1, 3, 64, 64)})
        execution.run({"image": 16})

    with pytest.raises(BackendError, match=r"prompter\.engine"):
        use()


def test_all_engines_of_a_library_share_a_logger_that_tells_what_matters(monkeypatch, path, caplog):
    monkeypatch.setitem(sys.modules, "tensorrt", library := Library())
    for _ in range(2):
        TensorRTEngine(path, FLAVOURS["tensorrt"])
    first, second = library.loggers
    assert first is second
    with caplog.at_level(logging.INFO):
        for severity in ILogger.Severity:
            first.log(severity, f"about {severity.name}")
    assert [(record.levelname, record.message) for record in caplog.records] == [
        ("ERROR", "about INTERNAL_ERROR"),
        ("ERROR", "about ERROR"),
        ("WARNING", "about WARNING"),
    ]


class Compiling(Library):
    """A library that compiles kernels when engines run, and keeps them where it is asked to."""

    def __init__(self, accepts=b"kernels", makes=b"kernels"):
        super().__init__()
        self.DynamicShapesKernelSpecializationStrategy = SimpleNamespace(EAGER=1)
        self.given = []
        cache = SimpleNamespace(
            deserialize=lambda content: self.given.append(content) or content == accepts, serialize=lambda: makes
        )
        config = SimpleNamespace(
            set_execution_context_allocation_strategy=print,
            create_runtime_cache=lambda: cache,
            set_runtime_cache=lambda given: given is cache,
        )
        self.Runtime(None).deserialize_cuda_engine(b"").create_runtime_config = lambda: config


def test_compiled_kernels_are_kept_for_the_next_process(monkeypatch, path, tmp_path):
    kept = tmp_path / "kernels"
    flavour = FLAVOURS["rtx"]
    monkeypatch.setitem(sys.modules, "tensorrt_rtx", library := Compiling())
    monkeypatch.setattr(tensorrt, "logger", lambda module: None)
    engine = TensorRTEngine(path, flavour, kept)
    assert library.given == []
    del engine
    assert kept.read_bytes() == b"kernels"
    written = kept.stat().st_ino
    engine = TensorRTEngine(path, flavour, kept)
    assert library.given == [b"kernels"]
    del engine
    assert kept.stat().st_ino == written, "written again though nothing was new"


def test_kernels_that_the_library_does_not_take_are_compiled_and_kept_anew(monkeypatch, path, tmp_path):
    kept = tmp_path / "kernels"
    keep(kept, b"of another GPU")
    monkeypatch.setitem(sys.modules, "tensorrt_rtx", library := Compiling())
    monkeypatch.setattr(tensorrt, "logger", lambda module: None)
    engine = TensorRTEngine(path, FLAVOURS["rtx"], kept)
    assert library.given == [b"of another GPU"]
    del engine
    assert kept.read_bytes() == b"kernels"
    kept.write_bytes(b"half of it")  # which its hash tells
    TensorRTEngine(path, FLAVOURS["rtx"], kept)
    assert b"half of it" not in library.given


def test_an_engine_that_does_not_load_or_has_no_context_is_an_error(monkeypatch, path):
    with pytest.raises(BackendError, match=r"prompter\.engine.*cannot load.*pnseg build"):
        opened(monkeypatch, path, loads=False)
    engine, _ = opened(monkeypatch, path, gives=False)
    with pytest.raises(BackendError, match="out of memory"):
        execution_of(engine).prepare({"image": (1, 3, 64, 64)})


def test_a_bundle_without_engines_and_one_whose_engines_do_not_fit_say_what_is_missing(monkeypatch):
    with pytest.raises(BundleError, match="has no engines"):
        open_engines(fake_bundle(), (8, 6))
    bundle = fake_bundle()
    some = SimpleNamespace(
        flavour="tensorrt", version="1.2.3", architectures=["sm89"], graph="prompter", precision="float32"
    )
    manifest = bundle.manifest.model_copy(update={"engines": [some]})
    monkeypatch.setitem(sys.modules, "tensorrt", Library())
    monkeypatch.setitem(sys.modules, "tensorrt_rtx", None)
    with pytest.raises(BackendError) as caught:
        open_engines(replace(bundle, manifest=manifest), (8, 6), "float32")
    assert "no float32 engine of prompter, encoder, decoder for sm86 and tensorrt 1.2.3" in str(caught.value)
    assert "tensorrt_rtx is not installed" in str(caught.value)


def test_a_library_that_is_there_and_does_not_import_is_not_called_missing(monkeypatch, tmp_path):
    (tmp_path / "tensorrt_rtx.py").write_text("raise ImportError('libcudart.so.13: cannot open shared object file')")
    monkeypatch.syspath_prepend(tmp_path)
    monkeypatch.delitem(sys.modules, "tensorrt_rtx", raising=False)
    monkeypatch.setitem(sys.modules, "tensorrt", None)
    bundle = fake_bundle()
    some = SimpleNamespace(
        flavour="rtx", version="1.2.3", architectures=["sm86"], graph="prompter", precision="float32"
    )
    manifest = bundle.manifest.model_copy(update={"engines": [some]})
    with pytest.raises(BackendError) as caught:
        open_engines(replace(bundle, manifest=manifest), (8, 6), "float32")
    assert "tensorrt_rtx does not import (libcudart.so.13: cannot open shared object file)" in str(caught.value)


def test_the_real_library_has_every_name_that_is_used():
    trt = pytest.importorskip("tensorrt_rtx", reason="tensorrt-rtx is not installed")
    used = {
        ast.unparse(node)
        for node in ast.walk(ast.parse(inspect.getsource(tensorrt)))
        if isinstance(node, ast.Attribute) and ast.unparse(node).startswith("trt.")
    }
    assert "trt.Runtime" in used
    for name in used:
        found = trt
        for part in name.split(".")[1:]:
            found = getattr(found, part)
    assert trt.ExecutionContextAllocationStrategy.USER_MANAGED is not None
    assert {"create_runtime_cache", "set_runtime_cache"} <= set(dir(trt.IRuntimeConfig))
    assert {"serialize", "deserialize"} <= set(dir(trt.IRuntimeCache))
    assert {"INTERNAL_ERROR", "ERROR", "WARNING", "INFO"} <= set(dir(trt.ILogger.Severity))
    assert hasattr(trt.IRuntimeConfig, "set_execution_context_allocation_strategy")
    contexts = {
        "set_optimization_profile_async",
        "set_input_shape",
        "infer_shapes",
        "get_tensor_shape",
        "set_tensor_address",
        "set_device_memory",
        "execute_async_v3",
    }
    assert contexts <= set(dir(trt.IExecutionContext))
    loaded = {
        "num_optimization_profiles",
        "get_tensor_profile_shape",
        "num_io_tensors",
        "get_tensor_name",
        "get_tensor_mode",
        "get_tensor_dtype",
        "create_execution_context",
        "get_device_memory_size_for_profile_v2",
    }
    assert {*loaded, "create_runtime_config"} <= set(dir(trt.ICudaEngine))
    assert hasattr(trt.IRuntimeConfig, "dynamic_shapes_kernel_specialization_strategy")
    assert trt.DynamicShapesKernelSpecializationStrategy.EAGER is not None
    assert hasattr(trt.Runtime, "deserialize_cuda_engine")


@pytest.fixture
def without_pycuda(monkeypatch):
    monkeypatch.setitem(sys.modules, "pycuda", None)
    monkeypatch.setitem(sys.modules, "pycuda.driver", None)


GPU = Driver((13, 0), "580.82", 0, (Gpu("NVIDIA GeForce RTX 3090", (8, 6), 24.0),))


def test_without_pycuda_it_is_told_what_to_install(monkeypatch, without_pycuda):
    monkeypatch.setattr(driver, "find_driver", lambda: GPU)
    with pytest.raises(BackendError, match=r"PyCUDA does not import.*pip install 'pnseg\[tensorrt\]'"):
        Device()


def test_a_driver_that_is_older_than_the_toolkit_of_pycuda_is_told(monkeypatch, tmp_path):
    # As the loader tells it: PyCUDA of CUDA 13 on a driver of CUDA 12.2.
    told = "pycuda/_driver.cpython-311-x86_64-linux-gnu.so: undefined symbol: cuCtxCreate_v4"
    (tmp_path / "pycuda").mkdir()
    (tmp_path / "pycuda" / "__init__.py").touch()
    (tmp_path / "pycuda" / "driver.py").write_text(f"raise ImportError({told!r})\n")
    monkeypatch.syspath_prepend(tmp_path)
    for name in [name for name in sys.modules if name.partition(".")[0] == "pycuda"]:
        monkeypatch.delitem(sys.modules, name)
    monkeypatch.setattr(driver, "find_driver", lambda: replace(GPU, cuda=(12, 2), version="535.54"))
    with pytest.raises(BackendError) as caught:
        Device()
    sys.modules.pop("pycuda")
    for part in (told, OLD_DRIVER, "--force-reinstall --no-deps pycuda"):  # by the second the doctor knows it
        assert part in str(caught.value)


@pytest.mark.parametrize(
    ("found", "told"),
    [
        (Driver(), "no NVIDIA driver here"),
        (replace(GPU, error=803, gpus=()), "does not start (error 803"),
        (replace(GPU, gpus=()), "finds no GPU"),
    ],
)
def test_without_a_gpu_it_is_told_before_packages_are(monkeypatch, without_pycuda, found, told):
    monkeypatch.setattr(driver, "find_driver", lambda: found)
    with pytest.raises(BackendError) as caught:
        Device()
    assert told in str(caught.value)


@pytest.mark.parametrize("backend", ["cuda", "tensorrt"])
def test_predict_with_a_bundle_without_engines_says_how_to_build_them(tmp_path, backend):
    given = ["predict", str(SAMPLES / "he_pink.png"), "--out", str(tmp_path), "--backend", backend]
    result = CliRunner().invoke(cli, given)
    assert result.exit_code == 1
    assert "the bundle has no engines; build them with pnseg build." in result.output
    assert not list(tmp_path.iterdir())
