"""A core's nuclei in the light of its neighbours': duplicates at the seam go, the more confident covers."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from pnseg_runtime.masks import DecodedMasks
from pnseg_runtime.nms import suppress_overlaps
from pnseg_runtime.nuclei import Mask
from pnseg_runtime.options import Settings
from pnseg_runtime.painting import paint
from pnseg_runtime.prompts import suppress_points
from pnseg_runtime.slide.core import Found
from pnseg_runtime.slide.readers.base import Box


@dataclass(frozen=True)
class Settled:
    """The nuclei of a core as they are in the end, by descending predicted IoU.

    Attributes:
        origin: (x, y) of the frame, work px of the slide; points and boxes are in px of the frame.
        points: (N, 2) float32.
        classes: (N,) int64.
        scores: (N,) float32.
        ious: (N,) float32.
        boxes: (N, 4) int32.
        masks: N masks, what is visible of each.
    """

    origin: tuple[int, int]
    points: NDArray[np.float32]
    classes: NDArray[np.int64]
    scores: NDArray[np.float32]
    ious: NDArray[np.float32]
    boxes: NDArray[np.int32]
    masks: tuple[Mask, ...]


def settle(found: Sequence[Found], own: int, core: Box, reach: int, settings: Settings) -> Settled:
    """Point NMS, NMS of masks and painting of a core's nuclei among those of its neighbours (§3.3).

    These are the steps of :meth:`pnseg_runtime.pipeline.Pipeline.predict` after decoding. What they
    do to a nucleus depends on what is near it alone, so both sides of a seam come to the same
    conclusions.

    Args:
        found: of the core and all that are near, in the order of the plan.
        own: which of them is the core's.
        core: its box, work px.
        reach: how far around it others matter, px.
        settings: thresholds.
    """
    frame = (core[0] - reach, core[1] - reach)
    stop = np.array([core[2] - frame[0] + reach, core[3] - frame[1] + reach])
    coords, scores, classes, ious, boxes, owner = [], [], [], [], [], []
    masks: list[Mask] = []
    for index, each in enumerate(found):
        shift = np.array(each.origin) - frame
        moved = each.points.coords + shift.astype(np.float32)
        near = np.flatnonzero(((moved >= 0) & (moved < stop)).all(axis=1))
        coords.append(moved[near])
        scores.append(each.points.scores[near])
        classes.append(each.points.classes[near])
        ious.append(each.ious[near])
        boxes.append(each.boxes[near] + np.tile(shift, 2).astype(np.int32))
        owner.append(np.full(len(near), index))
        masks += [each.masks[i] for i in near]
    points, certain, owners = np.concatenate(coords), np.concatenate(scores), np.concatenate(owner)
    kept = suppress_points(points, certain, settings.nms_radius)
    kept &= np.array([mask.size > 0 for mask in masks], np.bool_)
    decoded = DecodedMasks(np.arange(len(points)), np.concatenate(ious), np.concatenate(boxes), masks).select(kept)
    decoded = decoded.select(suppress_overlaps(decoded, settings.nms_iou, settings.nms_overlap))
    decoded = decoded.select(_meets(decoded, owners == own))
    low = decoded.boxes[:, :2].min(axis=0, initial=0)
    high = decoded.boxes[:, 2:].max(axis=0, initial=1)
    canvas = (int(high[1] - low[1]), int(high[0] - low[0]))
    shifted = decoded.boxes - np.tile(low, 2).astype(np.int32)
    visible, tight, shown = paint(shifted, decoded.masks, decoded.ious, canvas, settings.tidy)
    mine = owners[decoded.points[visible]] == own
    chosen = decoded.points[visible][mine]
    return Settled(
        origin=frame,
        points=points[chosen],
        classes=np.concatenate(classes)[chosen],
        scores=certain[chosen],
        ious=decoded.ious[visible][mine],
        boxes=(tight[mine] + np.tile(low, 2)).astype(np.int32),
        masks=tuple(mask for mask, is_mine in zip(shown, mine, strict=True) if is_mine),
    )


def _meets(decoded: DecodedMasks, own: NDArray[np.bool_]) -> NDArray[np.bool_]:
    """(P,) bool: masks of the core, and those of others that may cover them."""
    mine = own[decoded.points]
    if not mine.any():
        return mine
    low, high = decoded.boxes[mine, :2].min(axis=0), decoded.boxes[mine, 2:].max(axis=0)
    near: NDArray[np.bool_] = ((decoded.boxes[:, :2] < high) & (decoded.boxes[:, 2:] > low)).all(axis=1)
    return mine | near
