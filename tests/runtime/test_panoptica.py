"""Agreement with panoptica, an independent library, but for the documented edge cases.

Its values were recorded (``tests/data/panoptica.json``), since its requirements exclude those of
other tools used here; where it is installed it is asked as well.
"""

import json

import numpy as np
import pytest

from pnseg_runtime.metrics import evaluate_pair, overlaps
from tests import golden

RECORDED = json.loads((golden.DATA / "panoptica.json").read_text(encoding="utf-8"))
SHARED = ("pq", "dq", "sq", "dice")

EMPTY = np.zeros((8, 8), int)
ONE, OTHER, WHOLE, HALF = (EMPTY.copy() for _ in range(4))
ONE[2:5, 2:5], OTHER[6:8, 6:8], WHOLE[0, :2], HALF[0, :1] = 1, 1, 1, 1
EDGES = {
    "both_empty": (EMPTY, EMPTY),
    "truth_empty": (EMPTY, ONE),
    "prediction_empty": (ONE, EMPTY),
    "apart": (ONE, OTHER),
    "half": (WHOLE, HALF),
}


def pair(name: str):
    maps = golden.arrays("metrics")
    return EDGES[name] if name in EDGES else (maps[f"gt_{name}"], maps[f"pred_{name}"])


# The fifth pair has a nucleus and a prediction with an IoU of exactly one half.
WITH_A_HALF = {"5", "half"}


def at_least_a_half(name: str) -> dict[str, float]:
    """PQ and its factors with pairs of an IoU of one half as matches, as panoptica counts."""
    table = overlaps(*pair(name))
    matched = table.iou[table.iou >= 0.5]
    dq = 2 * len(matched) / (len(table.truth_areas) + len(table.prediction_areas))
    return {"pq": dq * matched.mean(), "dq": dq, "sq": matched.mean()}


@pytest.mark.parametrize("name", sorted(RECORDED.keys() - {"panoptica", "both_empty"}))
def test_values_are_panopticas_but_for_pairs_of_an_iou_of_one_half(name):
    values = evaluate_pair(*pair(name))
    if name in WITH_A_HALF:
        assert values["pq"] != pytest.approx(RECORDED[name]["pq"])
        values |= at_least_a_half(name)
    assert {key: values[key] for key in SHARED} == pytest.approx(RECORDED[name], abs=1e-6)


def test_two_empty_maps_agree_here_and_are_no_number_to_panoptica():
    assert set(RECORDED["both_empty"].values()) == {None}
    assert {evaluate_pair(*pair("both_empty"))[key] for key in SHARED} == {1.0}


@pytest.mark.parametrize("name", [str(index) for index in range(8)])
def test_the_recorded_values_are_those_of_panoptica_where_it_is_installed(name):
    panoptica = pytest.importorskip("panoptica", reason="panoptica's requirements exclude those of import-linter")
    evaluator = panoptica.Panoptica_Evaluator(
        expected_input=panoptica.InputType.UNMATCHED_INSTANCE,
        instance_matcher=panoptica.NaiveThresholdMatching(matching_threshold=0.5),
    )
    truth, prediction = (labels.astype(np.uint16) for labels in pair(name))
    result = evaluator.evaluate(prediction, truth, verbose=False)["ungrouped"]
    found = {"pq": result.pq, "dq": result.rq, "sq": result.sq}
    assert found == pytest.approx({key: RECORDED[name][key] for key in found}, abs=1e-6)
