"""Shape of nuclei, measured on their visible masks, in px."""

from __future__ import annotations

import math
from dataclasses import dataclass

import cv2
import numpy as np
from numpy.typing import NDArray

from pnseg_runtime.nuclei import Mask, Nuclei


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


def measure(nuclei: Nuclei) -> Measurements:
    """Measure every nucleus of an image."""
    moments = [_moments(mask) for mask in nuclei.masks]
    areas, centres, eccentricities = zip(*moments, strict=True) if moments else ((), (), ())
    return Measurements(
        centroids=(np.array(centres, np.float64).reshape(-1, 2) + nuclei.boxes[:, :2]).astype(np.float32),
        area=np.array(areas, np.int64),
        perimeter=np.array([perimeter(mask) for mask in nuclei.masks], np.float32),
        eccentricity=np.array(eccentricities, np.float32),
    )


def perimeter(mask: Mask) -> float:
    """Length of a mask's outer outlines, px, as :class:`Measurements` defines it."""
    contours, _ = cv2.findContours(mask.astype(np.uint8), cv2.RETR_EXTERNAL, cv2.CHAIN_APPROX_SIMPLE)
    return sum(cv2.arcLength(contour, True) + math.pi for contour in contours)


def _moments(mask: Mask) -> tuple[int, tuple[float, float], float]:
    """Area, centroid (x, y) within the mask, and eccentricity."""
    y, x = np.nonzero(mask)
    centre = (float(x.mean()), float(y.mean()))
    dx, dy = x - centre[0], y - centre[1]
    xx, yy, xy = (dx * dx).mean() + 1 / 12, (dy * dy).mean() + 1 / 12, (dx * dy).mean()
    spread = math.hypot(xx - yy, 2 * xy)
    # minor/major = (xx + yy − spread) / (xx + yy + spread), so 1 − minor/major is:
    return len(x), centre, math.sqrt(2 * spread / (xx + yy + spread))
