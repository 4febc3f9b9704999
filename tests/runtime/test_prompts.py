import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra.numpy import arrays
from scipy.spatial.distance import cdist

from pnseg_runtime.prompts import (
    PointPrompts,
    _sum,
    decode_points,
    filter_by_region,
    image_anchors,
    nearest_negatives,
    suppress_points,
)
from tests import golden

RECORDED = [("prompter_pannuke", 0), ("prompter_pannuke", 1), *(("prompter_cpm17", i) for i in range(3))]

# Whole numbers, so that equal distances and equal points are frequent.
coordinates = arrays(np.float32, st.tuples(st.integers(0, 25), st.just(2)), elements=st.integers(0, 30))


@pytest.mark.parametrize(("name", "index"), RECORDED)
@pytest.mark.parametrize("filtered", [0, 1])
def test_points_and_classes_are_exactly_those_of_the_reference_implementation(name, index, filtered):
    recorded = golden.arrays(name)
    shape = recorded[f"image_{index}"].shape[2:]
    points = decode_points(recorded[f"pred_coords_{index}"][0], recorded[f"pred_logits_{index}"][0], shape)
    if filtered:
        points = points.select(filter_by_region(points.coords, recorded[f"pred_masks_{index}"][0, 0]))
    radius = golden.document(name)["config"]["nms_radius_px"]
    points = points.select(suppress_points(points.coords, points.scores, radius))
    suffix = f"{index}_filter{filtered}"
    np.testing.assert_array_equal(points.coords, recorded[f"points_{suffix}"])
    np.testing.assert_array_equal(points.classes, recorded[f"classes_{suffix}"])
    np.testing.assert_allclose(points.scores, recorded[f"scores_{suffix}"], atol=1e-6)


@pytest.mark.parametrize("negatives", [1, 2])
def test_nearest_negatives_are_exactly_those_of_the_reference_implementation(negatives):
    recorded = golden.arrays("segmentor_tiny")
    coords, labels = nearest_negatives(recorded[f"knn_in_k{negatives}"][:, 0], negatives)
    np.testing.assert_array_equal(coords, recorded[f"knn_points_k{negatives}"])
    np.testing.assert_array_equal(labels, recorded[f"knn_labels_k{negatives}"])


def test_negatives_come_from_the_same_image():
    recorded = golden.arrays("segmentor_tiny")
    prompts = np.split(recorded["prompt_points"], np.cumsum(recorded["prompts_per_image"])[:-1])
    assert len(prompts) == 2
    for expected in prompts:
        np.testing.assert_array_equal(nearest_negatives(expected[:, 0], 1)[0], expected)


def test_a_point_without_neighbours_has_missing_negatives_at_the_origin():
    recorded = golden.arrays("segmentor_tiny")
    coords, labels = nearest_negatives(recorded["lone_points"][:, 0], 1)
    np.testing.assert_array_equal(coords, recorded["lone_points"])
    np.testing.assert_array_equal(labels, recorded["lone_labels"])


@pytest.mark.parametrize("negatives", [0, 1, 3])
def test_no_points_have_no_prompts(negatives):
    coords, labels = nearest_negatives(np.empty((0, 2), np.float32), negatives)
    assert coords.shape == (0, 1 + negatives, 2)
    assert labels.shape == (0, 1 + negatives)


@given(coordinates, st.integers(0, 4))
def test_nearest_negatives_agree_with_the_sorted_distance_matrix(coords, negatives):
    prompts, labels = nearest_negatives(coords, negatives)
    distances = cdist(coords, coords)
    np.fill_diagonal(distances, np.inf)
    nearest = np.argsort(distances, axis=1, kind="stable")[:, : min(negatives, max(len(coords) - 1, 0))]
    found = 1 + nearest.shape[1]
    np.testing.assert_array_equal(prompts[:, 0], coords)
    np.testing.assert_array_equal(prompts[:, 1:found], coords[nearest])
    np.testing.assert_array_equal(prompts[:, found:], 0)
    np.testing.assert_array_equal(
        labels, np.tile([1] + [0] * (found - 1) + [-1] * (1 + negatives - found), (len(coords), 1))
    )


def test_neighbours_whose_distances_are_one_number_in_float32_are_told_apart():
    coords = np.array([[0, 0], [1000, 0.1], [1000, 0]], np.float32)
    assert np.linalg.norm(coords[1]) == np.linalg.norm(coords[2])
    assert nearest_negatives(coords, 2)[0][0, 1:].tolist() == coords[[2, 1]].tolist()


@given(coordinates, st.integers(0, 12), st.randoms(use_true_random=False))
def test_point_nms_agrees_with_the_full_distance_matrix(coords, radius, random):
    scores = np.array([random.choice([0.2, 0.5, 0.8]) for _ in coords], np.float32)
    near = cdist(coords, coords) <= radius
    expected = np.ones(len(coords), bool)
    for index in np.argsort(-scores, kind="stable"):
        if expected[index]:
            expected[near[index]] = False
            expected[index] = True
    np.testing.assert_array_equal(suppress_points(coords, scores, radius), expected)


