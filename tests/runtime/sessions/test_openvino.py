"""OpenVINO on the CPU: what it compiles and keeps, and that it gives what ONNX Runtime gives."""

import errno
import shutil
from contextlib import suppress
from io import BytesIO
from pathlib import Path
from threading import Event
from threading import enumerate as enumerate_threads

import numpy as np
import pytest

from pnseg_runtime.bundle import SHIPPED, Bundle
from pnseg_runtime.errors import BackendError
from pnseg_runtime.options import Options
from pnseg_runtime.segmenter import Segmenter
from pnseg_runtime.sessions import Opening, open_sessions
from pnseg_runtime.sessions.auto import run_tile
from pnseg_runtime.sessions.cache import FOLDER
from tests.runtime.made import sample


@pytest.fixture(scope="module")
def nano():
    return Bundle.open("nano")


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


def no_space(*_, **__):
    raise OSError(errno.ENOSPC, "No space left on device")


def filling_up(file, room=100_000):
    """A file on a disk that has room for some bytes more."""
    write = file.write

    def fitting(data):
        return write(data) if file.tell() + len(data) <= room else no_space()

    class Filling:
        def __getattr__(self, name):
            return fitting if name == "write" else getattr(file, name)

        def __enter__(self):
            return self

        def __exit__(self, *_):
            file.close()

    return Filling()


@pytest.mark.parametrize("room", [0, 1_000, 1_000_000])
def test_a_network_that_openvino_could_not_write_whole_is_not_kept(nano, tmp_path, monkeypatch, room):
    pytest.importorskip("pnseg_runtime.sessions.openvino")
    shutil.copytree(SHIPPED / "nano", tmp_path / "nano", ignore=shutil.ignore_patterns(FOLDER))
    opened = Path.open

    def open_(path, mode="r", **how):
        file = opened(path, mode, **how)
        return filling_up(file, room) if mode == "wb" else file

    monkeypatch.setattr(Path, "open", open_)
    bundle = Bundle.open(tmp_path / "nano")
    found = run_tile(bundle, open_sessions(bundle, "openvino", 1))
    assert not list((bundle.folder / FOLDER).iterdir())
    for name, values in run_tile(nano, open_sessions(nano, "openvino", 1)).items():
        np.testing.assert_array_equal(found[name], values, err_msg=name)


@pytest.mark.skipif(not Path("/dev/full").exists(), reason="there is no /dev/full")
def test_openvino_says_when_the_disk_is_full(nano):
    module = pytest.importorskip("pnseg_runtime.sessions.openvino")
    network = module.Network(nano.path("decoder", "float32"), Opening(threads=1, backend="openvino"), None)
    # Closing the file fails once more.
    with suppress(OSError), Path("/dev/full").open("wb") as full, pytest.raises(OSError, match="No space left"):
        network._export(None, {}, full)


def test_openvino_writes_a_compiled_network_to_a_file_as_it_does_to_memory(nano, tmp_path):
    module = pytest.importorskip("pnseg_runtime.sessions.openvino")
    network = module.Network(nano.path("decoder", "float32"), Opening(threads=1, backend="openvino"), None)
    compiled = network._compile(None, {})
    with (tmp_path / "network").open("wb") as file:
        compiled.export_model(module._Into(file))
    compiled.export_model(memory := BytesIO())
    assert (tmp_path / "network").read_bytes() == memory.getvalue()


@pytest.mark.parametrize("refusal", [None, OSError(errno.EINVAL, "Invalid argument"), AttributeError("madvise")])
def test_a_files_pages_are_given_back_while_it_is_read_and_afterwards_even_if_reading_fails(refusal):
    module = pytest.importorskip("pnseg_runtime.sessions.openvino")
    meanwhile, advice, before = Event(), [], []

    class Pages:
        def madvise(self, option):
            advice.append(option)
            meanwhile.set()
            if refusal is not None:
                raise refusal

    def read_what_is_broken():
        with module.giving_back(Pages()):
            assert meanwhile.wait(60)
            before.append(len(advice))
            raise RuntimeError("broken")

    with pytest.raises(RuntimeError, match="broken"):
        read_what_is_broken()
    assert len(advice) > before[0]
    assert set(advice) == {module._PAGE_OUT}
    assert not [thread for thread in enumerate_threads() if thread.name == "pnseg-pages"]


