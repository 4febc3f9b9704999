"""The gates: nuclei of the shipped model in lower precision against float32, on real tiles."""

from __future__ import annotations

import importlib.util
from pathlib import Path

import numpy as np
import pytest

from pnseg_export.agreement import Agreement, Finding, agreement, findings
from pnseg_export.precision.feeds import SAMPLES, read_tiles, record
from pnseg_export.precision.int8 import NO_FASTER, SCHEMES
from pnseg_export.precision.overflow import LARGEST_HALF
from pnseg_export.precision.variants import Int8Choices, add_variants, quantise_graphs, sessions_of
from pnseg_runtime.bundle import SHIPPED, Bundle
from pnseg_runtime.errors import BackendError, PnsegError
from pnseg_runtime.metrics import panoptic_quality
from pnseg_runtime.segmenter import Segmenter
from tests.export.tiles import Annotated, everyones, fifty

pytestmark = pytest.mark.slow
REDUCED = ("float16", "int8")


@pytest.fixture(scope="module")
def bundle(tmp_path_factory) -> Bundle:
    """The shipped nano with graphs of both lower precisions, made as ``pnseg quantise`` makes them."""
    out = tmp_path_factory.mktemp("reduced") / "nano"
    add_variants(Bundle.open("nano"), out, REDUCED, read_tiles(SAMPLES))
    return Bundle.open(out)


def found(bundle: Bundle, precision: str, tiles: list[Annotated]) -> list[Finding]:
    return findings(Segmenter(bundle, sessions=sessions_of(bundle, precision)), [tile.image for tile in tiles])


def mean_pq(tiles: list[Annotated], findings: list[Finding]) -> float:
    pairs = zip(tiles, findings, strict=True)
    return float(np.mean([panoptic_quality(tile.labels, f.nuclei.instance_map())["pq"] for tile, f in pairs]))


def judged(bundle: Bundle, tiles: list[Annotated]) -> dict[str, tuple[Agreement, float]]:
    """Precision → its agreement with float32, and the change of PQ."""
    reference = found(bundle, "float32", tiles)
    results = {}
    for precision in REDUCED:
        candidate = found(bundle, precision, tiles)
        results[precision] = agreement(reference, candidate), mean_pq(tiles, candidate) - mean_pq(tiles, reference)
    return results


def check_gates(results: dict[str, tuple[Agreement, float]]) -> None:
    half, change = results["float16"]
    assert half.mean_iou >= 0.995
    assert half.confident_lost == 0
    assert abs(change) <= 0.002
    quantised, change = results["int8"]
    assert quantised.mean_iou >= 0.97
    assert change >= -0.01


def test_on_fifty_tiles_of_four_published_sets(bundle):
    tiles = fifty()
    assert len(tiles) == 50
    check_gates(judged(bundle, tiles))


def test_on_the_tiles_that_everyone_has(bundle):
    """Six small tiles: one nucleus more or less moves their mean PQ by 0.01, so masks and confident points are held."""
    results = judged(bundle, everyones())
    assert results["float16"][0].mean_iou >= 0.995
    assert results["float16"][0].confident_lost == 0
    assert results["int8"][0].mean_iou >= 0.96
    assert min(change for _, change in results.values()) >= -0.02


def test_the_manifest_names_census_kept_layers_and_figures(bundle):
    for precision in REDUCED:
        figures = bundle.manifest.parity[precision]
        assert figures["tiles"] == len(read_tiles(SAMPLES))
        for name, graph in bundle.manifest.variants[precision].items():
            if (precision, name) == ("int8", "decoder"):
                continue
            assert graph.precision == precision
            assert graph.census["float16" if precision == "float16" else "int8"] > 0
    assert any("% of its standard deviation" in why for why in bundle.graph("encoder", "int8").kept.values())
    assert "every LayerNormalization" in bundle.graph("decoder", "float16").kept
    largest = bundle.manifest.parity["float16"]["largest_values"]
    assert set(largest) == {"prompter", "encoder", "decoder"}
    assert all(0 < value < LARGEST_HALF for layers in largest.values() for value in layers.values())


def test_for_a_cpu_the_decoder_stays_in_float32_and_for_a_gpu_it_does_not(bundle, tmp_path):
    decoder, same = bundle.graph("decoder", "int8"), bundle.graph("decoder")
    assert decoder.kept == {"the whole graph": NO_FASTER}
    assert decoder.model_copy(update={"kept": {}}) == same.model_copy(update={"kept": {}})
    feeds = record(bundle, read_tiles(SAMPLES)[:1])
    made = quantise_graphs(bundle, tmp_path, feeds, Int8Choices(SCHEMES["gpu"], search=False))
    assert {name: graph.precision for name, graph in made.items()} == dict.fromkeys(made, "int8")
    assert made["decoder"].census["int8"] > 0


def test_a_precision_that_falls_short_is_not_kept(tmp_path):
    choices = Int8Choices(search=False)  # quantised whole, the stem of nano's backbone costs too much
    with pytest.raises(PnsegError, match=r"0\.97 is needed"):
        add_variants(Bundle.open("nano"), tmp_path / "nano", ["int8"], read_tiles(SAMPLES)[:2], choices)
    assert not list(tmp_path.iterdir())


def test_the_shipped_bundle_is_not_changed_in_place():
    before = (SHIPPED / "nano" / "manifest.json").read_bytes()
    with pytest.raises(PnsegError, match="give a folder with --out"):
        add_variants(Bundle.open("nano"), SHIPPED / "nano", ["float16"], read_tiles(SAMPLES)[:1])
    assert (SHIPPED / "nano" / "manifest.json").read_bytes() == before


@pytest.mark.skipif(importlib.util.find_spec("openvino") is None, reason="needs the extra openvino")
def test_openvino_runs_the_same_8_bit_files(bundle):
    from pnseg_runtime.sessions import open_sessions
    from pnseg_runtime.sessions.cpu import has_vnni

    if not has_vnni():  # a mask IoU of 0.944 was seen
        with pytest.raises(BackendError, match="no 8-bit sums"):
            open_sessions(bundle, "openvino", precision="int8", cache=False)
        return
    tiles = everyones()
    sessions = open_sessions(bundle, "openvino", precision="int8", cache=False)
    theirs = findings(Segmenter(bundle, sessions=sessions), [tile.image for tile in tiles])
    assert agreement(found(bundle, "float32", tiles), theirs).mean_iou > 0.95
    assert agreement(found(bundle, "int8", tiles), theirs).mean_iou > 0.95


def test_files_are_below_the_bundle(bundle):
    for file in bundle.manifest.files():
        assert Path(file.file).parts == (file.file,)
