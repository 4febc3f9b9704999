"""Tissue on a thumbnail: where to look at all."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

import cv2
import numpy as np
from numpy.typing import NDArray

from pnseg_runtime.errors import ImageError
from pnseg_runtime.slide.readers.base import Box, Pixels, SlideReader
from pnseg_runtime.slide.resolution import Resolution, at_scale, reach_of, read_work

BoolMap = NDArray[np.bool_]

THUMBNAIL = 2048  # px, longest side
_STRIP = 4_000_000  # px of a level read at a time, if that is enough for _ROWS
_ROWS = 8  # of the picture read at a time, at the least: as many again are not read around them
_PART = 64_000_000  # px of a level read at a time, at the most
_COLOURFUL = (6, 20)  # the least and the most that the threshold of colour may be, 0–255
_DARKER = 30  # than glass, without colour: a grey image's tissue
_BLACK = 40  # scanner's borders and ink: dark without colour
_LEAST_MICRONS = 60  # side of the smallest piece of tissue
_MARGIN_MICRONS = 40  # around tissue


@dataclass(frozen=True)
class Thumbnail:
    """A small picture of a slide.

    Attributes:
        pixels: (h, w, 3) uint8.
        scale: px of level 0 a pixel of the picture.
        unreadable: (h, w) bool, white in the picture because it could not be decoded; None if all could.
    """

    pixels: Pixels
    scale: float
    unreadable: BoolMap | None = None

    @property
    def shape(self) -> tuple[int, int]:
        return self.pixels.shape[0], self.pixels.shape[1]


def thumbnail_of(reader: SlideReader, longest: int = THUMBNAIL) -> Thumbnail:
    """A small picture, from the coarsest level that is fine enough, read in strips, or in parts of them.

    Raises:
        ImageError: nothing of the slide can be decoded.
    """
    height, width = reader.shape
    resolution = at_scale(reader, max(1.0, max(height, width) / longest))
    shape = resolution.shape
    rows, columns = _part_of(resolution)
    pixels = np.empty((*shape, 3), np.uint8)
    boxes, reasons = [], []
    for top in range(0, shape[0], rows):
        for left in range(0, shape[1], columns):
            right, bottom = min(left + columns, shape[1]), min(top + rows, shape[0])
            reading = read_work(reader, resolution, (left, top, right, bottom))
            pixels[top:bottom, left:right] = reading.pixels
            boxes += [box for box, _ in reading.unreadable]
            reasons += [reason for _, reason in reading.unreadable]
    lost = sum((x1 - x0) * (y1 - y0) for x0, y0, x1, y1 in boxes)
    if lost > 0.99 * height * width:
        raise ImageError(f"{reader.path}: its pixels cannot be decoded ({reasons[0].rstrip('.')}); copy it again.")
    unreadable = _touched(boxes, shape, resolution.scale) if boxes else None
    return Thumbnail(pixels, resolution.scale, unreadable)


def _part_of(resolution: Resolution) -> tuple[int, int]:
    """(rows, columns) of a picture that are read at a time.

    What is read around a part has the height of some rows, so a part is no lower than that. Whole rows suit a file in
    strips; where they are too many pixels, at a large reduction, they are divided.
    """
    step = max(resolution.step, 1)
    rows = max(_ROWS, int(_STRIP / (resolution.shape[1] * step**2)))
    around = 2 * reach_of(resolution) / step
    columns = int(_PART / ((rows + around) * step**2) - around)
    return rows, min(max(columns, 1), resolution.shape[1])


def _touched(boxes: Sequence[Box], shape: tuple[int, int], scale: float) -> BoolMap:
    """(h, w) bool: cells of ``scale`` px of level 0 that a box touches, and those beside them, as resampling mixes."""
    cells = np.zeros(shape, np.bool_)
    for x0, y0, x1, y1 in boxes:
        left, top = (max(math.floor(value / scale) - 1, 0) for value in (x0, y0))
        cells[top : math.ceil(y1 / scale) + 1, left : math.ceil(x1 / scale) + 1] = True
    return cells


def find_tissue(thumbnail: Thumbnail, slide_mpp: float) -> BoolMap:
    """Where tissue is: coloured, or darker than glass if the image has no colour, with a margin.

    The threshold of colour is Otsu's, but never above what pale stroma has, so that a slide full of
    tissue is not divided, and never below the noise of compression. Glass that has a tint is white.
    Where hardly anything has colour it is either of the two: a grey image, or glass with a small pale piece.

    What could not be decoded counts as tissue: nobody knows what is there, and another level may show it. Otherwise no
    core would cover it, and it would be neither read nor reported.

    Args:
        thumbnail: the slide.
        slide_mpp: microns per pixel of level 0.

    Returns:
        (h, w) bool, px of the thumbnail.
    """
    if thumbnail.unreadable is not None:
        return _seen_tissue(thumbnail, ~thumbnail.unreadable, slide_mpp) | thumbnail.unreadable
    return _seen_tissue(thumbnail, np.ones(thumbnail.shape, np.bool_), slide_mpp)


def _seen_tissue(thumbnail: Thumbnail, readable: BoolMap, slide_mpp: float) -> BoolMap:
    """(h, w) bool, the tissue that the picture shows; what glass and tissue look like is told by what is readable."""
    if not readable.any():
        return np.zeros(thumbnail.shape, np.bool_)
    mpp = slide_mpp * thumbnail.scale
    smooth = cv2.GaussianBlur(thumbnail.pixels, (0, 0), 1.0).astype(np.int16)
    glass = _glass_of(smooth[readable])
    tinted = np.clip(smooth + (255 - glass), 0, 255)
    colour = (tinted.max(axis=2) - tinted.min(axis=2)).astype(np.uint8)
    dark = 255 - tinted.mean(axis=2)
    black = (smooth.max(axis=2) < _BLACK) & (colour < _COLOURFUL[1])
    if np.percentile(colour[readable], 99) >= _COLOURFUL[0]:
        otsu, _ = cv2.threshold(colour[readable], 0, 255, cv2.THRESH_BINARY + cv2.THRESH_OTSU)
        tissue = (colour > np.clip(otsu, *_COLOURFUL)) & ~black
    else:
        tissue = (dark > _DARKER) | ((colour > _COLOURFUL[0]) & ~black)
    least = (_LEAST_MICRONS / mpp) ** 2
    tissue = _without_specks(tissue, min(least, tissue.size / 100))
    reach = max(1, math.ceil(_MARGIN_MICRONS / mpp))
    disc = cv2.getStructuringElement(cv2.MORPH_ELLIPSE, (2 * reach + 1, 2 * reach + 1))
    return np.asarray(cv2.dilate(tissue.astype(np.uint8), disc), np.bool_)


def _glass_of(pixels: NDArray[np.int16]) -> NDArray[np.int16]:
    """(3,) the colour of empty glass: the usual colour of the brightest of (N, 3) pixels, if it is nearly white."""
    light = pixels.mean(axis=1)
    brightest = pixels[light >= np.percentile(light, 95)]
    glass = np.median(brightest, axis=0)
    near_white = glass.min() > 200 and glass.max() - glass.min() < 24
    return glass.astype(np.int16) if near_white else np.full(3, 255, np.int16)


def _without_specks(tissue: BoolMap, least: float) -> BoolMap:
    count, labels, stats, _ = cv2.connectedComponentsWithStats(tissue.astype(np.uint8), connectivity=8)
    large = stats[:, cv2.CC_STAT_AREA] >= least
    large[0] = False
    return np.asarray(large[labels], np.bool_) if count > 1 else tissue
