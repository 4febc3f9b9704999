"""Backends other than ONNX Runtime's CPU provider, and the choice among them."""

from dataclasses import replace
from types import SimpleNamespace

import numpy as np
import pytest

from pnseg_runtime import sessions
from pnseg_runtime.bundle import Bundle
from pnseg_runtime.errors import BackendError, BundleError
from pnseg_runtime.options import Options
from pnseg_runtime.sessions import BACKENDS, auto, open_sessions
from pnseg_runtime.sessions.auto import open_fastest

GPU_PROVIDERS = [name for name, backend in BACKENDS.items() if backend.module.endswith("providers")]


@pytest.fixture(scope="module")
def nano():
    return Bundle.open("nano")


@pytest.mark.parametrize("name", GPU_PROVIDERS)
def test_a_provider_that_is_asked_for_and_not_there_is_an_error(nano, name):
    with pytest.raises(BackendError, match=rf"{name}: .*{BACKENDS[name].provider}"):
        open_sessions(nano, name)


@pytest.mark.parametrize("name", GPU_PROVIDERS)
def test_a_provider_that_is_listed_but_does_not_start_is_an_error_too(nano, name, monkeypatch):
    # onnxruntime-gpu lists its providers wherever it is installed; a session then falls back to the CPU.
    import onnxruntime

    listed = [BACKENDS[name].provider, "CPUExecutionProvider"]
    monkeypatch.setattr(onnxruntime, "get_available_providers", lambda: listed)
    with pytest.raises(BackendError, match=r"does not start.*pnseg doctor"):
        open_sessions(nano, name)


def test_a_session_that_fell_back_to_the_cpu_is_an_error(nano, monkeypatch):
    import onnxruntime

    real = onnxruntime.InferenceSession
    monkeypatch.setattr(onnxruntime, "get_available_providers", lambda: ["CUDAExecutionProvider"])
    monkeypatch.setattr(
        onnxruntime, "InferenceSession", lambda path, *_, **__: real(path, providers=["CPUExecutionProvider"])
    )
    with pytest.raises(BackendError, match="chose CPUExecutionProvider instead"):
        open_sessions(nano, "onnxruntime-cuda")


@pytest.mark.parametrize(("name", "refused"), [("onnxruntime-cuda", False), ("onnxruntime-tensorrt", True)])
def test_cuda_alone_may_leave_shapes_to_the_cpu_and_pips_libraries_are_loaded_in_silence(
    nano, monkeypatch, capsys, name, refused
):
    import onnxruntime

    seen, loaded = [], []

    def preload():
        print("not found: libcudnn.so.9")
        loaded.append(1)

    def session(path, options, **_):
        try:
            seen.append(options.get_session_config_entry("session.disable_cpu_ep_fallback"))
        except RuntimeError:  # it was not set
            seen.append("0")
        raise RuntimeError("enough")

    monkeypatch.setattr(onnxruntime, "get_available_providers", lambda: [BACKENDS[name].provider])
    monkeypatch.setattr(onnxruntime, "preload_dlls", preload, raising=False)
    monkeypatch.setattr(onnxruntime, "InferenceSession", session)
    with pytest.raises(BackendError, match="does not start"):
        open_sessions(nano, name)
    assert seen == ["1" if refused else "0"]
    assert loaded
    assert capsys.readouterr().out == ""


@pytest.mark.parametrize(("name", "loaded"), [("onnxruntime-tensorrt", ["tensorrt_libs"]), ("onnxruntime-cuda", [])])
def test_pips_tensorrt_is_loaded_before_the_provider_that_is_linked_with_it(nano, monkeypatch, name, loaded):
    import onnxruntime

    order = []

    def session(*_, **__):
        order.append("session")
        raise RuntimeError("enough")

    monkeypatch.setattr("pnseg_runtime.sessions.providers.import_module", order.append)
    monkeypatch.setattr(onnxruntime, "get_available_providers", lambda: [BACKENDS[name].provider])
    monkeypatch.setattr(onnxruntime, "InferenceSession", session)
    with pytest.raises(BackendError, match="does not start"):
        open_sessions(nano, name)
    assert order == [*loaded, "session"]


