import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra.numpy import arrays
from scipy.optimize import linear_sum_assignment
from scipy.spatial.distance import cdist

from pnseg_runtime.metrics import (
    _assign,
    aggregated_jaccard,
    aggregated_jaccard_plus,
    dice,
    ensemble_dice,
    evaluate_pair,
    match_points,
    overlaps,
    panoptic_quality,
    panoptic_quality_of_classes,
)
from tests import golden

label_maps = arrays(np.int32, (6, 7), elements=st.integers(0, 5))


@pytest.mark.parametrize("index", range(8))
def test_values_are_those_of_the_reference_implementation(index):
    maps = golden.arrays("metrics")
    expected = golden.document("metrics")[str(index)]
    table = overlaps(maps[f"gt_{index}"], maps[f"pred_{index}"])
    assert len(table.truth_areas) == expected["n_gt"]
    assert len(table.prediction_areas) == expected["n_pred"]
    values = evaluate_pair(maps[f"gt_{index}"], maps[f"pred_{index}"])
    assert values == pytest.approx({name: expected[name] for name in values}, abs=1e-6)


def test_each_metric_alone_is_the_one_of_the_whole_evaluation():
    maps = golden.arrays("metrics")
    truth, prediction = maps["gt_3"], maps["pred_3"]
    values = evaluate_pair(truth, prediction)
    assert panoptic_quality(truth, prediction) == {name: values[name] for name in ("pq", "dq", "sq")}
    assert aggregated_jaccard(truth, prediction) == values["aji"]
    assert aggregated_jaccard_plus(truth, prediction) == values["aji_plus"]
    assert dice(truth, prediction) == values["dice"]
    assert ensemble_dice(truth, prediction) == values["dice2"]


EMPTY, ONE = np.zeros((4, 4), int), np.pad(np.ones((2, 2), int), 1)
ELSEWHERE = np.zeros((4, 4), int)
ELSEWHERE[0, 0] = 9


def test_two_empty_maps_agree():
    assert set(evaluate_pair(EMPTY, EMPTY).values()) == {1.0}


@pytest.mark.parametrize(("truth", "prediction"), [(EMPTY, ONE), (ONE, EMPTY), (ONE, ELSEWHERE)])
def test_maps_that_share_nothing_score_zero(truth, prediction):
    assert set(evaluate_pair(truth, prediction).values()) == {0.0}


def test_an_iou_of_exactly_one_half_is_no_match():
    truth, prediction = np.zeros((1, 4), int), np.zeros((1, 4), int)
    truth[0, :2], prediction[0, :1] = 1, 1
    assert panoptic_quality(truth, prediction)["pq"] == 0


def test_nuclei_match_in_their_class_alone_and_above_an_iou_of_one_half():
    truth, prediction = np.arange(1, 4).repeat(4).reshape(3, 4), np.arange(1, 4).repeat(4).reshape(3, 4)
    prediction[1, 2:] = 0
    table, kinds, found = overlaps(truth, prediction), np.array([0, 0, 1]), np.array([0, 0, 2])
    assert panoptic_quality_of_classes(table, kinds, found) == {0: 0.5, 1: 0.0}


def test_maps_of_different_shapes_and_negative_labels_are_refused():
    with pytest.raises(ValueError, match="shape"):
        evaluate_pair(EMPTY, np.zeros((3, 4), int))
    for labels in (np.full((4, 4), -1), np.where(ONE, 10**9, -1)):
        with pytest.raises(ValueError, match="must not have negative labels"):
            evaluate_pair(EMPTY, labels)


@given(label_maps)
def test_a_map_agrees_with_itself(labels):
    assert set(evaluate_pair(labels, labels).values()) == {1.0}


@given(label_maps, label_maps, st.sets(st.integers(1, 2**31 - 1), min_size=5, max_size=5))
def test_gaps_between_labels_do_not_matter(truth, prediction, names):
    renamed = np.array([0, *sorted(names)], np.int32)[prediction]
    assert evaluate_pair(truth, renamed) == evaluate_pair(truth, prediction)


