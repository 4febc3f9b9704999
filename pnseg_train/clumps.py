"""Clumps made from a crop's own nuclei: copies laid against, over and under their neighbours.

Touching nuclei are what small training sets have too few of, and where masks of small networks
run together. A copy keeps the crop's stain and focus, and its outline is known to the pixel.
"""

from __future__ import annotations

import math

import cv2
import numpy as np
import torch
from numpy.typing import NDArray

#: A nucleus below this area is not copied, px².
SMALLEST = 40
#: Of a copy at most this share lies on other nuclei.
OVERLAP = 0.15
#: Chance that a nucleus is laid beside itself, along its short side, as in a palisade.
PALISADE = 0.4

Image = NDArray[np.uint8]
Labels = NDArray[np.int32]
Mask = NDArray[np.bool_]


def add_clumps(image: Image, labels: Labels, classes: Labels) -> tuple[Image, Labels, Labels]:
    """Lay copies of some of a crop's nuclei against others.

    Draws from torch's global generator.

    Args:
        image: (H, W, 3) uint8.
        labels: (H, W) int32, ids 1..N.
        classes: (H, W) int32, 0 background.

    Returns:
        the three with up to N / 2 nuclei more (at least one, if any can be copied); the new ids follow N.
    """
    whole = whole_nuclei(labels)
    if not len(whole):
        return image, labels, classes
    canvas, ids, kinds = image.copy(), labels.copy(), classes.copy()
    first = int(labels.max()) + 1
    for new in range(first, first + 1 + _integer(max(first // 2, 1))):
        host = labels == whole[_integer(len(whole))]
        beside_itself = float(torch.rand(())) < PALISADE
        donor = host if beside_itself else labels == whole[_integer(len(whole))]
        copy, mask = cut_out(image, donor)
        angle = 2.0 * math.pi * float(torch.rand(()))
        if beside_itself:
            angle = short_axis(host) + math.pi * _integer(2)
        else:
            copy, mask = turned(copy, mask, 360.0 * float(torch.rand(())))
        place = resting_place(ids > 0, host, mask, angle, OVERLAP * float(torch.rand(())))
        if place is not None:
            kind = int(classes[donor][0])
            _lay(canvas, ids, kinds, copy, mask, place, new, kind, over=float(torch.rand(())) < 0.5)
    return canvas, ids, kinds


def whole_nuclei(labels: Labels) -> NDArray[np.int64]:
    """Ids of the nuclei that no border of the crop cuts and that are large enough to copy."""
    areas = np.bincount(labels.ravel())
    rim = np.concatenate([labels[0], labels[-1], labels[:, 0], labels[:, -1]])
    ids = np.flatnonzero(areas >= SMALLEST)
    return np.setdiff1d(ids, np.append(rim, 0))


def cut_out(image: Image, mask: Mask, margin: int = 3) -> tuple[Image, Mask]:
    """A nucleus's pixels and mask in its box, with a margin as far as the crop goes."""
    rows, columns = np.flatnonzero(mask.any(axis=1)), np.flatnonzero(mask.any(axis=0))
    box = (
        slice(max(rows[0] - margin, 0), rows[-1] + 1 + margin),
        slice(max(columns[0] - margin, 0), columns[-1] + 1 + margin),
    )
    return image[box].copy(), mask[box].copy()


def turned(image: Image, mask: Mask, degrees: float) -> tuple[Image, Mask]:
    """Both rotated about their middle, in a square that holds them at any angle."""
    height, width = mask.shape
    side = math.ceil(math.hypot(height, width))
    matrix = cv2.getRotationMatrix2D((width / 2 - 0.5, height / 2 - 0.5), degrees, 1.0)
    matrix[:, 2] += (side - width) / 2, (side - height) / 2
    pixels = cv2.warpAffine(image, matrix, (side, side), borderMode=cv2.BORDER_REPLICATE)
    inside = cv2.warpAffine(mask.astype(np.uint8), matrix, (side, side), flags=cv2.INTER_NEAREST)
    return np.asarray(pixels, np.uint8), inside.astype(np.bool_)


def short_axis(mask: Mask) -> float:
    """Direction of the smallest extent of a mask, radians."""
    ys, xs = np.nonzero(mask)
    _, axes = np.linalg.eigh(np.cov(np.stack([xs, ys])) + 1e-6 * np.eye(2))
    return math.atan2(axes[1, 0], axes[0, 0])


def resting_place(occupied: Mask, host: Mask, mask: Mask, angle: float, overlap: float) -> tuple[int, int] | None:
    """Where a mask comes to rest when it leaves the host's centre in a direction: (row, column) of its corner.

    It stops as soon as at most the share ``overlap`` of its area lies on what is occupied; None if
    that is beyond the crop.
    """
    ys, xs = np.nonzero(host)
    area = int(mask.sum())
    height, width = mask.shape
    for distance in range(1, 2 * max(mask.shape) + len(ys)):
        row = round(ys.mean() + distance * math.sin(angle) - height / 2)
        column = round(xs.mean() + distance * math.cos(angle) - width / 2)
        inside = _inside(occupied.shape, mask.shape, (row, column))
        if inside is None:
            return None
        target, source = inside
        if mask[source].sum() < area / 2:
            return None
        if (occupied[target] & mask[source]).sum() <= overlap * area:
            return row, column
    return None


Box = tuple[slice, slice]


def _inside(shape: tuple[int, ...], part: tuple[int, ...], corner: tuple[int, int]) -> tuple[Box, Box] | None:
    # The part of a patch that lies in the crop: its place there, and in the patch.
    spans = [(max(start, 0), min(start + size, limit)) for start, size, limit in zip(corner, part, shape, strict=True)]
    if any(start >= stop for start, stop in spans):
        return None
    (top, bottom), (left, right) = spans
    row, column = corner
    return (slice(top, bottom), slice(left, right)), (
        slice(top - row, bottom - row),
        slice(left - column, right - column),
    )


def _lay(
    image: Image,
    labels: Labels,
    classes: Labels,
    copy: Image,
    mask: Mask,
    corner: tuple[int, int],
    new: int,
    kind: int,
    over: bool,
) -> None:
    inside = _inside(labels.shape, mask.shape, corner)
    assert inside is not None
    target, source = inside
    free = mask[source] if over else mask[source] & (labels[target] == 0)
    # A soft rim, so that no edge is sharper than the image's own.
    share = cv2.GaussianBlur(free.astype(np.float32), (5, 5), 0.8)[..., None]
    if not over:
        share = share * (labels[target] == 0)[..., None]
    image[target] = (share * copy[source] + (1.0 - share) * image[target] + 0.5).astype(np.uint8)
    labels[target][free] = new
    classes[target][free] = kind


def _integer(stop: int) -> int:
    return int(torch.randint(0, stop, ()))
