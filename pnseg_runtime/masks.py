"""Masks: from mask logits to one whole mask a point, in the image (§3.3).

Boxes are (N, 4) int32, (x0, y0, x1, y1) with x1 and y1 exclusive, in image px. A mask is a boolean
array of its box's size.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import cv2
import numpy as np
from numpy.typing import NDArray

from pnseg_runtime.nuclei import Mask

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
