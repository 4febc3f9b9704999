"""Backends other than ONNX Runtime's CPU provider, and the choice among them."""

import errno
import shutil
from dataclasses import replace
from types import SimpleNamespace

import numpy as np
import pytest

from pnseg_runtime import sessions
from pnseg_runtime.bundle import SHIPPED, Bundle
from pnseg_runtime.errors import BackendError, BundleError
from pnseg_runtime.options import Options
from pnseg_runtime.segmenter import Segmenter
from pnseg_runtime.sessions import BACKENDS, Opening, auto, open_sessions
from pnseg_runtime.sessions.auto import open_fastest, run_tile
from pnseg_runtime.sessions.cache import FOLDER
from tests.runtime.made import sample

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


def test_openvino_gives_what_onnx_runtime_gives(nano):
    pytest.importorskip("openvino")
    expected, found = (run_tile(nano, open_sessions(nano, name, 1)) for name in ("onnxruntime", "openvino"))
    for name, values in expected.items():
        np.testing.assert_allclose(found[name], values, atol=2e-3, err_msg=name)


def test_openvino_fills_up_prompts_and_gives_back_only_those_asked_for(nano):
    pytest.importorskip("openvino")
    opened = open_sessions(nano, "openvino", 1)
    for count in (1, 7, 8, 9):
        assert len(run_tile(nano, opened, prompts=count)["iou"]) == count


@pytest.mark.parametrize("precision", ["float32", "bfloat16"])
def test_openvino_finds_the_nuclei_of_onnx_runtime(nano, precision):
    pytest.importorskip("openvino")
    from pnseg_runtime.metrics import panoptic_quality
    from pnseg_runtime.sessions.cpu import has_bfloat16

    if precision == "bfloat16" and not has_bfloat16():
        pytest.skip("this CPU has no bfloat16 arithmetic")
    pixels = sample("purple_sparse")[:256, :256]
    expected = Segmenter(nano, Options(threads=1)).predict(pixels)
    found = Segmenter(nano, Options(threads=1, precision=precision), "openvino").predict(pixels)
    quality = panoptic_quality(expected.instance_map(), found.instance_map())
    assert quality["pq"] > {"float32": 0.999, "bfloat16": 0.9}[precision]


def test_openvino_compiles_for_a_window_for_any_size_and_for_a_large_image_and_gives_the_same(nano, monkeypatch):
    module = pytest.importorskip("pnseg_runtime.sessions.openvino")
    compiled = []

    def note(method, in_cache):
        make = getattr(module.Network, method)

        def noted(network, shape, *streams):
            compiled.append((network.path.stem, shape and shape[2:], in_cache))
            return make(network, shape, *streams)

        monkeypatch.setattr(module.Network, method, noted)

    note("_keep", True)
    note("_own", False)
    sizes = ((64, 96), (128, 64), (256, 256), (96, 32))
    images = [np.random.default_rng(0).standard_normal((1, 3, *size), np.float32) for size in sizes]
    reference = open_sessions(nano, "onnxruntime", 1)
    expected = [reference.prompter({"image": image}) for image in images]

    monkeypatch.setattr(module, "LARGE", 64 * 96)
    opened = open_sessions(nano, "openvino", 1)
    window = (256, 256)
    assert compiled == [("prompter", window, True), ("encoder", window, True), ("decoder", None, True)]
    del compiled[:]
    for index in (0, 0, 1, 0, 2, 3, 3):
        for name, values in opened.prompter({"image": images[index]}).items():
            np.testing.assert_allclose(values, expected[index][name], atol=2e-3, err_msg=name)
    large = [("prompter", sizes[index], False) for index in (0, 1, 0)]
    assert compiled == [*large, ("prompter", window, True), ("prompter", None, True)]


@pytest.mark.parametrize("disk", ["free", "full"])
def test_a_large_images_network_in_openvino_is_the_only_one_and_leaves_no_file(tmp_path, monkeypatch, disk):
    module = pytest.importorskip("pnseg_runtime.sessions.openvino")
    shutil.copytree(SHIPPED / "nano", tmp_path / "nano", ignore=shutil.ignore_patterns(FOLDER))
    bundle = Bundle.open(tmp_path / "nano")
    network = module.Network(
        bundle.path("prompter", "float32"), Opening(threads=1, backend="openvino"), bundle.folder, "digest"
    )
    network.prepare((1, 3, 64, 64))
    small, large = ({"image": np.full((1, 3, side, side), 0.5, np.float32)} for side in (64, 1024))
    expected = network.compiled(small, 1).run([small])[0]["points"].copy()
    files = sorted((bundle.folder / FOLDER).iterdir())
    if disk == "full":

        def full(**_):
            raise OSError(errno.ENOSPC, "No space left on device")

        monkeypatch.setattr(module, "TemporaryFile", full)
    own = network.compiled(large, 1)
    assert own.run([large])[0]["region_logits"].shape[2:] == (1024, 1024)
    assert (own.weights is None) == (disk == "full")
    assert (list(network._large.values()), network._kept) == ([own], {})
    assert sorted((bundle.folder / FOLDER).iterdir()) == files
    np.testing.assert_array_equal(network.compiled(small, 1).run([small])[0]["points"], expected)


