"""Real engines, built without a GPU; faults that must not pass for one."""

import errno
import importlib.util
import json
import re
import shutil
from pathlib import Path

import onnx
import pytest

from pnseg_export.bundle import export_prompter
from pnseg_export.engines import child, flavours
from pnseg_export.engines.build import BuildChoices, build_engine, build_engines, expected_types, run
from pnseg_export.engines.job import Built, EngineJob
from pnseg_export.engines.profiles import Buckets, profiles
from pnseg_export.engines.targets import DEFAULT_TARGETS, Target, parse_target
from pnseg_export.files import read_graph, write_graph
from pnseg_export.graphs.decoder import DecoderGraph
from pnseg_export.graphs.encoder import EncoderGraph
from pnseg_export.graphs.prompter import PrompterGraph
from pnseg_export.graphs.rewrites import GPU
from pnseg_export.precision.feeds import record
from pnseg_export.precision.float16 import halve
from pnseg_export.precision.int8 import SCHEMES
from pnseg_export.precision.variants import Int8Choices, quantise_graphs
from pnseg_runtime.bundle import SHIPPED, Bundle
from pnseg_runtime.cuda.nvidia import Driver, Gpu
from pnseg_runtime.errors import BackendError, PnsegError
from pnseg_runtime.images import read_image
from tests.export import made
from tests.export.networks import prompter, segmentor

GRAPHS = ("prompter", "encoder", "decoder")
SM86 = parse_target("rtx:sm86")
needs_rtx = pytest.mark.skipif(
    importlib.util.find_spec("tensorrt_rtx") is None,
    reason="needs the extra rtx",
)


def half_bundle(folder: Path, exported: Path) -> Bundle:
    """Networks of nano's size as they are exported for GPUs, in half precision.

    Args:
        exported: a folder with the segmentor's graphs.
    """
    shutil.copytree(SHIPPED / "nano", folder, ignore=shutil.ignore_patterns(".cache"))
    bundle = Bundle.open(folder)
    export_prompter(prompter(), folder.parent, GPU)
    network = segmentor("nano")
    graphs = {}
    for name, graph, place in (
        ("prompter", PrompterGraph(prompter(), GPU), folder.parent),
        ("encoder", EncoderGraph(network, GPU), exported),
        ("decoder", DecoderGraph(network, GPU), exported),
    ):
        half, kept = halve(read_graph(place / f"{name}.onnx"))
        path = folder / f"{name}.float16.onnx"
        graphs[name] = write_graph(half, path, graph.inputs, graph.outputs, "float16", kept)
    return Bundle(folder, bundle.manifest.model_copy(update={"variants": {"float16": graphs}}))


@pytest.fixture(scope="module")
def built(exported, tmp_path_factory) -> Path:
    """nano in half precision with its three engines for SM86."""
    folder = tmp_path_factory.mktemp("engines") / "nano"
    bundle = half_bundle(folder, exported(("nano", "gpu")))
    build_engines(bundle, [SM86], BuildChoices(buckets=Buckets((4,), (64,), 512)))
    return folder


@needs_rtx
@pytest.mark.slow
def test_engines_of_all_three_networks_are_built_and_named_by_the_manifest(built):
    manifest = Bundle.open(built).manifest
    assert [engine.graph for engine in manifest.engines] == list(GRAPHS)
    for engine in manifest.engines:
        assert engine.flavour == "rtx"
        assert engine.architectures == ["sm86"]
        assert f"rtx-sm86-{engine.version}/{engine.graph}.float16.engine" in engine.file
        assert engine.bytes > 1_000_000
        assert (built / engine.log.file).read_text().count("VERBOSE") > 100
        assert set(engine.profiles[0]) == set(engine.inputs)


@needs_rtx
@pytest.mark.slow
def test_the_census_shows_half_precision_and_fused_attention(built):
    engines = {engine.graph: engine for engine in Bundle.open(built).manifest.engines}
    for engine in engines.values():
        assert engine.census["HALF"] > engine.census["FLOAT"], engine.graph
    assert engines["prompter"].layers["GRID_SAMPLE"] == 4
    assert engines["decoder"].attention == 7
    assert engines["decoder"].fused_attention == 7


