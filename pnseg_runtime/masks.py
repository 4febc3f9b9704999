"""Masks: from mask logits to what is visible of each nucleus in the image (§3.3).

Boxes are (N, 4) int32, (x0, y0, x1, y1) with x1 and y1 exclusive, in image px. A mask is a boolean
array of its box's size.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import cv2
import numpy as np
from numpy.typing import NDArray
from scipy.spatial import cKDTree

from pnseg_runtime.atlas import Atlas
from pnseg_runtime.nuclei import Mask
from pnseg_runtime.suppress import descending, greedy_suppress

Boxes = NDArray[np.int32]


@dataclass(frozen=True)
class DecodedMasks:
    """P masks, any number of them for one point.

    Attributes:
        points: (P,) index of the point that each was decoded for.
        ious: (P,) float32, predicted IoU.
        boxes: (P, 4).
        masks: P masks.
        classes: (P,) int64, the class that the segmentor tells; None if the prompter does.
    """

    points: NDArray[np.intp]
    ious: NDArray[np.float32]
    boxes: Boxes
    masks: list[Mask]
    classes: NDArray[np.int64] | None = None

    def select(self, which: NDArray[np.bool_] | NDArray[np.intp]) -> DecodedMasks:
        """The masks chosen by a mask or by indices."""
        indices = np.arange(len(self.points))[which]
        classes = None if self.classes is None else self.classes[which]
        masks = [self.masks[i] for i in indices]
        return DecodedMasks(self.points[which], self.ious[which], self.boxes[which], masks, classes)

    def shifted(self, origin: tuple[int, int]) -> DecodedMasks:
        """The same masks in an image in which theirs lies at ``origin`` (x, y)."""
        return DecodedMasks(
            self.points, self.ious, self.boxes + np.array(origin * 2, np.int32), self.masks, self.classes
        )

    @staticmethod
    def joined(parts: list[DecodedMasks]) -> DecodedMasks:
        """All masks of any number of parts, in order."""
        return DecodedMasks(
            np.concatenate([np.empty(0, np.intp), *(part.points for part in parts)]),
            np.concatenate([np.empty(0, np.float32), *(part.ious for part in parts)]),
            np.concatenate([np.empty((0, 4), np.int32), *(part.boxes for part in parts)]),
            [mask for part in parts for mask in part.masks],
            np.concatenate(told) if (told := [part.classes for part in parts if part.classes is not None]) else None,
        )


@dataclass(frozen=True)
class MaskLogits:
    """P masks as the decoder gives them, any number of them for one point.

    Attributes:
        points: (P,) index of the point that each was decoded for.
        origins: (P, 2) int, (x, y) of the window of each, px.
        ious: (P,) float32, predicted IoU.
        logits: (P, m, m) float32.
        classes: (P,) int64, the class that the segmentor tells; None if the prompter does.
    """

    points: NDArray[np.intp]
    origins: NDArray[np.integer]
    ious: NDArray[np.float32]
    logits: NDArray[np.float32]
    classes: NDArray[np.int64] | None = None

    def select(self, which: NDArray[np.intp]) -> MaskLogits:
        """The masks chosen by ascending indices; nothing is copied if those are all."""
        if len(which) == len(self.points):
            return self
        classes = None if self.classes is None else self.classes[which]
        return MaskLogits(self.points[which], self.origins[which], self.ious[which], self.logits[which], classes)

    @staticmethod
    def joined(parts: list[MaskLogits]) -> MaskLogits:
        """All masks of one or more parts, in order; nothing is copied if there is one."""
        if len(parts) == 1:
            return parts[0]
        return MaskLogits(
            np.concatenate([part.points for part in parts]),
            np.concatenate([part.origins for part in parts]),
            np.concatenate([part.ious for part in parts]),
            np.concatenate([part.logits for part in parts]),
            np.concatenate(told) if (told := [part.classes for part in parts if part.classes is not None]) else None,
        )


def upsample(logits: NDArray[np.float32], factor: int) -> NDArray[np.float64]:
    """(h, w) float32 → (h · factor, w · factor), bilinear with half-pixel centres (``align_corners=False``).

    In float64, in which the means of float32 logits are exact or nearly so: in float32 the sign of one
    close to 0 would depend on the processor.
    """
    values: Any = cv2.resize(logits.astype(np.float64), None, fx=factor, fy=factor, interpolation=cv2.INTER_LINEAR)
    return values


def crop_masks(
    logits: NDArray[np.float32], origins: NDArray[np.integer], window: int, shape: tuple[int, int]
) -> tuple[Boxes, list[Mask]]:
    """Masks where the upsampled logits are positive, each cut to its box.

    An upsampled logit is a mean of its nearest low-resolution ones, so it is positive only next to
    a positive one: the box of those, grown by one, is all that is upsampled. The result is that of
    upsampling everything. Pixels beyond the image belong to the padding and are left out.

    Args:
        logits: (P, m, m) float32, m a divisor of ``window``.
        origins: (P, 2) int, (x, y) of the window of each, px.
        window: side of the windows, px.
        shape: (height, width) of the image, px.

    Returns:
        (P, 4) boxes and P masks; a mask without a pixel has an empty box.
    """
    factor = window // logits.shape[-1]
    spans = _positive_spans(logits)
    boxes = np.zeros((len(logits), 4), np.int32)
    masks: list[Mask] = [np.zeros((0, 0), np.bool_)] * len(logits)
    corners = origins + spans[:, :2] * factor
    room = np.maximum(np.array(shape[::-1]) - corners, 0)
    for index in np.flatnonzero(spans[:, 2]).tolist():
        (x0, y0, x1, y1), (x, y), (wide, tall) = spans[index].tolist(), corners[index].tolist(), room[index].tolist()
        positive = upsample(logits[index, y0:y1, x0:x1], factor) > 0
        boxes[index], mask = tighten(positive[:tall, :wide], (x, y))
        masks[index] = mask.copy()  # not to keep what lies around it
    return boxes, masks


def _positive_spans(logits: NDArray[np.float32]) -> NDArray[np.intp]:
    """(P, 4) box of each mask's positive logits, grown by one within the mask; empty where there are none."""
    size = logits.shape[-1]
    columns, rows = _filled(logits > 0)
    spans = _spans(columns, rows)
    some = spans[:, :2] < spans[:, 2:]
    grown = np.concatenate([np.maximum(spans[:, :2] - 1, 0), np.minimum(spans[:, 2:] + 1, size)], axis=1)
    return np.where(some.all(axis=1, keepdims=True), grown, 0)


