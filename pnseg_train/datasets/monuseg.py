"""MoNuSeg 2018: the 30 tiles of Kumar as training images and 14 test images (Kumar et al. 2020).

``train`` is what remains when one training image of each organ is held out as ``val``; all 30 are
``train+val``. The download may hold further training images; they belong to no split.
"""

from __future__ import annotations

from pathlib import Path

from pnseg_train.datasets import tcga
from pnseg_train.datasets.samples import Samples

CLASSES = ("nucleus",)
SCHEMES = {"": tcga.division(tcga.KUMAR_30, tcga.MONUSEG_TEST_14)}


def recognises(folder: Path) -> bool:
    """Whether any of the 14 test images is there; the training images alone are Kumar's."""
    return not {tile.patient for tile in tcga.find_tiles(folder)}.isdisjoint(tcga.MONUSEG_TEST_14)


def splits(folder: Path) -> tuple[str, ...]:
    """The splits of which there are images."""
    return tcga.splits_present(folder, SCHEMES[""])


def read(folder: Path, split: str | None = None) -> Samples:
    """The tiles of ``train``, ``val`` or ``test``; None for all.

    Raises:
        ImageError: no such split, or none of its images is there.
    """
    return tcga.read_tiles(folder, split, SCHEMES)
