"""One labelled image."""

from __future__ import annotations

from dataclasses import dataclass, replace
from hashlib import sha256
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from pnseg_runtime.errors import ImageError
from pnseg_runtime.rescale import Rescaling


class SizeMismatchError(ImageError):
    """An image and its label are not of one size."""


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

    def at_mpp(self, mpp: float) -> Sample:
        """This sample at a model's microns per pixel; itself where it fits or its own are unknown."""
        rescaling = Rescaling.between(self.instances.shape, self.mpp, mpp)
        if not rescaling.needed:
            return self
        return replace(
            self,
            image=rescaling.image(self.image),
            instances=rescaling.maps(self.instances),
            classes=rescaling.maps(self.classes),
            mpp=mpp,
        )

    def classless_ids(self) -> NDArray[np.int32]:
        """The ids, ascending, of nuclei any pixel of which has no class."""
        return np.unique(self.instances[(self.instances != 0) & (self.classes == 0)])

    def with_classes(self, number: int) -> Sample:
        """This sample for a model of so many classes; with one, every nucleus is of it.

        Raises:
            ImageError: the sample has more classes than the model, or a nucleus without a class.
        """
        if number == 1:
            return replace(self, classes=(self.instances != 0).astype(np.uint8))
        found = np.unique(self.classes[self.instances != 0])
        if len(found) and (found[0] == 0 or found[-1] > number):
            raise ImageError(
                f"{self.name}: its nuclei have the classes {found.tolist()}, the model has 1 to {number}; "
                "choose a recipe with the classes of this data set, or one with a single class."
            )
        return self


def image_digest(image: NDArray[np.uint8]) -> str:
    """SHA-256 of an image's sides and pixels (H, W, 3): the same for the same image, whatever its file."""
    return sha256(f"{image.shape}".encode() + np.ascontiguousarray(image).tobytes()).hexdigest()


def check_size(label: Path, instances: NDArray[np.generic], image: NDArray[np.uint8]) -> None:
    """See that a label map (H, W) lies on its image (H, W, 3).

    Raises:
        SizeMismatchError: it does not.
    """
    if instances.shape != image.shape[:2]:
        wanted = " × ".join(map(str, image.shape[1::-1]))
        found = " × ".join(map(str, instances.shape[::-1]))
        raise SizeMismatchError(f"{label}: {found} px, but its image has {wanted} px; export the label again.")


def consecutive(labels: NDArray[np.integer]) -> NDArray[np.int32]:
    """Instance ids (H, W) of any values → 1..N in the same order, int32; 0 stays background."""
    ids, numbers = np.unique(np.append(labels.ravel(), 0), return_inverse=True)
    return (numbers[:-1] - np.searchsorted(ids, 0)).reshape(labels.shape).astype(np.int32)
