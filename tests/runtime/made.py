"""Nuclei and models made by hand, whose every number is known."""

from __future__ import annotations

from dataclasses import dataclass, field
from pathlib import Path

import numpy as np
from numpy.typing import NDArray
from PIL import Image
from scipy import ndimage

from pnseg_runtime import images
from pnseg_runtime.bundle import Bundle, Guess, Manifest
from pnseg_runtime.nuclei import Mask, Nuclei, NucleusClass

SAMPLES = Path(images.__file__).parent / "samples"
CLASSES = (NucleusClass("neoplastic", (255, 0, 0)), NucleusClass("inflammatory", (0, 200, 0)))


def sample(name: str = "he_pink") -> NDArray[np.uint8]:
    """Pixels of a sample image."""
    return np.asarray(Image.open(SAMPLES / f"{name}.png").convert("RGB"))


def nuclei_of(masks: list[tuple[int, int, Mask]], shape: tuple[int, int], mpp: float | None = None) -> Nuclei:
    """Nuclei of (x0, y0, mask), with falling predicted IoU and alternating classes."""
    count = len(masks)
    boxes = np.array([(x, y, x + m.shape[1], y + m.shape[0]) for x, y, m in masks], np.int32).reshape(-1, 4)
    return Nuclei(
        shape=shape,
        points=(boxes[:, :2] + boxes[:, 2:] - 1).astype(np.float32) / 2,
        classes=np.arange(count, dtype=np.int64) % 2,
        scores=np.linspace(0.9, 0.5, count, dtype=np.float32),
        ious=np.linspace(0.95, 0.6, count, dtype=np.float32),
        boxes=boxes,
        masks=tuple(mask for _, _, mask in masks),
        class_table=CLASSES,
        mpp=mpp,
    )


def square_ring_and_pair(mpp: float | None = None) -> Nuclei:
    """In 30×40 px: a 4×6 rectangle, a 5×5 square with a hole of one pixel, and two separate squares of 2×2."""
    ring = np.ones((5, 5), bool)
    ring[2, 2] = False
    pair = np.zeros((2, 6), bool)
    pair[:, :2] = pair[:, 4:] = True
    return nuclei_of([(3, 2, np.ones((4, 6), bool)), (20, 10, ring), (5, 20, pair)], (30, 40), mpp)


def dark_spots(rgb: NDArray[np.uint8], mpp: float | None = None) -> Nuclei:
    """Every dark connected region of an image: a model of a model."""
    labels, _ = ndimage.label(rgb.mean(axis=2) < 110)
    parts = [
        (where[1].start, where[0].start, labels[where] == label)
        for label, where in enumerate(ndimage.find_objects(labels), start=1)
        if (labels[where] == label).sum() >= 30
    ]
    return nuclei_of(parts, rgb.shape[:2], mpp)


@dataclass
class DarkSpotModel:
    """Predicts :func:`dark_spots` and remembers what it was asked."""

    asked: list[tuple[tuple[int, ...], float | None]] = field(default_factory=list)
    unknown_mpp: Guess = "model"
    backend: str = "handmade"
    precision: str = "float32"

    @property
    def manifest(self) -> Manifest:
        return Bundle.open("nano").manifest.model_copy(update={"unknown_mpp": self.unknown_mpp})

    def predict(self, rgb: NDArray[np.uint8], mpp: float | None = None, *, guessed: bool = False) -> Nuclei:
        assert rgb.dtype == np.uint8
        assert rgb.ndim == 3
        self.asked.append((rgb.shape, mpp))
        return dark_spots(rgb, mpp)
