from pathlib import Path

import numpy as np
import pytest
from click.testing import CliRunner

from benchmarks import latency
from benchmarks.latency import (
    SAMPLES,
    cache_of_one,
    keeps,
    open_calls,
    ratios,
    same_pixels,
    sample_image,
    sample_tile,
    show,
    summary,
    without_int8,
)
from benchmarks.limit import macs_a_second, macs_of_calls
from benchmarks.networks import random_pair
from benchmarks.plain import PlainSegmenter, eager_networks
from benchmarks.promptnucseg import manifest_for
from benchmarks.protocol import Latency, Row
from pnseg_export.macs import file_cost
from pnseg_export.precision.feeds import read_tiles
from pnseg_export.precision.variants import Int8Choices, add_variants
from pnseg_runtime.bundle import SHIPPED, Bundle
from pnseg_runtime.options import Options
from pnseg_runtime.segmenter import Segmenter
from pnseg_runtime.sessions import Sessions, open_sessions
from pnseg_train.inference import torch_sessions


@pytest.mark.parametrize(("height", "width"), [(256, 256), (300, 420)])
def test_the_plain_pipeline_gives_the_runtimes_instance_map(height, width, tmp_path):
    prompter, segmentor = random_pair("nano")
    manifest = manifest_for("nano")
    prompting = manifest.prompting.model_copy(update={"sensitivity": 0.3, "pad_multiple": 32, "nms_radius": 24})
    manifest = manifest.model_copy(update={"prompting": prompting})
    image = sample_image(500)[:height, :width]
    plain = PlainSegmenter(eager_networks(prompter, segmentor), manifest)(image)
    runtime = Segmenter(
        Bundle(tmp_path, manifest), Options(assignment="all"), sessions=torch_sessions(prompter, segmentor)
    )
    found = runtime.predict(image).instance_map()
    assert len(np.unique(plain)) > 5
    assert same_pixels(plain, found) > 0.999


def test_instance_maps_agree_whatever_their_numbers():
    first = np.array([[0, 1, 1], [2, 2, 0]], np.int32)
    assert same_pixels(first, first) == 1
    assert same_pixels(first, np.array([[0, 7, 7], [3, 3, 0]], np.int32)) == 1
    assert same_pixels(first, np.array([[0, 7, 7], [3, 3, 3]], np.int32)) == pytest.approx(5 / 6)


def test_ratios_are_those_of_the_rounds():
    found = ratios(Latency.of([2.0, 4.0, 6.0]), Latency.of([1.0, 1.0, 2.0]))
    assert found["p50"] == 3


def test_the_images_are_real_tissue_of_the_wanted_size():
    assert sample_tile().shape == (256, 256, 3)
    assert sample_image().shape == (1000, 1000, 3)
    assert sample_image().std() > 20


def row(run: str, milliseconds: float, pq: float = 1.0) -> Row:
    taken = Latency.of([milliseconds / 1e3])
    against = ratios(Latency.of([1.0]), taken)
    extra = {
        "against_eager": against,
        "against_plain_graphs": against,
        "nuclei": 3,
        "same_pixels": 1.0,
        "pq": pq,
        "share_of_limit": 0.5,
    }
    return Row(method="tile", run=run, latency=taken, **extra)


def test_the_ratios_that_count_are_of_equal_masks_and_of_precisions_that_keep_nanos_nuclei(monkeypatch, capsys):
    monkeypatch.setattr(latency, "keeps", lambda backend, precision, threads: precision == "bfloat16")
    rows = [
        row(latency.EAGER, 1000),
        row("pnseg, ONNX Runtime float32", 500),
        row("pnseg, OpenVINO float32", 100, pq=0.5),
        row("pnseg, OpenVINO bfloat16", 250, pq=0.5),
        row("pnseg, OpenVINO int8", 50),
    ]
    assert summary(rows, threads=2) == {"tile_fp32": 2.0, "tile_reduced": 4.0}
    assert summary(rows[:1], threads=2) == {"tile_fp32": None, "tile_reduced": None}
    show(rows, to_stderr=True)
    shown = capsys.readouterr()
    assert shown.out == ""
    assert "OpenVINO bfloat16" in shown.err


