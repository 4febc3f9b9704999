"""NMS of masks over all classes, by their boxes (§3.3) or by the pixels that they share."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray
from scipy.spatial import cKDTree

from pnseg_runtime.masks import Boxes, DecodedMasks
from pnseg_runtime.nuclei import Mask
from pnseg_runtime.suppress import greedy_suppress


def box_iou(first: Boxes, second: Boxes) -> NDArray[np.float64]:
    """(…) IoU of boxes (…, 4) and (…, 4), 0 for two empty ones."""
    first, second = first.astype(np.int64), second.astype(np.int64)
    intersection = _shared_sides(first, second).prod(axis=-1)
    union = sum((box[..., 2:] - box[..., :2]).prod(axis=-1) for box in (first, second)) - intersection
    return intersection / np.maximum(union, 1)


def _shared_sides(first: NDArray[np.integer], second: NDArray[np.integer]) -> NDArray[np.int64]:
    """(…, 2) width and height of what boxes (…, 4) and (…, 4) share, 0 for nothing."""
    sides = np.minimum(first[..., 2:], second[..., 2:]) - np.maximum(first[..., :2], second[..., :2])
    return np.maximum(sides, 0).astype(np.int64)


def suppress_boxes(boxes: Boxes, ious: NDArray[np.float32], threshold: float) -> NDArray[np.bool_]:
    """Box NMS over all classes by predicted IoU: a kept box removes those that overlap it by more.

    Args:
        boxes: (N, 4).
        ious: (N,) float32, predicted IoU of the masks.
        threshold: of the boxes' IoU, 0–1.

    Returns:
        (N,) bool, true for the boxes that stay.
    """
    pairs = _near_pairs(boxes, threshold)
    overlap = box_iou(boxes[pairs[:, 0]], boxes[pairs[:, 1]])
    return greedy_suppress(ious, pairs[overlap > threshold])


def suppress_masks(boxes: Boxes, masks: list[Mask], ious: NDArray[np.float32], threshold: float) -> NDArray[np.bool_]:
    """Mask NMS over all classes by predicted IoU: a kept mask removes those that it shares too many pixels with.

    What two masks share is measured by the smaller of them, so that a piece of a nucleus goes, and neighbours whose
    boxes overlap stay (not of the paper, which suppresses boxes).

    Args:
        boxes: (N, 4).
        masks: N masks.
        ious: (N,) float32, predicted IoU.
        threshold: of the shared pixels as a part of the smaller mask, 0–1.

    Returns:
        (N,) bool, true for the masks that stay.
    """
    areas = np.array([np.count_nonzero(mask) for mask in masks], np.int64)
    pairs = _near_pairs(boxes, 0.0)
    allowed = threshold * np.minimum(areas[pairs[:, 0]], areas[pairs[:, 1]])
    likely = _shared_sides(boxes[pairs[:, 0]], boxes[pairs[:, 1]]).prod(axis=-1) > allowed
    pairs, allowed = pairs[likely], allowed[likely]
    rows = boxes.tolist()
    shared = [_shared_pixels(rows[i], masks[i], rows[j], masks[j]) for i, j in pairs.tolist()]
    return greedy_suppress(ious, pairs[np.array(shared, np.int64) > allowed])


def _shared_pixels(box: list[int], mask: Mask, other_box: list[int], other: Mask) -> int:
    x, y, x0, y0 = *box[:2], *other_box[:2]
    left, top = max(x, x0), max(y, y0)
    right, bottom = min(box[2], other_box[2]), min(box[3], other_box[3])
    own, theirs = (
        mask[top - y : bottom - y, left - x : right - x],
        other[top - y0 : bottom - y0, left - x0 : right - x0],
    )
    return int(np.count_nonzero(own & theirs))


def suppress_overlaps(found: DecodedMasks, nms_iou: float, nms_overlap: float | None) -> NDArray[np.bool_]:
    """(P,) bool: of nuclei that overlap too much only the most certain stays; by their boxes, or by their masks."""
    if nms_overlap is None:
        return suppress_boxes(found.boxes, found.ious, nms_iou)
    return suppress_masks(found.boxes, found.masks, found.ious, nms_overlap)


def _near_pairs(boxes: Boxes, threshold: float) -> NDArray[np.intp]:
    """(M, 2) every pair whose IoU can exceed the threshold t, and some more.

    Along an axis with sides a ≥ b and centres d apart, IoU > t needs an overlap over t·a; it is at
    most (a + b)/2 − d ≤ a − d, so d < (1 − t)·a. Each box looks as far as its own longer side allows;
    the larger one of a pair sees the other.
    """
    if not len(boxes):
        return np.empty((0, 2), np.intp)
    centres = (boxes[:, :2] + boxes[:, 2:]) / 2
    reach = (1 - threshold) * (boxes[:, 2:] - boxes[:, :2]).max(axis=1)
    found = cKDTree(centres).query_ball_point(centres, reach, p=np.inf)
    first = np.repeat(np.arange(len(boxes)), [len(near) for near in found])
    second = np.concatenate(found).astype(np.intp)
    low, high = np.minimum(first, second), np.maximum(first, second)
    numbers = np.unique((low * len(boxes) + high)[low < high])
    return np.stack(np.divmod(numbers, len(boxes)), axis=1)
