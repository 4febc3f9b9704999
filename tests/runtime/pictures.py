"""A real tile as arrays of the kinds that image files hold."""

from __future__ import annotations

import numpy as np

from tests.runtime.made import sample

RGB = sample("he_pink")
GREY = RGB[..., 0]


GREY_RGB = np.repeat(GREY[..., None], 3, axis=2)


def with_fourth(value: int) -> np.ndarray:
    return np.dstack([RGB, np.full(GREY.shape, value, np.uint8)])


TWELVE = RGB.astype(np.uint16) * 16 + (RGB >> 4)  # 0–4095