def test_eight_bit_runs_that_are_left_out_have_a_reason():
    nano = Bundle.open("nano")
    with_graphs = nano.manifest.model_copy(update={"variants": {"int8": nano.manifest.graphs}})
    assert without_int8(Bundle(Path("made"), with_graphs), wanted=True) == ""
    assert without_int8(Bundle(Path("made"), with_graphs), wanted=False) == "--no-int8"
    assert without_int8(Bundle(Path("made"), nano.manifest), wanted=True).startswith(
        "made: made with --no-int8; remove"
    )


def test_a_folder_without_eight_bit_graphs_says_so(tmp_path, monkeypatch, capsys):
    monkeypatch.setattr(latency, "planted_pair", lambda *_: ())
    monkeypatch.setattr(latency, "eager_networks", lambda: None)
    for place in ("runtime", "plain"):
        (tmp_path / place).symlink_to(SHIPPED / "nano")
    calls, _ = open_calls("nano", tmp_path, sample_tile(), 5, 1)
    said = capsys.readouterr().err.splitlines()
    for name in ("pnseg, OpenVINO int8", "pnseg, ONNX Runtime int8"):
        assert name not in calls
        assert f"{name}: left out ({tmp_path / 'runtime'}: made with --no-int8; remove it" in "".join(said)


@pytest.mark.slow
def test_eight_bits_count_where_sensitive_layers_stay_in_float_and_not_where_all_are_quantised(monkeypatch):
    def of_every_layer(folder: Path) -> Bundle:
        add_variants(Bundle.open("nano"), folder, ["int8"], read_tiles(SAMPLES), Int8Choices(search=False), accept=True)
        return Bundle.open(folder)

    assert keeps("onnxruntime", "int8", 1)
    keeps.cache_clear()
    monkeypatch.setattr(latency, "eight_bit_nano", of_every_layer)
    assert not keeps("onnxruntime", "int8", 1)
    keeps.cache_clear()


def test_the_work_is_that_of_the_calls_that_are_made_without_what_nobody_reads():
    bundle = Bundle.open("nano")
    sessions = open_sessions(bundle, threads=1)
    image = sample_image(256)
    without_region, whole = frozenset({"region_logits"}), frozenset[str]()

    def once(counted: Sessions) -> None:
        Segmenter(bundle, Options(region_filter=False), sessions=counted).predict(image)

    def twice(counted: Sessions) -> None:
        once(counted)
        once(counted)

    work = macs_of_calls(bundle, sessions, without_region, once)
    prompts = len(Segmenter(bundle, Options(region_filter=False), sessions=sessions).pipeline.find_points(image))
    sizes = {"batch": 1, "height": 256, "width": 256, "prompts": prompts, "points": 1}
    assert work < sum(file_cost(bundle.path(graph), sizes).macs for graph in bundle.manifest.graphs)
    assert macs_of_calls(bundle, sessions, whole, once) > work
    assert macs_of_calls(bundle, sessions, without_region, twice) == 2 * work


def test_a_large_product_has_a_rate():
    assert 1e9 < macs_a_second(threads=1, tries=1) < 1e14


def test_something_must_be_left_to_time():
    done = CliRunner().invoke(latency.latency, ["--rounds", "0", "--image-rounds", "0"])
    assert done.exit_code == 2
    assert "--image-rounds" in done.output


def test_a_network_that_is_asked_the_same_runs_once():
    asked = []

    def network(inputs):
        asked.append(inputs)
        return {"points": np.zeros(3)}

    remembered = cache_of_one(network)
    first, second = remembered({"image": np.ones(1)}), remembered({"image": np.ones(1)})
    assert first["points"] is second["points"]
    assert len(asked) == 1