@needs_rtx
@pytest.mark.slow
def test_the_kernels_of_a_call_are_counted(built):
    engines = {engine.graph: engine for engine in Bundle.open(built).manifest.engines}
    for engine in engines.values():
        assert len(engine.kernels) == len(engine.profiles)
        assert all(20 < count < sum(engine.layers.values()) for count in engine.kernels)


def test_kernels_are_what_the_log_executes_without_waits_and_host_work():
    log = """VERBOSE Layers:
Name: [ShapeHostToDeviceCopy 0], LayerType: ShapeHostToDevice, Inputs: []
Name: __mye1_0_myl1_0, LayerType: shape_call, Inputs: []
Name: conv, with a comma_myl1_1, LayerType: correlation, Inputs: []
Name: __myl_Signal_myl1_2, LayerType: signal, Inputs: []
Name: _gemm_mha_v2_myl1_3, LayerType: kgen, Inputs: []
Name: __myl_Wait_myl3_1, LayerType: wait, Inputs: []
Name: fc_myl3_2, LayerType: gemm, Inputs: []
"""
    assert child.kernels(log, profiles=2) == [2, 1]
    assert child.kernels(log, profiles=1) == [3]  # a network in two parts
    assert child.kernels(log, profiles=3) == []
    assert child.kernels("VERBOSE nothing of the kind", profiles=1) == []


@needs_rtx
@pytest.mark.slow
def test_8_bit_graphs_for_gpus_become_engines_and_those_for_cpus_are_refused(tmp_path):
    shutil.copytree(SHIPPED / "nano", tmp_path / "nano", ignore=shutil.ignore_patterns(".cache"))
    bundle = Bundle.open(tmp_path / "nano")
    feeds = record(bundle, [read_image(next((SHIPPED.parent / "samples").glob("*.png"))).pixels])
    choices = BuildChoices(precision="int8", buckets=Buckets((1,), (32,), 256))
    for name in ("gpu", "cpu"):
        graphs = quantise_graphs(bundle, bundle.folder, feeds, Int8Choices(scheme=SCHEMES[name], search=False))
        made = Bundle(bundle.folder, bundle.manifest.model_copy(update={"variants": {"int8": graphs}}))
        if name == "cpu":
            with pytest.raises(BackendError, match="--int8-for gpu"):
                build_engine(made, "encoder", SM86, choices)
            continue
        engines = {engine.graph: engine for engine in build_engines(made, [SM86], choices).engines}
        assert set(engines) == set(GRAPHS)
        for engine in engines.values():
            assert engine.precision == "int8"
            assert engine.census["INT8"] > 20


@needs_rtx
@pytest.mark.slow
def test_the_engine_file_starts_with_the_librarys_own_header(built):
    trt = pytest.importorskip("tensorrt_rtx")
    for engine in Bundle.open(built).manifest.engines:
        plan = (built / engine.file).read_bytes()
        runtime = trt.Runtime(trt.Logger(trt.Logger.ERROR))
        validity, diagnostics = runtime.get_engine_validity(plan[: runtime.engine_header_size])
        assert validity is not None
        assert diagnostics is not None


def job(model: onnx.ModelProto, folder: Path, **changes) -> EngineJob:
    made.write(model, folder / "made.onnx")
    shape = {"smallest": [1, 3, 32, 32], "tuned": [2, 3, 32, 32], "largest": [4, 3, 32, 32]}
    points = {"smallest": [1, 2], "tuned": [4, 2], "largest": [8, 2]}
    known = {
        "flavour": "rtx",
        "architecture": "sm86",
        "graph": "encoder",
        "precision": "float16",
        "model": str(folder / "made.onnx"),
        "engine": str(folder / "engine"),
        "log": str(folder / "log"),
        "profiles": [{"image": shape, "point_coords": points}],
    }
    return EngineJob.model_validate(known | changes)


@needs_rtx
@pytest.mark.slow
def test_a_float32_graph_does_not_pass_for_a_half_precision_engine(tmp_path):
    with pytest.raises(BackendError, match="float16 engine was asked for, but 0 of its products"):
        run(job(made.layers(), tmp_path), tmp_path, tmp_path)
    assert not (tmp_path / "engine").exists()


