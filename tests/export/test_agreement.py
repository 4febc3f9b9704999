"""Nuclei of two models, made by hand and compared, and what falls short of a limit."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest

from pnseg_export import agreement as agreements
from pnseg_export.agreement import Agreement, Finding, agreement, compare, findings, near_pairs
from pnseg_export.gates import Limits, shortfalls
from pnseg_runtime.nuclei import Nuclei, NucleusClass
from pnseg_runtime.prompts import PointPrompts


def finding(points: list[tuple[float, float, float]], squares: list[tuple[int, int, int]]) -> Finding:
    """Points (x, y, score), and nuclei that are squares (x0, y0, side), in 80×120 px."""
    rows = np.array(points, np.float32).reshape(-1, 3)
    boxes = np.array([(x, y, x + side, y + side) for x, y, side in squares], np.int32).reshape(-1, 4)
    count = len(squares)
    nuclei = Nuclei(
        shape=(80, 120),
        points=((boxes[:, :2] + boxes[:, 2:] - 1) / 2).astype(np.float32),
        classes=np.zeros(count, np.int64),
        scores=np.ones(count, np.float32),
        ious=np.ones(count, np.float32),
        boxes=boxes,
        masks=tuple(np.ones((side, side), bool) for _, _, side in squares),
        class_table=(NucleusClass("nucleus", (0, 0, 0)),),
    )
    return Finding(PointPrompts(rows[:, :2], np.zeros(len(rows), np.int64), rows[:, 2]), nuclei)


NOTHING = finding([], [])


def test_what_two_models_find_is_told_in_numbers():
    reference = finding([(10, 10, 0.9), (40, 10, 0.7), (70, 10, 0.6), (10, 40, 0.5)], [(5, 5, 10), (35, 5, 10)])
    candidate = finding([(13, 14, 0.9), (100, 60, 0.8)], [(10, 5, 10), (95, 55, 10), (60, 60, 4)])
    found = compare(reference, candidate)
    assert found.moved.tolist() == [5]
    assert found.lost.tolist() == pytest.approx([0.7, 0.6, 0.5])
    assert found.gained.tolist() == pytest.approx([0.8])
    assert found.pairs.tolist() == [[0, 0]]
    assert found.ious.tolist() == pytest.approx([1 / 3])
    assert agreement([reference, NOTHING], [candidate, NOTHING]).figures() == {
        "tiles": 2,
        "nuclei_reference": 2,
        "nuclei": 3,
        "nuclei_lost": 2,
        "nuclei_gained": 3,
        "points_lost": 3,
        "points_lost_confident": 1,
        "points_gained": 1,
        "points_moved_mean_px": 5.0,
        "points_moved_max_px": 5.0,
        "mask_iou_mean": 0.33333,
        "mask_iou_p5": 0.33333,
        "mask_iou_min": 0.33333,
        "pq_against_reference": 0.0,
    }


def test_figures_of_several_masks_are_their_least_and_nearly_their_least():
    squares = [(0, 0, 10), (30, 0, 10), (60, 0, 10)]
    found = agreement([finding([], squares)], [finding([], [(0, 0, 10), (30, 0, 9), (60, 0, 8)])]).figures()
    assert found["mask_iou_min"] == 0.64
    assert found["mask_iou_p5"] == pytest.approx(0.64 + 0.1 * 0.17, abs=1e-5)
    assert found["mask_iou_mean"] == pytest.approx((1 + 0.81 + 0.64) / 3, abs=1e-5)


def test_without_shared_nuclei_masks_do_not_agree_and_of_no_nuclei_nothing_is_said():
    one, far = finding([(5, 5, 0.9)], [(0, 0, 10)]), finding([(60, 60, 0.9)], [(55, 55, 10)])
    assert agreement([one], [far]).mean_iou == agreement([one], [NOTHING]).mean_iou == 0
    for found in (agreement([NOTHING], [one]), agreement([NOTHING], [NOTHING]), Agreement()):
        assert np.isnan([found.mean_iou, found.share_lost]).all()
        assert found.confident_lost == 0


def test_points_are_near_up_to_six_pixels_and_none_goes_to_one_far_away_for_the_sake_of_others():
    assert [len(rows) for x in (6, 6.01) for rows in near_pairs(np.zeros((1, 2)), np.array([[x, 0]]))] == [1, 1, 0, 0]
    rows, columns = near_pairs(np.array([[0, 0], [100, 0]]), np.array([[5, 0], [-20, 0]]))
    assert (rows.tolist(), columns.tolist()) == ([0], [0])


@pytest.mark.parametrize(
    ("before", "after", "lost", "gained"),
    [
        ([(10, 10)], [(11, 10), (27, 25)], 0, 1),  # the first has its partner nearby
        ([(10, 10), (27, 25)], [(11, 10)], 1, 0),
        ([(5, 5), (27, 25)], [(16, 15)], 1, 0),  # one of two in the mask has it as a partner
        ([(5, 5)], [(27, 16), (16, 25)], 0, 1),
        ([(5, 27)], [(27, 5)], 0, 0),
        ([(5, 33)], [(27, 5)], 1, 1),  # outside
    ],
)
def test_points_of_one_mask_are_partners_one_to_one(before, after, lost, gained):
    mask = [(0, 0, 30)]
    first, second = (finding([(x, y, 0.9) for x, y in points], mask) for points in (before, after))
    found = compare(first, second)
    assert (len(found.lost), len(found.gained)) == (lost, gained)
    assert len(found.moved) == len(before) - lost == len(after) - gained


def test_findings_of_other_tiles_are_not_compared_and_tiles_are_enlarged_each_by_its_own(monkeypatch):
    with pytest.raises(ValueError, match="shorter"):
        agreement([NOTHING, NOTHING], [NOTHING])
    monkeypatch.setattr(agreements, "find", lambda _, tile, times=1.0: (tile, times))
    assert findings(None, ["a", "b"]) == [("a", 1.0), ("b", 1.0)]
    assert findings(None, ["a", "b"], [1.0, 2.0]) == [("a", 1.0), ("b", 2.0)]
    with pytest.raises(ValueError, match="shorter"):
        findings(None, ["a", "b"], [1.0])


def test_what_just_meets_every_limit_does_not_fall_short():
    squares = [(x, y, 10) for y in range(0, 60, 15) for x in range(0, 100, 25)]
    reference = finding([(x, 70, 0.9) for x in range(0, 120, 12)], squares)
    candidate = Finding(reference.points.select(np.arange(9)), finding([], [(x, y, 8) for x, y, _ in squares]).nuclei)
    found = agreement([reference], [candidate])
    met = Limits(iou=0.64, lost=1, share=0.1, gained=0, nuclei=0, agreement=0.64 - 1e-9, pq=0)
    assert shortfalls(found, met) == []
    assert shortfalls(found, replace(met, lost=None)) == []
    assert shortfalls(found, replace(met, iou=0.65, lost=0, share=0.09, agreement=0.65)) == [
        "mean mask IoU 0.6400, at least 0.65 is needed",
        "1 points with a score over 0.6 are lost",
        "10.0% of the points are lost, allowed is 9.0%",
        "PQ against the reference 0.6400, at least 0.65 is needed",
    ]
