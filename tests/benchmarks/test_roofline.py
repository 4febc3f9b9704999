"""The model of cards that are not at hand."""

import json

import pytest
from click.testing import CliRunner

from benchmarks.__main__ import main
from benchmarks.cards import CARDS, Card
from benchmarks.macs import module_macs
from benchmarks.roofline import Work, bounds, least_ms, model, work_of
from pnseg_export.graphs.rewrites import GPU


def test_the_slower_of_arithmetic_and_traffic_bounds_a_graph():
    card = Card(fp32=10, fp16=100, int8=200, bandwidth=1000, source="made up")
    assert least_ms(Work(macs=5 * 10**9, values=1000), card, "FP32") == (pytest.approx(1.0), "arithmetic")
    assert least_ms(Work(macs=1, values=10**9), card, "FP16") == (pytest.approx(2.0), "memory")


def test_no_card_does_more_than_its_rates_allow():
    rows = model("B", 24)
    assert len(rows) == 3 * len(CARDS)
    fp32 = next(row for row in rows if row["card"] == "RTX 3090" and row["precision"] == "FP32")
    # 47 GMACs and the second pass of the decoder, on 35.6 TFLOP/s: not under 2.6 ms.
    assert 2.6 < fp32["least_ms"] < 4
    for row in rows:
        assert row["least_ms"] == pytest.approx(sum(graph["least_ms"] for graph in row["graphs"].values()))
        assert row["fps_allowed"] == pytest.approx(1e3 / row["least_ms"])


@pytest.mark.parametrize(("size", "negatives"), [("B", (1, 0)), ("nano", (0,))])
def test_a_nucleus_is_decoded_as_its_manifest_says_with_one_point_where_there_is_no_negative(size, negatives):
    expected = sum(module_macs(size, 24, each, GPU)["decoder"] for each in negatives)
    assert work_of(size, 24)["decoder"].macs == expected


def test_weights_go_through_the_memory_once_however_many_passes_there_are():
    one, two = (work_of("B", nuclei)["decoder"].values for nuclei in (1, 2))
    # A nucleus more: coordinates of 2 + 1 points, their labels, and two passes' index, mask logits and predicted IoU.
    assert two - one == 3 * 2 + 3 + 2 * (1 + 64 * 64 + 1)


def test_the_page_says_how_often_a_nucleus_is_decoded():
    said = {size: CliRunner().invoke(main, ["roofline", "--size", size]).stdout for size in ("B", "nano")}
    assert "nano, 24 nuclei, each decoded once" in said["nano"]
    assert "each decoded with its negative prompt" in said["B"]
    document = json.loads(CliRunner().invoke(main, ["roofline", "--json"]).stdout)
    assert document["points"] == [2, 1]


def test_what_bounds_graphs_is_said_of_each_only_where_they_differ():
    assert bounds({"encoder": {"bound": "memory"}, "decoder": {"bound": "memory"}}) == "memory"
    both = bounds({"encoder": {"bound": "memory"}, "decoder": {"bound": "arithmetic"}})
    assert both == "memory (encoder); arithmetic (decoder)"