def _filled(masks: NDArray[np.bool_]) -> tuple[NDArray[np.bool_], NDArray[np.bool_]]:
    """Which columns (P, w) and rows (P, h) of masks (P, h, w) have a pixel."""
    if masks.shape[2] % 8:
        return np.logical_or.reduce(masks, axis=1), np.logical_or.reduce(masks, axis=2)
    words = masks.view(np.uint64)  # eight pixels at a time
    return np.bitwise_or.reduce(words, axis=1).view(np.bool_), np.bitwise_or.reduce(words, axis=2) > 0


def _spans(columns: NDArray[np.bool_], rows: NDArray[np.bool_]) -> NDArray[np.intp]:
    """(P, 4) boxes from the columns (P, w) and rows (P, h) that are filled; zeros where none is."""
    starts = [used.argmax(axis=1) for used in (columns, rows)]
    stops = [used.shape[1] - used[:, ::-1].argmax(axis=1) for used in (columns, rows)]
    return np.where(np.logical_or.reduce(rows, axis=1)[:, None], np.stack([*starts, *stops], axis=1), 0)


def tighten(mask: Mask, offset: tuple[int, int]) -> tuple[tuple[int, int, int, int], Mask]:
    """A mask that lies at ``offset`` (x, y), cut to its true pixels, and its box; both are empty if it has none."""
    left, top, wide, tall = cv2.boundingRect(mask.view(np.uint8))
    x, y = offset[0] + left, offset[1] + top
    return (x, y, x + wide, y + tall), mask[top : top + tall, left : left + wide]


def largest_piece(mask: Mask, fill: bool = False) -> Mask:
    """The connected piece of the largest area of a mask, of the same shape; with its holes, or filled.

    A piece is what one outline encloses, islands in its holes with it. Of equally large ones it is the one whose first
    pixel, row by row, comes first.
    """
    outlines, _ = cv2.findContours(mask.astype(np.uint8), cv2.RETR_EXTERNAL, cv2.CHAIN_APPROX_NONE)
    if not outlines or (len(outlines) == 1 and not fill):
        return mask
    outlines = sorted(outlines, key=lambda outline: (outline[0, 0, 1], outline[0, 0, 0]))  # they begin there
    filled = [cv2.drawContours(np.zeros(mask.shape, np.uint8), [outline], 0, 1, cv2.FILLED) > 0 for outline in outlines]
    largest = max(filled, key=lambda piece: int((piece & mask).sum()))
    return largest if fill else largest & mask


def touches_inner_border(
    boxes: Boxes, origins: NDArray[np.integer], window: int, shape: tuple[int, int], margin: int = 7
) -> NDArray[np.bool_]:
    """Whether a mask is likely cut by its window: its box comes near a window border inside the image.

    Window borders that are image borders do not count, since nothing is cut there.

    Args:
        boxes: (P, 4).
        origins: (P, 2) int, (x, y) of the window of each, px.
        window: px.
        shape: (height, width) of the image, px.
        margin: px between the box's outermost pixel and the border, inclusive.

    Returns:
        (P,) bool.
    """
    first, last, ends = boxes[:, :2], boxes[:, 2:] - 1, origins + window
    low = (first - origins <= margin) & (origins > 0)
    high = (ends - last <= margin) & (ends < np.array(shape[::-1]))
    touched: NDArray[np.bool_] = np.any(low | high, axis=1)
    return touched