def test_nms_keeps_the_most_confident_of_two_close_points_whatever_the_class():
    coords = np.array([[10, 10], [20, 10], [40, 10]], np.float32)
    assert suppress_points(coords, np.array([0.6, 0.9, 0.5], np.float32), 12).tolist() == [False, True, True]


def test_anchors_of_background_are_dropped_and_points_are_clipped_to_the_image():
    points = np.array([[-5, 3], [50, 90], [4, 4]], np.float32)
    logits = np.array([[2, 0, 0], [0, 3, 0], [0, 0, 1]], np.float32)
    found = decode_points(points, logits, shape=(40, 30))
    assert found.coords.tolist() == [[0, 3], [29, 39]]
    assert found.classes.tolist() == [0, 1]
    np.testing.assert_allclose(found.scores, [np.e**2 / (np.e**2 + 2), np.e**3 / (np.e**3 + 2)], rtol=1e-6)


def test_huge_logits_do_not_overflow():
    found = decode_points(np.zeros((1, 2), np.float32), np.array([[1e4, -1e4]], np.float32), (8, 8))
    assert found.scores.tolist() == [1.0]


def test_the_region_is_looked_up_in_the_pixel_that_holds_the_point():
    region = np.full((3, 4), -1, np.float32)
    region[1, 2] = 0.5
    region[0, 0] = 0
    coords = np.array([[2.0, 1.0], [2.99, 1.99], [1.99, 1.0], [0.0, 0.0]], np.float32)
    assert filter_by_region(coords, region).tolist() == [True, True, False, False]


@given(st.integers(1, 40), st.integers(1, 40), st.sampled_from([4, 8, 16]))
def test_the_anchors_of_an_image_are_those_left_of_and_above_its_far_corner(height, width, spacing):
    padded = tuple(-(-side // 32) * 32 for side in (height, width))
    rows, columns = np.mgrid[: padded[0] : spacing, : padded[1] : spacing]
    anchors = np.stack([columns.ravel(), rows.ravel()], axis=1).astype(np.float32)
    own = image_anchors(anchors, padded, (height, width), spacing)
    np.testing.assert_array_equal(own, anchors[(anchors < [width, height]).all(axis=1)])


def test_points_can_be_moved_joined_and_chosen():
    points = PointPrompts(np.array([[1, 2], [3, 4]], np.float32), np.array([0, 1]), np.array([0.5, 0.6], np.float32))
    both = PointPrompts.joined([points, points.shifted((10, 20))])
    assert both.coords.tolist() == [[1, 2], [3, 4], [11, 22], [13, 24]]
    chosen = both.select(np.array([3, 0]))
    assert (chosen.coords.tolist(), chosen.classes.tolist()) == ([[13, 24], [1, 2]], [1, 0])
    assert len(both.select(np.array([True, False, False, True]))) == 2


@given(st.integers(0, 2**32 - 1), st.floats(0, 3), st.floats(0, 3))
def test_more_sensitivity_never_loses_a_point(seed, one, other):
    rng = np.random.default_rng(seed)
    points, logits = rng.uniform(0, 50, (20, 2)).astype(np.float32), rng.standard_normal((20, 3)).astype(np.float32)
    before = logits.copy()
    few, many = (decode_points(points, logits, (50, 50), s) for s in sorted((one, other)))
    assert {tuple(p) for p in few.coords.tolist()} <= {tuple(p) for p in many.coords.tolist()}
    assert np.array_equal(logits, before)


def test_scores_are_those_of_the_softmax_to_the_last_places_of_float32():
    logits = np.random.default_rng(0).normal(scale=8, size=(4000, 6)).astype(np.float32)
    logits[0] = [-np.inf, 0, -np.inf, -900, 1, -2]
    found = decode_points(np.zeros((4000, 2), np.float32), logits, (9, 9))
    exact = np.exp(logits.astype(np.longdouble) - logits.max(axis=1, keepdims=True))
    exact /= exact.sum(axis=1, keepdims=True)
    foreground = logits.argmax(axis=1) < 5
    np.testing.assert_array_equal(found.classes, logits.argmax(axis=1)[foreground])
    np.testing.assert_allclose(found.scores, exact.max(axis=1)[foreground].astype(np.float64), rtol=1.3e-7)


def test_the_sum_of_many_classes_goes_from_the_first_to_the_last():
    values = np.random.default_rng(0).random((500, 20)) ** 9
    np.testing.assert_array_equal(_sum(values), np.cumsum(values, axis=1)[:, -1])
    assert (values.sum(axis=1) != _sum(values)).any()


def test_anchors_whose_point_is_no_number_are_dropped():
    points = np.array([[1, 1], [np.nan, 1], [1, np.inf], [2, 2]], np.float32)
    assert decode_points(points, np.tile(np.array([5, 0], np.float32), (4, 1)), (9, 9)).coords.tolist() == [
        [1, 1],
        [2, 2],
    ]
