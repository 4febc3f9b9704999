"""An image and its nuclei, as the writers take them."""

from __future__ import annotations

import hashlib
from dataclasses import dataclass
from functools import cached_property

import numpy as np
from numpy.typing import NDArray

from pnseg_runtime.contours import Polygon
from pnseg_runtime.measure import Measurements, measure
from pnseg_runtime.nuclei import Nuclei


@dataclass(frozen=True)
class Prediction:
    """One segmented image.

    Attributes:
        pixels: (H, W, 3) uint8, the image.
        nuclei: what was found in it.
    """

    pixels: NDArray[np.uint8]
    nuclei: Nuclei

    @cached_property
    def measurements(self) -> Measurements:
        """Shape measurements in px, one entry a nucleus."""
        return measure(self.nuclei.masks, self.nuclei.boxes[:, :2])

    @cached_property
    def outlines(self) -> list[list[Polygon]]:
        """Polygons of every nucleus, see :func:`pnseg_runtime.contours.outlines`."""
        return self.nuclei.polygons()

    @cached_property
    def content_hash(self) -> str:
        """:func:`content_hash` of the image."""
        return content_hash(self.pixels)


def content_hash(pixels: NDArray[np.uint8]) -> str:
    """Hex SHA-256 of an image's size and pixels (H, W, 3): the same image has it under any file name."""
    digest = hashlib.sha256(repr(pixels.shape).encode())
    digest.update(np.ascontiguousarray(pixels).data)
    return digest.hexdigest()
