"""The model of cards that are not at hand."""

import pytest

from benchmarks.cards import CARDS, Card
from benchmarks.roofline import Work, least_ms, model


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
