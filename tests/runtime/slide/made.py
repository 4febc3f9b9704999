"""Slides made of the sample images."""

from __future__ import annotations

from pathlib import Path

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from tests.runtime.made import sample

Pixels = NDArray[np.uint8]


def save_image(path: Path, pixels: Pixels) -> Path:
    """Write pixels as the kind that the path's suffix names."""
    Image.fromarray(pixels).save(path)
    return path


def sample_mosaic() -> Pixels:
    """384×512 of two real H&E tiles, mirrored at their seams as tissue goes on."""
    tile = sample("he_pink")[:192, :256]
    other = sample("purple_crowded")[:192, :256]
    return np.concatenate(
        [np.concatenate([tile, tile[:, ::-1]], axis=1), np.concatenate([other, other[:, ::-1]], axis=1)]
    )
