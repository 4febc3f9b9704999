"""Images of another resolution than the model's: seen at the model's, reported in their own pixels.

*Work pixels* are those of the model's resolution. A pixel centre (centres at integers) at ``p`` work px
lies at ``(p + 0.5) · scale − 0.5`` px of the image, with a scale for each axis.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import TypeVar

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from pnseg_runtime.errors import ImageError
from pnseg_runtime.masks import tighten
from pnseg_runtime.nuclei import Nuclei
from pnseg_runtime.options import LEAST_MPP, MOST_MPP
from pnseg_runtime.painting import largest_piece
from pnseg_runtime.pixels import MAX_PIXELS
from pnseg_runtime.prompts import PointPrompts

#: Images whose pixels differ from the model's by less are taken as they are: scanners of one kind differ
#: that much, nuclei differ more, and resampling costs sharpness.
TOLERANCE = 0.05

Scalar = TypeVar("Scalar", bound=np.generic)


@dataclass(frozen=True)
class Rescaling:
    """The way from an image to work pixels and back.

    Attributes:
        shape: (height, width) of the image, px.
        work: (height, width) in work px; the image's own if it is taken as it is.
        mpp: microns per pixel of the image, None if unknown.
        enlargement: work px a pixel of the image.
    """

    shape: tuple[int, int]
    work: tuple[int, int]
    mpp: float | None = None
    enlargement: float = 1.0

    @classmethod
    def between(cls, shape: tuple[int, int], mpp: float | None, model_mpp: float) -> Rescaling:
        """What an image needs; it is taken as it is if it fits, or if its resolution is unknown.

        Args:
            shape: (height, width) of the image, px.
            mpp: microns per pixel of the image, None if unknown.
            model_mpp: of the model.

        Raises:
            ImageError: no image has such microns per pixel, or this one would have more than ``MAX_PIXELS`` work px.
        """
        if mpp is not None and not LEAST_MPP <= mpp <= MOST_MPP:
            raise ImageError(
                f"{mpp:g} µm per pixel is not what an image has ({LEAST_MPP:g} to {MOST_MPP:g}); give None where it is "
                "not known."
            )
        if mpp is None or abs(model_mpp / mpp - 1.0) <= TOLERANCE:
            return cls(shape, shape, mpp)
        height, width = (max(round(side * mpp / model_mpp), 1) for side in shape)
        if width * height > MAX_PIXELS:
            raise ImageError(
                f"{shape[1]}×{shape[0]} px at {mpp:g} µm per pixel are {width}×{height} px at the model's "
                f"{model_mpp:g}, more than is predicted whole ({MAX_PIXELS // 1_000_000} megapixels); "
                "save it as TIFF and run pnseg slide on it, or correct its microns per pixel."
            )
        return cls(shape, (height, width), mpp, mpp / model_mpp)

    @property
    def needed(self) -> bool:
        """Whether work px are others than the image's."""
        return self.work != self.shape

    def image(self, rgb: NDArray[np.uint8]) -> NDArray[np.uint8]:
        """(H, W, 3) uint8 → the same picture in work px, free of aliases."""
        if not self.needed:
            return rgb
        height, width = self.work
        return np.asarray(Image.fromarray(rgb).resize((width, height), Image.Resampling.BICUBIC))

    def maps(self, maps: NDArray[Scalar]) -> NDArray[Scalar]:
        """A map (H, W) of labels in work px: each takes the label that its centre falls on."""
        rows, columns = (
            _nearest(np.arange(work), work, side) for work, side in zip(self.work, self.shape, strict=True)
        )
        return np.ascontiguousarray(maps[rows[:, None], columns])

    def points(self, points: PointPrompts) -> PointPrompts:
        """Points in px of the image → in work px."""
        if not self.needed:
            return points
        return replace(points, coords=((points.coords + 0.5) / self._scale() - 0.5).astype(np.float32))

    def back(self, nuclei: Nuclei, tidy: bool = False) -> Nuclei:
        """Nuclei found in work px, in px of the image; those that cover none of its pixels' centres are left out.

        Args:
            nuclei: in work px.
            tidy: of a nucleus that falls into pieces in the image's px only the largest is kept.
        """
        nuclei = replace(nuclei, mpp=self.mpp)
        if not self.needed:
            return nuclei
        # The work px under each row and column of the image. Where a centre lies on the edge between two, rounding
        # decides, so this alone says which rows and columns are a nucleus's.
        rows, columns = (
            _nearest(np.arange(side), side, work) for side, work in zip(self.shape, self.work, strict=True)
        )
        boxes, masks = [], []
        for (x0, y0, x1, y1), mask in zip(nuclei.boxes, nuclei.masks, strict=True):
            top, bottom = np.searchsorted(rows, (y0, y1))
            left, right = np.searchsorted(columns, (x0, x1))
            own = mask[rows[top:bottom] - y0][:, columns[left:right] - x0]
            box, own = tighten(largest_piece(own) if tidy else own, (int(left), int(top)))
            boxes.append(box)
            masks.append(own)
        kept = np.array([mask.size > 0 for mask in masks], bool)
        return replace(
            nuclei,
            shape=self.shape,
            points=((nuclei.points + 0.5) * self._scale() - 0.5).astype(np.float32)[kept],
            classes=nuclei.classes[kept],
            scores=nuclei.scores[kept],
            ious=nuclei.ious[kept],
            boxes=np.array(boxes, nuclei.boxes.dtype).reshape(-1, 4)[kept],
            masks=tuple(mask for mask in masks if mask.size),
        )

    def _scale(self) -> NDArray[np.float64]:
        # (x, y): px of the image a work px.
        return np.array([self.shape[1] / self.work[1], self.shape[0] / self.work[0]])


def _nearest(index: NDArray[np.intp], side: int, other: int) -> NDArray[np.intp]:
    # The px of an axis of ``other`` px that the centres of px ``index`` of the same axis at ``side`` px fall into.
    return np.minimum(((index + 0.5) * (other / side)).astype(np.intp), other - 1)