@pytest.mark.parametrize(("name", "prefix"), [("onnxruntime-tensorrt", "trt"), ("onnxruntime-rtx", "nv")])
def test_providers_that_build_engines_build_them_once_for_all_shapes(nano, monkeypatch, name, prefix):
    import onnxruntime

    given = []

    def session(path, options, providers, **_):
        given.append(providers[0][1])
        return SimpleNamespace(get_providers=lambda: [providers[0][0]], get_outputs=list)

    monkeypatch.setattr(onnxruntime, "get_available_providers", lambda: [BACKENDS[name].provider])
    monkeypatch.setattr(onnxruntime, "InferenceSession", session)
    opened = open_sessions(nano, name)
    prompter, encoder, decoder = (
        [settings[f"{prefix}_profile_{end}_shapes"] for end in ("min", "opt", "max")] for settings in given
    )
    assert prompter == ["image:1x3x32x32", "image:1x3x1024x1024", "image:1x3x2048x2048"]
    assert encoder == ["image:1x3x256x256", "image:8x3x256x256", "image:8x3x256x256"]
    largest = dict(shape.split(":") for shape in decoder[2].split(","))
    assert largest["point_coords"] == "64x5x2"
    assert largest["image_index"] == "64"
    assert largest["image_tokens"] == "8x256x128"
    assert set(largest) == set(nano.graph("decoder", "float32").inputs)
    assert opened.limits is not None
    assert opened.limits.within(Options(window_batch=32, prompt_batch=500)) == Options()


def test_a_precision_that_the_backend_does_not_have_is_told_with_those_it_has(nano):
    with pytest.raises(BackendError, match=r"bfloat16; choose one of float32"):
        open_sessions(nano, "onnxruntime", precision="bfloat16")


def test_a_precision_that_the_bundle_does_not_have_is_told(nano):
    missing = nano.manifest.model_copy(update={"variants": {}})
    with pytest.raises(BundleError, match="no int8 graphs"):
        open_sessions(replace(nano, manifest=missing), "onnxruntime", precision="int8")


def test_networks_take_turns(nano):
    import threading

    from pnseg_runtime.sessions import in_turn

    turn, running, most = threading.Lock(), [0], [0]

    def network(inputs):
        running[0] += 1
        most[0] = max(most[0], running[0])
        threading.Event().wait(0.002)
        running[0] -= 1
        return inputs

    runners = [in_turn(network, turn) for _ in range(3)]
    threads = [threading.Thread(target=run, args=({},)) for run in runners * 4]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert most == [1]


# auto


def test_auto_takes_what_works_and_says_why(nano):
    found = open_sessions(nano, "auto", threads=1)
    assert found.backend in BACKENDS
    assert found.reason.startswith(f"{found.backend} is the fastest that works here")
    assert "not here: onnxruntime-tensorrt" in found.reason


def test_auto_takes_the_fastest_of_a_device(nano, monkeypatch):
    times = {"openvino": 0.5, "onnxruntime": 0.2}
    monkeypatch.setattr(auto, "open_sessions", lambda _, name, *rest: replace(fake(), backend=name))
    monkeypatch.setattr(auto, "tile_seconds", lambda _, found: fail_on_gpu(found, times))
    assert open_fastest(nano).backend == "onnxruntime"
    times["openvino"] = 0.1
    assert open_fastest(nano).backend == "openvino"


def test_auto_compares_the_gpus_alone_where_one_works(nano, monkeypatch):
    times = {"onnxruntime-cuda": 0.9, "openvino": 0.1, "onnxruntime": 0.1}
    monkeypatch.setattr(auto, "open_sessions", lambda _, name, *rest: replace(fake(), backend=name))
    monkeypatch.setattr(auto, "tile_seconds", lambda _, found: fail_on_gpu(found, times))
    assert open_fastest(nano).backend == "onnxruntime-cuda"


def test_auto_passes_over_a_backend_whose_numbers_are_none(nano, monkeypatch):
    real = auto.run_tile

    def broken(bundle, found):
        outputs = real(bundle, found)
        return outputs | {"iou": outputs["iou"] * np.nan} if found.backend == "openvino" else outputs

    monkeypatch.setattr(auto, "run_tile", broken)
    assert open_sessions(nano, "auto", threads=1).backend == "onnxruntime"


def test_auto_with_nothing_that_works_tells_all_reasons(nano, monkeypatch):
    def fail(bundle, name, *rest):
        raise BackendError(f"{name}: broken.")

    monkeypatch.setattr(auto, "open_sessions", fail)
    with pytest.raises(BackendError, match=r"no backend starts \(.*onnxruntime: broken\..*pnseg doctor"):
        open_fastest(nano)


def fake():
    return sessions.Sessions(dict, dict, dict)


def fail_on_gpu(found, times):
    if found.backend not in times:
        raise BackendError(f"{found.backend}: no.")
    return times[found.backend]


# OpenVINO


def test_engines_that_are_asked_for_and_not_there_are_an_error():
    from pnseg_runtime import load

    with pytest.raises((BackendError, BundleError)):
        load("nano", backend="cuda")
