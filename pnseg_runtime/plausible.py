"""Nuclei have about one size in all tissue: those that were found tell whether the stated resolution can be right."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray

from pnseg_runtime.nuclei import Mask

#: Median diameters that H&E sections have, µm: lymphocytes come to 5, tumours to 12.
SMALLEST, USUAL, LARGEST = 3.0, 7.0, 18.0
#: Fewer nuclei tell nothing.
LEAST = 15
_BIN = 0.05  # µm
_BINS = 2000


def diameters_of(masks: Sequence[Mask], mpp: float) -> Diameters:
    """Those of an image's masks, at its microns per pixel."""
    diameters = Diameters()
    diameters.add(np.array([np.count_nonzero(mask) for mask in masks], np.float64) * mpp**2)
    return diameters


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