@given(label_maps, label_maps)
def test_values_agree_with_masks_compared_one_by_one(truth, prediction):
    truths = [truth == label for label in np.unique(truth) if label]
    predictions = [prediction == label for label in np.unique(prediction) if label]
    values = evaluate_pair(truth, prediction)
    if not truths or not predictions:
        assert set(values.values()) == {float(not truths and not predictions)}
        return
    intersection = np.array([[(a & b).sum() for b in predictions] for a in truths])
    union = np.array([[(a | b).sum() for b in predictions] for a in truths])
    iou = intersection / union

    matched = iou[iou > 0.5]
    assert values["pq"] == pytest.approx(2 * matched.sum() / (len(truths) + len(predictions)))

    above, below, used = 0, sum(mask.sum() for mask in predictions), set()
    for row, best in enumerate(iou.argmax(axis=1)):
        if intersection[row, best] == 0:
            below += truths[row].sum()
            continue
        above += intersection[row, best]
        below += union[row, best] - (predictions[best].sum() if best not in used else 0)
        used.add(best)
    assert values["aji"] == pytest.approx(above / below)

    table = overlaps(truth, prediction)
    paired = _assign(table.truth, table.prediction, table.iou)
    assert table.iou[paired].sum() == pytest.approx(iou[linear_sum_assignment(iou, maximize=True)].sum())
    assert len(set(table.truth[paired])) == len(set(table.prediction[paired])) == len(paired)
    shared = intersection[table.truth[paired], table.prediction[paired]].sum()
    total = sum(mask.sum() for mask in truths) + sum(mask.sum() for mask in predictions)
    assert values["aji_plus"] == pytest.approx(shared / (total - shared))

    touching = intersection > 0
    areas = np.array([[a.sum() + b.sum() for b in predictions] for a in truths])
    expected = 2 * intersection.sum() / areas[touching].sum() if touching.any() else 0
    assert values["dice2"] == pytest.approx(expected)
    assert values["dice"] == pytest.approx(2 * intersection.sum() / ((truth > 0).sum() + (prediction > 0).sum()))


points = arrays(np.float64, st.tuples(st.integers(0, 8), st.just(2)), elements=st.integers(0, 40).map(float))


@given(points, points)
def test_points_are_matched_one_to_one_within_the_radius_and_as_many_as_can_be(truth, prediction):
    matches = match_points(truth, prediction, radius=12)
    first, second = matches.pairs.T
    assert len(set(first)) == len(first)
    assert len(set(second)) == len(second)
    assert (np.linalg.norm(truth[first] - prediction[second], axis=1) <= 12).all()
    near = cdist(truth, prediction) <= 12
    assert len(matches.pairs) == near[linear_sum_assignment(near, maximize=True)].sum()


def test_of_equally_many_matches_the_nearest_are_taken():
    matches = match_points([[0, 0], [10, 0]], [[9, 0], [1, 0]])
    assert sorted(matches.pairs.tolist()) == [[0, 1], [1, 0]]


def test_a_point_counts_once_and_the_radius_is_inclusive():
    matches = match_points([[0, 0], [12, 0]], [[0, 12]])
    assert (len(matches.pairs), matches.precision, matches.recall) == (1, 1.0, 0.5)
    assert matches.f1 == pytest.approx(2 / 3)
    assert len(match_points([[0, 0]], [[0, 12.001]]).pairs) == 0


@pytest.mark.parametrize(("truth", "prediction", "value"), [([], [], 1.0), ([[1, 1]], [], 0.0), ([], [[1, 1]], 0.0)])
def test_detection_scores_without_points_are_defined(truth, prediction, value):
    matches = match_points(truth, prediction)
    assert (matches.precision, matches.recall, matches.f1) == (value, value, value)
