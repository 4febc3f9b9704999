"""One labelled image."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray


@dataclass(frozen=True)
class Sample:
    """An image with its nuclei.

    Attributes:
        name: identifies the image within its set.
        image: (H, W, 3) uint8 RGB.
        instances: (H, W) int32, 0 background, each nucleus its own value.
        classes: (H, W) uint8, 0 background, class c has the value c + 1.
        group: images of one group (patient, slide) stand in one split only.
        tissue: organ or tissue type, "" if unknown.
        mpp: microns per pixel, None if unknown.
    """

    name: str
    image: NDArray[np.uint8]
    instances: NDArray[np.int32]
    classes: NDArray[np.uint8]
    group: str = ""
    tissue: str = ""
    mpp: float | None = None

    def median_diameter(self) -> float:
        """Median over the nuclei of the diameter of a disc of equal area, px; NaN without nuclei."""
        areas = np.bincount(self.instances.ravel())[1:]
        areas = areas[areas > 0]
        return float(np.median(np.sqrt(areas * 4 / np.pi))) if len(areas) else float("nan")