@needs_rtx
@pytest.mark.slow
def test_a_graph_with_one_product_less_in_half_precision_is_refused(tmp_path):
    half, _ = halve(made.layers())
    expected, _ = expected_types(half)
    assert expected == 4
    fewer, _ = halve(made.layers(), {"second/Conv": "planted"})
    with pytest.raises(BackendError, match="3 of its products are in half precision and 4"):
        run(job(fewer, tmp_path, half_products=expected), tmp_path, tmp_path)


@needs_rtx
@pytest.mark.slow
def test_a_node_that_the_parser_does_not_take_is_named(tmp_path):
    model, _ = halve(made.layers())
    node = next(node for node in model.graph.node if node.name == "first/Relu")
    node.op_type, node.name = "Det", "first/Det"
    del node.output[:]
    node.output.append("r1")
    (tmp_path / "made.onnx").write_bytes(model.SerializeToString())
    broken = job(made.layers(), tmp_path)
    (tmp_path / "made.onnx").write_bytes(model.SerializeToString())
    with pytest.raises(BackendError, match=r"does not take node first/Det \(Det\)"):
        run(broken, tmp_path, tmp_path)


@pytest.mark.slow
def test_a_builder_that_crashes_takes_nothing_with_it(tmp_path, monkeypatch):
    (tmp_path / "sitecustomize.py").write_text("import os, signal\nos.kill(os.getpid(), signal.SIGSEGV)\n")
    monkeypatch.setenv("PYTHONPATH", str(tmp_path))
    with pytest.raises(BackendError, match=r"crashed \(SIGSEGV\)"):
        run(job(halve(made.layers())[0], tmp_path), tmp_path, tmp_path)


@needs_rtx
def test_engines_of_tensorrt_for_rtx_are_built_to_be_captured_into_graphs(tmp_path, monkeypatch):
    seen = []

    def look(trt, config, target):
        seen.append(config.get_flag(trt.BuilderFlag.REQUIRE_USER_ALLOCATION))
        raise BackendError("seen")

    monkeypatch.setattr(child, "aim", look)
    bundle = Bundle.open("nano")
    shapes = profiles("prompter", bundle.graph("prompter").inputs, Buckets((4,), (64,), 512), 256, 32)
    job = EngineJob(
        flavour="rtx",
        architecture="sm86",
        graph="prompter",
        model=str(bundle.path("prompter")),
        engine=str(tmp_path / "engine"),
        log=str(tmp_path / "log"),
        precision="float32",
        profiles=shapes,
    )
    with pytest.raises(BackendError, match="seen"):
        child.build(job)
    assert seen == [True]


def test_classic_tensorrt_10_is_refused(monkeypatch):
    class Old:
        __version__ = "10.13.0"

    monkeypatch.setattr(flavours, "import_module", lambda _: Old)
    with pytest.raises(BackendError, match=r"10\.13\.0 is too old; install TensorRT 11"):
        flavours.load("tensorrt")


def test_a_library_that_is_not_there_is_named_with_its_remedy(monkeypatch):
    def absent(name):
        raise ImportError(f"No module named {name!r}")

    monkeypatch.setattr(flavours, "import_module", absent)
    with pytest.raises(BackendError, match=r'pip install "pnseg\[rtx\]"'):
        flavours.load("rtx")


def test_the_gpu_that_classic_tensorrt_builds_for_is_the_drivers_first(monkeypatch):
    gpus = (Gpu("RTX A6000", (8, 6), 48.0), Gpu("L40S", (8, 9), 48.0))
    monkeypatch.setattr(flavours, "find_driver", lambda: Driver((13, 0), "580.82", 0, gpus))
    assert flavours.own_architecture() == "sm86"
    for driver in (Driver(), Driver((13, 0), "580.82", 0), Driver((13, 0), "580.82", 803)):
        monkeypatch.setattr(flavours, "find_driver", lambda driver=driver: driver)
        with pytest.raises(BackendError, match=f"but {re.escape(driver.problem)}; .* choose a target like rtx:sm86"):
            flavours.own_architecture()


def test_a_graph_of_another_precision_is_not_built(tmp_path):
    with pytest.raises(PnsegError, match="no float16 graphs"):
        build_engine(Bundle.open(SHIPPED / "nano"), "encoder", SM86, BuildChoices())


def pretend(job, folder, logs):
    """A build that takes no time and no library."""
    Path(job.engine).write_bytes(f"engine of {job.graph} for {job.architecture}".encode())
    Path(job.log).write_text("log")
    return Built(
        version="1.0", architecture=job.architecture, layers={}, census={}, attention=0, fused_attention=0, seconds=0.0,
        memory=0,
    )  # fmt: skip


