"""What is visible of each mask in the image (§3.3), and masks cut to one piece."""

from __future__ import annotations

import cv2
import numpy as np
from numpy.typing import NDArray

from pnseg_runtime.atlas import Atlas
from pnseg_runtime.masks import Boxes, DecodedMasks, tighten
from pnseg_runtime.nuclei import Mask
from pnseg_runtime.suppress import descending


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
