"""Engines as plain networks: how many windows and prompts run, and what is told where nothing can."""

import subprocess
import sys
from concurrent.futures import ThreadPoolExecutor
from contextlib import nullcontext
from dataclasses import replace
from threading import Barrier
from time import sleep

import pytest
from hypothesis import given
from hypothesis import strategies as st

from pnseg_runtime.cuda.nvidia import Driver, Gpu
from pnseg_runtime.errors import BackendError, BundleError
from pnseg_runtime.sessions import CUDA, Opening, default_precision, open_sessions, tensorrt
from pnseg_runtime.sessions.auto import candidates
from pnseg_runtime.sessions.tensorrt import filled_shapes, places
from pnseg_runtime.slide import Model, Options
from tests.fakes import fake_bundle
from tests.runtime.doctor.test_rules import engine

SPANS = [(1, 32), (33, 128), (129, 512)]
GPU = Driver((13, 0), "580.82", 0, (Gpu("NVIDIA GeForce RTX 3090", (8, 6), 24.0),))


def with_engines(*precisions):
    bundle = fake_bundle()
    engines = [engine(precision=precision) for precision in precisions]
    return replace(bundle, manifest=bundle.manifest.model_copy(update={"engines": engines}))


@pytest.mark.parametrize(
    ("count", "spans", "fewest", "runs"),
    [
        (1, SPANS, 16, 16),
        (17, SPANS, 16, 32),
        (33, SPANS, 16, 64),
        (300, SPANS, 16, 512),
        (3, [(1, 1), (2, 8)], 1, 4),
        (5, [(1, 1), (2, 6)], 1, 6),
        (3, [(1, 2), (6, 8)], 1, 6),  # 4 lies between two profiles
        (1, [(20, 40)], 16, 20),
        (5, [(1, 6), (12, 16)], 1, 6),  # 8 lies between; the end of the profile that holds 5 is nearer
        (600, SPANS, 16, 600),  # none takes it: the engine says so
    ],
)
def test_windows_and_prompts_are_filled_up_to_what_a_profile_takes(count, spans, fewest, runs):
    assert places(count, spans, fewest) == runs


@given(
    st.integers(1, 700),
    st.lists(st.tuples(st.integers(1, 600), st.integers(0, 200)), min_size=1, max_size=4),
    st.sampled_from([1, 16]),
)
def test_what_runs_is_enough_and_fits_wherever_something_does(count, drawn, fewest):
    spans = [(least, least + more) for least, more in drawn]
    runs = places(count, spans, fewest)
    assert runs >= count
    if count <= max(most for _, most in spans):
        assert any(least <= runs <= most for least, most in spans)


def test_few_numbers_run():
    assert {places(count, SPANS, 16) for count in range(1, 513)} == {16, 32, 64, 128, 256, 512}


def test_windows_and_prompts_are_filled_up_apart():
    shapes = {"embedding": (3, 256), "point_coords": (5, 2, 2), "image_index": (5,)}
    profile = {
        "embedding": ((1, 256), (8, 256)),
        "point_coords": ((1, 1, 2), (32, 2, 2)),
        "image_index": ((1,), (32,)),
    }
    assert filled_shapes(shapes, [profile]) == {"embedding": (4, 256), "point_coords": (16, 2, 2), "image_index": (16,)}


def test_without_engines_it_is_told_how_to_build_them():
    with pytest.raises(BundleError, match="no engines; build them with pnseg build"):
        open_sessions(fake_bundle(), "tensorrt")


@pytest.mark.parametrize(
    ("driver", "pycuda", "told"),
    [
        (Driver(), True, "there is no NVIDIA driver here"),
        (replace(GPU, error=803, gpus=()), True, "error 803"),
        (replace(GPU, gpus=()), True, "finds no GPU"),
        (GPU, False, "PyCUDA, which runs engines, is not installed; run: pip install 'pnseg[tensorrt]'"),
    ],
)
def test_what_a_machine_lacks_is_one_sentence(monkeypatch, driver, pycuda, told):
    monkeypatch.setattr(tensorrt, "find_driver", lambda: driver)
    monkeypatch.setattr(tensorrt, "find_spec", lambda name: object() if pycuda else None)
    with pytest.raises(BackendError) as caught:
        open_sessions(with_engines("float16"), "tensorrt")
    assert str(caught.value).startswith("tensorrt: ")
    assert told in str(caught.value)
    assert "\n" not in str(caught.value)


def test_without_a_driver_neither_pycuda_nor_tensorrt_is_imported():
    code = (
        "import sys, ctypes;"
        "from pnseg_runtime.sessions import Opening, tensorrt;"
        "assert tensorrt.problem(Opening(backend='tensorrt'));"
        "print(sorted({'pycuda', 'tensorrt', 'tensorrt_rtx'} & set(sys.modules)))"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=False)
    if "AssertionError" in done.stderr:
        pytest.skip("there is an NVIDIA driver here")
    assert done.stdout.strip() == "[]", done.stderr


@pytest.mark.parametrize(
    ("built", "expected"),
    [(("float16",), "float16"), (("int8", "float16"), "float16"), (("float16", "float32"), "float32"), ((), "float32")],
)
def test_the_precision_is_that_of_the_engines_and_the_most_exact_of_several(built, expected):
    manifest = with_engines(*built).manifest
    assert default_precision("tensorrt", manifest) == default_precision(CUDA, manifest) == expected
    assert default_precision("onnxruntime", manifest) == "float32"


def test_auto_tries_the_engines_of_a_bundle_that_has_them():
    tried = [entry.name for entry in candidates("gpu", None, with_engines("float16").manifest)]
    assert tried == ["onnxruntime-tensorrt", "onnxruntime-rtx", "onnxruntime-cuda", "tensorrt"]
    assert "tensorrt" not in [entry.name for entry in candidates("gpu", None, fake_bundle().manifest)]


def test_a_slides_result_depends_on_the_engines_precision():
    bundle = with_engines("float16")
    facts = Model("mine", Options(), "tensorrt").facts(bundle)
    assert facts["options"]["precision"] == "float16"
    assert facts == Model("mine", Options(precision="float16"), "tensorrt").facts(bundle)
    assert Model("mine", Options(), "onnxruntime").facts(bundle)["options"]["precision"] == "float32"


def test_a_slide_refuses_cuda_and_names_the_engines_backend():
    with pytest.raises(BackendError, match=r"whole images.*choose tensorrt"):
        Model("mine", Options(), CUDA)


def test_networks_that_threads_open_at_the_same_time_share_one_context(monkeypatch):
    made, ready = [], Barrier(2)

    class SlowDevice:
        capability = (8, 6)

        def __init__(self, kernels):
            made.append(self)
            sleep(0.1)

        def current(self):
            return nullcontext()

    class Fit:
        def open(self, bundle, graph):
            return graph

    monkeypatch.setattr(tensorrt, "Device", SlowDevice)
    monkeypatch.setattr(tensorrt, "find_engines", lambda *_: Fit())
    monkeypatch.setattr(tensorrt, "Network", lambda device, _: device)

    def open_one(_):
        ready.wait(60)
        return tensorrt.open_network(with_engines("float16"), "encoder", Opening(backend="tensorrt"))

    with ThreadPoolExecutor(2) as pool:
        opened = list(pool.map(open_one, range(2)))
    assert opened[0] is opened[1]
    assert len(made) == 1
