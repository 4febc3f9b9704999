"""Shape of nuclei, measured on their visible masks, in px."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

import cv2
import numpy as np
from numpy.typing import NDArray

from pnseg_runtime.atlas import Atlas
from pnseg_runtime.nuclei import Mask


@dataclass(frozen=True)
class Measurements:
    """N nuclei, one entry each.

    Attributes:
        centroids: (N, 2) float32, mean (x, y) of the pixel centres, px.
        area: (N,) int64, pixels.
        perimeter: (N,) float32, px. For every 8-connected part, the length of the polygon through
            the centres of its outer pixels, plus π: the outline is that polygon moved outwards by
            half a pixel, which adds exactly π to a convex one. Holes do not count.
        eccentricity: (N,) float32, 0 (circle) to 1 (line): √(1 − minor/major) of the principal
            second central moments. A pixel counts as a unit square, which adds 1/12 to the moment
            along either axis; so single pixels and lines have a value too.
    """

    centroids: NDArray[np.float32]
    area: NDArray[np.int64]
    perimeter: NDArray[np.float32]
    eccentricity: NDArray[np.float32]


def measure(masks: Sequence[Mask], offsets: NDArray[np.integer]) -> Measurements:
    """Measure all nuclei of an image at once.

    Args:
        masks: N masks, (h, w) bool.
        offsets: (N, 2) int, (x, y) of each mask's first pixel in the image, px.
    """
    atlas = Atlas.of(masks)
    count = len(atlas)
    y, x = np.nonzero(atlas.labels)
    owner = atlas.labels[y, x] - 1
    x, y = x - atlas.origins[owner, 0], y - atlas.origins[owner, 1]
    area = np.bincount(owner, minlength=count)

    def mean(values: NDArray[np.number]) -> NDArray[np.float64]:
        return np.bincount(owner, values, minlength=count) / area

    centre_x, centre_y = mean(x), mean(y)
    dx, dy = x - centre_x[owner], y - centre_y[owner]
    xx, yy, xy = mean(dx * dx) + 1 / 12, mean(dy * dy) + 1 / 12, mean(dx * dy)
    spread = np.hypot(xx - yy, 2 * xy)
    return Measurements(
        centroids=(np.stack([centre_x, centre_y], axis=1) + offsets).astype(np.float32),
        area=area.astype(np.int64),
        perimeter=perimeters(atlas).astype(np.float32),
        # minor/major = (xx + yy − spread) / (xx + yy + spread), so 1 − minor/major is:
        eccentricity=np.sqrt(2 * spread / (xx + yy + spread)).astype(np.float32),
    )


def perimeter(mask: Mask) -> float:
    """Length of a mask's outer outlines, px, as :class:`Measurements` defines it."""
    return float(perimeters(Atlas.of([mask]))[0])


def perimeters(atlas: Atlas) -> NDArray[np.float64]:
    """(N,) the same of every mask."""
    owner, contours = atlas.borders(cv2.RETR_EXTERNAL, cv2.CHAIN_APPROX_SIMPLE)
    lengths = np.array([cv2.arcLength(contour, True) + math.pi for contour in contours], np.float64)
    return np.asarray(np.bincount(owner, lengths, minlength=len(atlas)), np.float64)