def test_two_builds_of_one_bundle_keep_each_others_engines(tmp_path, monkeypatch):
    folder = tmp_path / "nano"
    shutil.copytree(SHIPPED / "nano", folder, ignore=shutil.ignore_patterns(".cache"))
    monkeypatch.setattr("pnseg_export.engines.build.run", pretend)
    first, second = Bundle.open(folder), Bundle.open(folder)
    choices = BuildChoices(precision="float32", graphs=("encoder", "decoder"))
    build_engines(first, [SM86], choices)
    manifest = build_engines(second, [parse_target("rtx:sm89")], choices)
    named = {(engine.graph, *engine.architectures) for engine in manifest.engines}
    assert named == {(graph, sm) for graph in ("encoder", "decoder") for sm in ("sm86", "sm89")}
    assert Bundle.open(folder).manifest == manifest
    assert build_engines(first, [SM86], choices).engines != manifest.engines  # built anew: still four, in another order
    assert len(Bundle.open(folder).manifest.engines) == 4


def test_a_rebuilt_engine_never_lies_under_the_old_ones_name_while_its_digest_is_taken(tmp_path, monkeypatch):
    folder = tmp_path / "nano"
    shutil.copytree(SHIPPED / "nano", folder, ignore=shutil.ignore_patterns(".cache"))
    monkeypatch.setattr("pnseg_export.engines.build.run", pretend)
    choices = BuildChoices(precision="float32", graphs=("encoder",))
    build_engines(Bundle.open(folder), [SM86], choices)

    def killed(path, folder):
        raise KeyboardInterrupt

    monkeypatch.setattr("pnseg_export.engines.build.file_entry", killed)
    with pytest.raises(KeyboardInterrupt):
        build_engines(Bundle.open(folder), [SM86], choices)
    assert len(Bundle.open(folder).manifest.engines) == 1


def test_an_engine_whose_manifest_finds_no_room_leaves_the_old_one(tmp_path, monkeypatch):
    folder = tmp_path / "nano"
    shutil.copytree(SHIPPED / "nano", folder, ignore=shutil.ignore_patterns(".cache"))
    monkeypatch.setattr("pnseg_export.engines.build.run", pretend)
    choices = BuildChoices(precision="float32", graphs=("encoder",))
    before = build_engines(Bundle.open(folder), [SM86], choices)

    def other(job, folder, logs):
        built = pretend(job, folder, logs)
        Path(job.engine).write_bytes(b"of another builder")
        return built

    def full(path, *rest, **kept):
        raise OSError(errno.ENOSPC, "No space left on device")

    monkeypatch.setattr("pnseg_export.engines.build.run", other)
    monkeypatch.setattr(Path, "write_text", full)
    with pytest.raises(OSError, match="No space left"):
        build_engines(Bundle.open(folder), [SM86], choices)
    assert Bundle.open(folder).manifest == before


def test_targets_are_a_library_and_a_gpu():
    assert parse_target("RTX:SM86") == Target("rtx", "sm86")
    assert parse_target("tensorrt") == Target("tensorrt")
    assert [parse_target(target).architecture for target in DEFAULT_TARGETS] == ["sm80", "sm86", "sm89", "sm120"]
    for wrong in ("sm86", "rtx", "rtx:sm75", "tensorrt:sm86"):
        with pytest.raises(PnsegError, match="not a target"):
            parse_target(wrong)


def test_buckets_follow_each_other_without_a_gap():
    inputs = {"tokens": ["batch", 256], "point_coords": ["prompts", "points", 2]}
    found = profiles("decoder", inputs, Buckets(batches=(1, 8), prompts=(32, 128), negatives=1), 256, 32)
    spans = [(p["point_coords"].smallest[0], p["point_coords"].largest[0]) for p in found]
    assert spans == [(1, 32), (33, 128)]
    assert all(p["tokens"].largest == [8, 256] for p in found)
    encoder = profiles("encoder", {"image": ["batch", 3, 256, 256]}, Buckets(batches=(1, 8)), 256, 32)
    assert [json.loads(p["image"].model_dump_json())["tuned"][0] for p in encoder] == [1, 8]
