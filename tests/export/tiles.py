"""Real tiles with annotations: 50 where the published sets are, and those in tests/data that everyone has."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

import cv2
import numpy as np
from numpy.typing import NDArray

from pnseg_train.datasets import open_dataset
from tests import golden
from tests.real_data import real

SIDE = 256

#: Data set → (split, images, crops an image): 50 in all, none of them trained on.
SETS = {"dsb2018_stained": ("val", 16, 1), "tnbc": ("val", 6, 2), "kumar": ("val", 4, 4), "consep": ("train", 6, 1)}


@dataclass(frozen=True)
class Annotated:
    """A tile (256, 256, 3) uint8 and its label map."""

    image: NDArray[np.uint8]
    labels: NDArray[np.int32]


def fifty() -> list[Annotated]:
    """50 tiles of four published sets; skips where they are absent."""
    found = []
    for name, (split, images, crops) in SETS.items():
        samples = list(open_dataset(real(name), split))[:images]
        found += [tile for sample in samples for tile in _crops(sample.image, sample.instances, crops)]
    return found


def everyones() -> list[Annotated]:
    """The tiles in tests/data."""
    samples = open_dataset(golden.TILES, None)
    return [tile for sample in samples for tile in _crops(sample.image, sample.instances, 1)]


def write_coarse(folder: Path) -> None:
    """A data set of one image at half the resolution of nano, 0.5 µm a pixel, in the split "val"."""
    (sample,) = open_dataset(golden.TILES, "val")
    image = cv2.resize(sample.image[:SIDE, :SIDE, ::-1], None, fx=0.5, fy=0.5)
    for name, pixels in (("images", image), ("labels", sample.instances[1:SIDE:2, 1:SIDE:2].astype(np.uint8))):
        (folder / name).mkdir(parents=True)
        cv2.imwrite(str(folder / name / "a.png"), pixels)
    (folder / "index.csv").write_text("id,split,mpp\na,val,0.5\n")


def _crops(image: NDArray[np.uint8], labels: NDArray[np.int32], count: int) -> list[Annotated]:
    height, width = labels.shape
    if count == 1:
        corners = [(max(height - SIDE, 0) // 2, max(width - SIDE, 0) // 2)]
    else:
        corners = [(0, 0), (height - SIDE, width - SIDE), (0, width - SIDE), (height - SIDE, 0)][:count]
    return [
        Annotated(np.ascontiguousarray(image[y : y + SIDE, x : x + SIDE]), labels[y : y + SIDE, x : x + SIDE])
        for y, x in corners
    ]
