"""Nuclei have about one size in all tissue: those that were found tell whether a resolution can be right."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import replace

import numpy as np
from numpy.typing import NDArray

from pnseg_runtime.bundle import Guess
from pnseg_runtime.errors import ImageError
from pnseg_runtime.nuclei import Mask, Nuclei

#: Median diameters that H&E sections have, µm: lymphocytes come to 5, tumours to 12.
SMALLEST, USUAL, LARGEST = 3.0, 7.0, 18.0
#: Fewer nuclei tell nothing.
LEAST = 15
#: A median diameter under this at the model's resolution, µm, means that the image is probably a coarser one's, and by
#: how much it is then enlarged. Measured in docs/nano.md.
SMALL, ENLARGED = 6.0, 1.5
_BIN = 0.05  # µm
_BINS = 2000


def diameters_of(masks: Sequence[Mask], mpp: float) -> Diameters:
    """Those of an image's masks, at its microns per pixel."""
    diameters = Diameters()
    diameters.add(np.array([np.count_nonzero(mask) for mask in masks], np.float64) * mpp**2)
    return diameters


def likely_mpp(masks: Sequence[Mask], model_mpp: float) -> float:
    """Microns per pixel of an image of unknown resolution, of what was found in it at the model's."""
    median = diameters_of(masks, model_mpp).median
    return model_mpp * ENLARGED if median is not None and median < SMALL else model_mpp


def seen_at(
    predict: Callable[[float | None], Nuclei], mpp: float | None, guess: Guess, model_mpp: float
) -> tuple[Nuclei, float]:
    """Nuclei of an image at its microns per pixel, or by a guess where these are unknown.

    Args:
        predict: microns per pixel → the image's nuclei; None has the image taken as it is.
        mpp: of the image, None if unknown.
        guess: what it is then taken for.
        model_mpp: of the model.

    Returns:
        The nuclei, and by how much the guess enlarged the image.
    """
    return at_likely_mpp(predict, model_mpp) if mpp is None and guess == "auto" else (predict(mpp), 1.0)


def at_likely_mpp(predict: Callable[[float | None], Nuclei], model_mpp: float) -> tuple[Nuclei, float]:
    """Nuclei of an image of unknown resolution; if they are small, those of a second, enlarged look.

    An image that is too large to be enlarged is looked at once.

    Args:
        predict: microns per pixel → the image's nuclei.
        model_mpp: of the model.

    Returns:
        Nuclei without microns per pixel, since what is likely is not measured, and by how much the image was enlarged.
    """
    first = predict(None)
    likely = likely_mpp(first.masks, model_mpp)
    if likely == model_mpp:
        return first, 1.0
    try:
        second = predict(likely)
    except ImageError:
        return first, 1.0
    timings = {stage: first.timings.get(stage, 0.0) + seconds for stage, seconds in second.timings.items()}
    return replace(second, mpp=None, timings=timings), likely / model_mpp


class Diameters:
    """The diameters of any number of nuclei, in the memory of a histogram."""

    def __init__(self) -> None:
        self._counts = np.zeros(_BINS, np.int64)

    def add(self, areas: NDArray[np.floating]) -> None:
        """Nuclei of these areas, µm²."""
        bins = np.minimum(np.sqrt(4.0 / np.pi * np.asarray(areas, np.float64)) / _BIN, _BINS - 1).astype(np.intp)
        self._counts += np.bincount(bins, minlength=_BINS)

    @property
    def median(self) -> float | None:
        """Median diameter of a disc of a nucleus's area, µm, to 0.05; None without nuclei."""
        total = int(self._counts.sum())
        if not total:
            return None
        return float((np.searchsorted(np.cumsum(self._counts), (total + 1) // 2) + 0.5) * _BIN)

    def doubt(self, mpp: float) -> str | None:
        """One sentence if nuclei of this size mean that the microns per pixel are wrong."""
        total, median = int(self._counts.sum()), self.median
        if median is None or total < LEAST or SMALLEST <= median <= LARGEST:
            return None
        return (
            f"at {mpp:g} µm per pixel the {total} nuclei found have a median diameter of {median:.1f} µm, which no "
            f"tissue has; with --mpp {mpp * USUAL / median:.2g} they would have the usual {USUAL:g} µm."
        )