@pytest.mark.parametrize("disk", ["free", "full", "filling up"])
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
        monkeypatch.setattr(module, "TemporaryFile", no_space)
    if disk == "filling up":
        monkeypatch.setattr(module, "TemporaryFile", lambda **_: filling_up((tmp_path / "scratch").open("w+b")))
    own = network.compiled(large, 1)
    assert own.run([large])[0]["region_logits"].shape[2:] == (1024, 1024)
    assert (own.weights is None) == (disk != "free")
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


@pytest.mark.parametrize("side_by_side", [1, 2, 4])
@pytest.mark.parametrize("count", [1, 8, 31, 32, 33, 64, 71, 200])
def test_prompts_are_decoded_side_by_side_in_groups_of_one_size_and_the_rest_together(count, side_by_side):
    module = pytest.importorskip("pnseg_runtime.sessions.openvino")
    inputs = {
        "point_coords": np.arange(2.0 * count).reshape(count, 1, 2),
        "point_labels": np.ones((count, 1)),
        "image_index": np.arange(count),
        "features": np.zeros(3),
    }
    done, alone = [], 0
    for requests, parts in module.in_groups(inputs, side_by_side):
        assert len(parts) == requests
        for given, rows in parts:
            own = rows.stop - rows.start
            for name in ("point_coords", "point_labels", "image_index"):
                np.testing.assert_array_equal(given[name][:own], inputs[name][rows], err_msg=name)
            assert given["features"] is inputs["features"]
            done.extend(range(rows.start, rows.stop))
            if requests > 1:
                assert len(given["image_index"]) == own == module.PROMPTS_SIDE_BY_SIDE
            else:
                alone = own
                assert len(given["image_index"]) == own + -own % module.PROMPT_STEP
                assert (given["image_index"][own:] == given["image_index"][own - 1]).all()
    assert done == list(range(count))
    assert alone == (count if side_by_side == 1 else count % (side_by_side * module.PROMPTS_SIDE_BY_SIDE))


@pytest.mark.parametrize(("wide", "networks", "groups"), [(True, [1, 2], [2, 1]), (False, [1], [1])])
def test_a_wide_decoder_in_openvino_is_opened_for_many_prompts_decodes_them_side_by_side_and_gives_the_same(
    nano, monkeypatch, wide, networks, groups
):
    module = pytest.importorskip("pnseg_runtime.sessions.openvino")
    opened, at_once = [], []
    make, run = module.Network.__init__, module.Compiled.run

    def noted(network, *args):
        opened.append(network)
        make(network, *args)

    def counted(compiled, parts):
        at_once.append(len(parts := list(parts)))
        return run(compiled, parts)

    expected = run_tile(nano, open_sessions(nano, "onnxruntime", 1), prompts=45)
    if wide:
        monkeypatch.setattr(module, "WIDE_DECODER", nano.graph("decoder").bytes)
    monkeypatch.setattr(module.Network, "__init__", noted)
    monkeypatch.setattr(module.Compiled, "run", counted)
    sessions = open_sessions(nano, "openvino", 2)
    (decoder,) = [network for network in opened if network.path.stem == "decoder"]
    assert sorted(requests for _, requests in decoder._kept) == networks
    found = run_tile(nano, sessions, prompts=45)
    assert at_once == [1, 1, *groups]
    for name, values in expected.items():
        np.testing.assert_allclose(found[name], values, rtol=1e-5, atol=2e-3, err_msg=name)


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