@pytest.mark.parametrize("threads", [1, 2])
@pytest.mark.parametrize("count", [3, 4])
def test_openvino_encodes_every_window_of_a_batch_as_it_does_alone(nano, threads, count):
    pytest.importorskip("openvino")
    encoder = open_sessions(nano, "openvino", threads).encoder
    images = np.random.default_rng(0).standard_normal((count, 3, 256, 256), np.float32)
    alone = [{name: values.copy() for name, values in encoder({"image": image[None]}).items()} for image in images]
    together = encoder({"image": images})
    for index, expected in enumerate(alone):
        for name, values in expected.items():
            np.testing.assert_array_equal(together[name][index : index + 1], values, err_msg=name)


def test_openvino_encodes_windows_side_by_side_and_then_keeps_no_network_for_a_single_one(nano, monkeypatch):
    module = pytest.importorskip("pnseg_runtime.sessions.openvino")
    networks, at_once = [], []
    make, run = module.Network.__init__, module.Compiled.run

    def noted(network, *args):
        networks.append(network)
        make(network, *args)

    def counted(compiled, parts):
        at_once.append(len(parts := list(parts)))
        return run(compiled, parts)

    monkeypatch.setattr(module.Network, "__init__", noted)
    monkeypatch.setattr(module.Compiled, "run", counted)
    encoder = open_sessions(nano, "openvino", 2).encoder
    (network,) = [network for network in networks if network.path.stem == "encoder"]

    def kept(count):
        encoder({"image": np.zeros((count, 3, 256, 256), np.float32)})
        return sorted(streams for _, streams in network._kept)

    assert [kept(1), kept(5), kept(1), kept(4)] == [[1], [2], [1, 2], [1, 2]]
    assert at_once == [1, 2, 2, 1, 1, 2, 2]


def test_when_one_of_several_windows_fails_in_openvino_none_of_them_runs_on():
    module = pytest.importorskip("pnseg_runtime.sessions.openvino")
    waited = []

    class Request:
        def __init__(self, name):
            self.name = name

        def start_async(self, part, share_inputs):
            if part == "bad":
                raise RuntimeError("bad input")

        def wait(self):
            waited.append(self.name)
            if self.name == "a":
                raise RuntimeError("failed late")

    compiled = module.Compiled([Request("a"), Request("b"), Request("c")], [], None)
    with pytest.raises(RuntimeError, match="failed late"):
        compiled.run(["", "", "bad"])
    assert waited == ["b", "a"]


def test_openvino_leaves_out_what_nobody_reads(nano):
    pytest.importorskip("openvino")
    opened = open_sessions(nano, "openvino", 1, leave_out=frozenset({"region_logits"}))
    assert set(opened.prompter({"image": np.zeros((1, 3, 64, 64), np.float32)})) == {"points", "class_logits"}


def test_bfloat16_is_refused_where_the_cpu_has_none(nano, monkeypatch):
    module = pytest.importorskip("pnseg_runtime.sessions.openvino")
    monkeypatch.setattr(module, "has_bfloat16", lambda: False)
    with pytest.raises(BackendError, match=r"bfloat16.*choose float32"):
        open_sessions(nano, "openvino", precision="bfloat16")


@pytest.mark.parametrize(("flags", "refused"), [("avx2 fma", True), ("avx2 avx_vnni", False), ("amx_int8", False)])
def test_int8_is_refused_by_openvino_where_sums_saturate(monkeypatch, flags, refused):
    module = pytest.importorskip("pnseg_runtime.sessions.openvino")
    monkeypatch.setattr("pnseg_runtime.sessions.cpu.cpu", lambda: f"x86_64 a CPU {flags}")
    why = module.problem(Opening(precision="int8", backend="openvino"))
    assert (why is not None) == refused
    if refused:
        assert "choose float32, or onnxruntime" in why


def test_openvinos_reason_is_not_where_its_source_lies():
    module = pytest.importorskip("pnseg_runtime.sessions.openvino")
    error = RuntimeError("Exception from src/core.cpp:117:\nException from src/plugin.cpp:54:\nno such operation.\n")
    assert module.reason(error) == "no such operation"
    assert module.reason(RuntimeError()) == "RuntimeError"


def test_engines_that_are_asked_for_and_not_there_are_an_error():
    from pnseg_runtime import load

    with pytest.raises((BackendError, BundleError)):
        load("nano", backend="cuda")
