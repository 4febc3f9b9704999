import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from pnseg_runtime.masks import DecodedMasks, tighten
from pnseg_runtime.nms import box_iou, suppress_boxes, suppress_masks, suppress_overlaps
from tests.runtime.drawn import random_boxes


@given(random_boxes(), st.sampled_from([0.0, 0.1, 0.3, 0.5, 0.9, 1.0]))
def test_box_nms_agrees_with_the_full_matrix_of_overlaps(boxes_and_scores, threshold):
    boxes, scores = boxes_and_scores
    overlap = box_iou(boxes[:, None], boxes[None])
    expected = np.ones(len(boxes), bool)
    for index in np.argsort(-scores, kind="stable"):
        if expected[index]:
            expected[overlap[index] > threshold] = False
            expected[index] = True
    np.testing.assert_array_equal(suppress_boxes(boxes, scores, threshold), expected)


@st.composite
def random_masks(draw):
    """Masks in boxes that fit, on one small canvas, and scores with ties."""
    rng = np.random.default_rng(draw(st.integers(0, 2**32 - 1)))
    boxes, masks = [], []
    for _ in range(draw(st.integers(0, 12))):
        (x, y), (width, height) = rng.integers(0, 20, 2).tolist(), rng.integers(1, 18, 2).tolist()
        mask = rng.random((height, width)) < rng.choice([0.2, 0.6, 1.0])
        mask[0, 0] = True
        box, mask = tighten(mask, (x, y))
        boxes.append(box)
        masks.append(mask)
    scores = rng.choice(np.array([0.2, 0.5, 0.7, 0.9], np.float32), len(boxes))
    return np.array(boxes, np.int32).reshape(-1, 4), masks, scores


@given(random_masks(), st.sampled_from([0.0, 0.1, 0.3, 0.5, 0.9, 1.0]))
def test_mask_nms_agrees_with_the_full_matrix_of_shared_pixels(found, threshold):
    boxes, masks, scores = found
    canvases = np.zeros((len(masks), 40, 40), bool)
    for canvas, (x0, y0, x1, y1), mask in zip(canvases, boxes.tolist(), masks, strict=True):
        canvas[y0:y1, x0:x1] = mask
    shared = np.einsum("iyx,jyx->ij", canvases.astype(int), canvases.astype(int))
    smaller = np.minimum(shared.diagonal()[:, None], shared.diagonal()[None])
    expected = np.ones(len(masks), bool)
    for index in np.argsort(-scores, kind="stable"):
        if expected[index]:
            expected[shared[index] > threshold * smaller[index]] = False
            expected[index] = True
    np.testing.assert_array_equal(suppress_masks(boxes, masks, scores, threshold), expected)


def test_mask_nms_keeps_neighbours_whose_boxes_overlap_and_drops_a_piece_whose_box_does_not():
    diagonal = np.eye(20, dtype=bool) | np.eye(20, k=1, dtype=bool)
    piece = np.ones((1, 2), bool)
    boxes = np.array([[0, 0, 20, 20], [4, 0, 24, 20], [5, 5, 7, 6]], np.int32)
    masks, scores = [diagonal, diagonal, piece], np.array([0.9, 0.8, 0.7], np.float32)
    assert suppress_boxes(boxes, scores, 0.35).tolist() == [True, False, True]
    assert suppress_masks(boxes, masks, scores, 0.35).tolist() == [True, True, False]


def test_box_iou_counts_pixels():
    first, second = np.array([0, 0, 4, 4], np.int32), np.array([2, 0, 6, 4], np.int32)
    assert box_iou(first, second) == pytest.approx(8 / 24)
    assert box_iou(first, np.array([4, 0, 8, 4], np.int32)) == 0


def test_masks_that_may_share_nothing_are_suppressed_by_their_pixels():
    diagonal = np.eye(20, dtype=bool)
    boxes = np.array([[0, 0, 20, 20], [4, 0, 24, 20], [0, 0, 20, 20]], np.int32)
    found = DecodedMasks(np.arange(3), np.array([0.9, 0.8, 0.7], np.float32), boxes, [diagonal] * 3)
    assert suppress_overlaps(found, 0.35, 0.0).tolist() == [True, True, False]
    assert suppress_overlaps(found, 0.35, None).tolist() == [True, False, False]