def best_per_point(points: NDArray[np.integer], ious: NDArray[np.float32]) -> NDArray[np.intp]:
    """Of all masks of one point, the one with the highest predicted IoU (the first of equal ones).

    Args:
        points: (P,) int, the point each mask was decoded for.
        ious: (P,) float32, predicted IoU.

    Returns:
        Indices of the chosen masks, one for each point that has any, by point.
    """
    order = np.lexsort((np.arange(len(points)), -ious, points))
    _, first = np.unique(points[order], return_index=True)
    return order[first]


def best_whole_masks(found: MaskLogits, window: int, shape: tuple[int, int], margin: int = 7) -> DecodedMasks:
    """Of all masks of one point, the one with the highest predicted IoU that has a pixel and is not cut by its window.

    A mask is cropped only if those that are more certain were cut or empty: of a point that is decoded with negative
    prompts and again without, mostly one of the two.

    Args:
        found: masks of any number of points.
        window: side of the windows, px.
        shape: (height, width) of the image, px.
        margin: of :func:`touches_inner_border`, px.

    Returns:
        At most one mask a point.
    """
    kept: list[DecodedMasks] = []
    left = np.arange(len(found.points))
    while left.size:
        tried = np.sort(left[best_per_point(found.points[left], found.ious[left])])
        best = found.select(tried)
        boxes, masks = crop_masks(best.logits, best.origins, window, shape)
        whole = ~touches_inner_border(boxes, best.origins, window, shape, margin) & (boxes[:, 0] < boxes[:, 2])
        kept.append(DecodedMasks(best.points, best.ious, boxes, masks, best.classes).select(whole))
        settled = np.isin(found.points[left], best.points[whole])
        left = left[~settled & ~np.isin(left, tried)]
    return DecodedMasks.joined(kept)


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


def tidied(found: DecodedMasks) -> DecodedMasks:
    """Every mask cut to its largest piece, holes filled, in a box that fits."""
    boxes, masks = found.boxes.copy(), list(found.masks)
    for index in pieced(masks).tolist():
        x0, y0 = boxes[index, :2].tolist()
        boxes[index], masks[index] = tighten(largest_piece(masks[index], fill=True), (x0, y0))
    return DecodedMasks(found.points, found.ious, boxes, masks, found.classes)


def pieced(masks: list[Mask]) -> NDArray[np.intp]:
    """Indices of the masks that are not one piece without holes."""
    owner, _ = Atlas.of(masks).borders(cv2.RETR_CCOMP, cv2.CHAIN_APPROX_SIMPLE)
    return np.flatnonzero(np.bincount(owner, minlength=len(masks)) != 1)


def paint(
    boxes: Boxes, masks: list[Mask], ious: NDArray[np.float32], shape: tuple[int, int], tidy: bool = False
) -> tuple[NDArray[np.intp], Boxes, list[Mask]]:
    """Paint masks in ascending predicted IoU, so that a more confident one covers a less confident one.

    Args:
        boxes: (N, 4), inside the image.
        masks: N masks.
        ious: (N,) float32, predicted IoU; of equal ones the lower index covers.
        shape: (height, width) of the image, px.
        tidy: of a nucleus that others cut into pieces only the largest is kept.

    Returns:
        Indices of the nuclei of which something is visible, by descending predicted IoU, and the
        boxes and masks of what is visible of them.
    """
    order = descending(ious)
    labels = np.zeros(shape, np.int32)
    for index in order[::-1]:
        x0, y0, x1, y1 = boxes[index]
        labels[y0:y1, x0:x1][masks[index]] = index + 1
    broken = set(pieced(masks).tolist()) if tidy else set()
    kept: list[int] = []
    visible_boxes: list[tuple[int, int, int, int]] = []
    visible_masks: list[Mask] = []
    for index in order:
        x0, y0, x1, y1 = boxes[index].tolist()
        box, mask = (x0, y0, x1, y1), masks[index]
        left = labels[y0:y1, x0:x1] == index + 1
        if not np.array_equal(left, mask) or index in broken:
            box, mask = tighten(largest_piece(left) if tidy else left, (x0, y0))
        if mask.size:
            kept.append(index)
            visible_boxes.append(box)
            visible_masks.append(mask)
    return np.array(kept, np.intp), np.array(visible_boxes, np.int32).reshape(-1, 4), visible_masks
