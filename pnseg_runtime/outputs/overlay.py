"""The outlines on the image."""

from __future__ import annotations

from typing import BinaryIO

import cv2
import numpy as np
from numpy.typing import NDArray
from PIL import Image
from PIL.PngImagePlugin import PngInfo

from pnseg_runtime.outputs.origin import mark
from pnseg_runtime.outputs.prediction import Prediction

_SHIFT = 4  # OpenCV draws at 1/16 px


def write_overlay(prediction: Prediction, stream: BinaryIO) -> None:
    """Write :func:`draw_outlines` as a PNG of the image's size, whose source says which image it is of."""
    texts = PngInfo()
    texts.add_text("Source", mark(prediction.content_hash))
    Image.fromarray(draw_outlines(prediction)).save(stream, format="PNG", pnginfo=texts)


def draw_outlines(prediction: Prediction) -> NDArray[np.uint8]:
    """(H, W, 3) uint8: the image with every nucleus outlined in its class's colour.

    Lines are one pixel wide and anti-aliased, so that the chromatin inside and the border itself can
    still be judged.
    """
    nuclei = prediction.nuclei
    canvas = prediction.pixels.copy()
    for polygons, kind in zip(prediction.outlines, nuclei.classes, strict=True):
        curves = [_fixed_point(smooth(ring)) for rings in polygons for ring in rings]
        color = nuclei.class_table[int(kind)].color
        cv2.polylines(canvas, curves, isClosed=True, color=color, thickness=1, lineType=cv2.LINE_AA, shift=_SHIFT)
    return canvas


def smooth(ring: NDArray[np.float32]) -> NDArray[np.float64]:
    """A closed ring along pixel edges → a curve without the stairs, (M, 2), not repeated at the end.

    The ring is walked in steps of one pixel and every point becomes the mean of five around it, which
    moves no point by more than about a pixel.
    """
    steps = np.diff(np.asarray(ring, np.float64), axis=0)
    counts = np.maximum(np.abs(steps).max(axis=1).round().astype(int), 1)
    starts = np.repeat(ring[:-1].astype(np.float64), counts, axis=0)
    within = np.concatenate([np.arange(n) / n for n in counts])
    points = starts + within[:, None] * np.repeat(steps, counts, axis=0)
    return sum((np.roll(points, shift, axis=0) for shift in range(-2, 3)), np.zeros_like(points)) / 5


def _fixed_point(points: NDArray[np.float64]) -> NDArray[np.int32]:
    # Pixel edges lie at integers in an outline, pixel centres do so in OpenCV.
    return np.round((points - 0.5) * (1 << _SHIFT)).astype(np.int32)
