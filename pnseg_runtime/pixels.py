"""Pixels as they come and as the networks take them: checked, normalised, padded."""

from __future__ import annotations

import cv2
import numpy as np
from numpy.typing import NDArray

from pnseg_runtime.buffers import Buffers
from pnseg_runtime.bundle import Normalisation
from pnseg_runtime.errors import ImageError
from pnseg_runtime.options import COARSEST_STRIDE

Pixels = NDArray[np.uint8]

#: Of an image that is read or predicted whole; 20,000 × 20,000 px: 1.2 GB of pixels and 1.6 GB of labels.
MAX_PIXELS = 400_000_000


def check_image(rgb: Pixels) -> tuple[int, int]:
    """(height, width) of an RGB image.

    Raises:
        ImageError: anything but a (H, W, 3) uint8 array with at least one pixel.
    """
    if not isinstance(rgb, np.ndarray):
        raise ImageError(f"An image must be a NumPy array, not {type(rgb).__name__}; convert it with numpy.asarray.")
    if np.issubdtype(rgb.dtype, np.inexact) and not np.isfinite(rgb).all():
        raise ImageError("The image has values that are not finite (NaN or infinite); replace them first.")
    if rgb.ndim != 3 or rgb.shape[2] != 3:
        raise ImageError(f"An image must have the shape (height, width, 3), not {rgb.shape}; convert it to RGB.")
    if rgb.dtype != np.uint8:
        raise ImageError(f"An image must be uint8 with values from 0 to 255, not {rgb.dtype}; scale and convert it.")
    height, width, _ = rgb.shape
    if not height or not width:
        raise ImageError(f"The image has no pixels (its shape is {rgb.shape}); give one of at least 1×1.")
    return height, width


def normalise(rgb: Pixels, normalisation: Normalisation, buffers: Buffers | None = None) -> NDArray[np.float32]:
    """(B, H, W, 3) uint8 → (B, 3, H, W) float32: scaled to 0–1, less the mean, divided by the standard deviation.

    A channel has 256 values, so they are computed once and looked up.

    Args:
        buffers: where the result's memory comes from.
    """
    batch, height, width, channels = rgb.shape
    shape = (batch, channels, height, width)
    out = np.empty(shape, np.float32) if buffers is None else buffers.take(shape, np.float32)
    mean, std = (np.array(values, np.float32) for values in (normalisation.mean, normalisation.std))
    table = (np.arange(256, dtype=np.float32)[:, None] / np.float32(255) - mean) / std
    for image, planes in zip(rgb, out, strict=True):
        for channel in range(channels):
            cv2.LUT(cv2.extractChannel(image, channel), table[:, channel], dst=planes[channel])
    return out


def padded_shape(shape: tuple[int, int], multiple: int) -> tuple[int, int]:
    """The prompter's (height, width), px: the next multiples, and at least one cell of its coarsest features."""
    height, width = (max(-(-side // multiple) * multiple, COARSEST_STRIDE) for side in shape)
    return height, width
