"""Plain TIFFs of any size, tiled or in strips, decoded piece by piece; pyramids and OME-TIFF among them."""

from __future__ import annotations

import logging
import threading
from collections import OrderedDict
from pathlib import Path
from typing import Any

import numpy as np
import tifffile

from pnseg_runtime.colour import TO_RGB, UnsupportedImage
from pnseg_runtime.errors import one_line
from pnseg_runtime.slide.readers.base import (
    Box,
    Facts,
    Level,
    NotMine,
    Pixels,
    SlideReader,
    UnreadableRegion,
    downsample_of,
    is_tiff,
    is_whole,
)
from pnseg_runtime.tiff import credible_mpp, normalise_samples, stated_mpp

LOGGER = logging.getLogger("pnseg.slide")

#: Kinds of TIFF whose series are images side by side; those of scanners begin with the slide.
_SIDE_BY_SIDE = ("ome", "generic", "uniform", "shaped")
_SMALL = 0.1  # of the slide's pixels: no more than that have its label and its overview

_PIECE_LIMIT = 100_000_000  # px of one tile or strip
_CACHE_BYTES = 64_000_000
_CENTIMETRE, _INCH = 3, 2
_MICRONS = {_CENTIMETRE: 10_000, _INCH: 25_400}


def open_slide(path: Path) -> SlideReader:
    """Open a TIFF.

    Raises:
        NotMine: it is none, damaged, a stack, or has no meaning in RGB.
    """
    if not is_tiff(path):
        raise NotMine("not a TIFF")
    try:
        handle = tifffile.TiffFile(path)
    except Exception as error:
        raise NotMine(one_line(error)) from error
    try:
        return TiffReader(path, handle)
    except NotMine:
        handle.close()
        raise
    except Exception as error:  # whatever a damaged directory makes tifffile raise
        handle.close()
        raise NotMine(one_line(error)) from error


class TiffReader(SlideReader):
    """A TIFF of which only the pieces that are wanted are decoded."""

    def __init__(self, path: Path, handle: tifffile.TiffFile) -> None:
        series = _slide_in(path, handle)
        if series.axes not in ("YX", "YXS"):
            raise NotMine(f"it is a stack or has separate planes (axes {series.axes})")
        self._handle = handle
        self._pages = [level.keyframe for level in series.levels]
        for page in self._pages:
            _check(page)
        self._lock = threading.Lock()
        self._cache: OrderedDict[tuple[int, int], Pixels] = OrderedDict()
        shapes = [(int(page.imagelength), int(page.imagewidth)) for page in self._pages]
        mpp, hint = _mpp_of(handle, self._pages[0], first=series is handle.series[0])
        levels = tuple(Level(shape, downsample_of(shapes[0], shape)) for shape in shapes)
        super().__init__("tiff", path, Facts(levels=levels, mpp=mpp, hint=hint, files=(path,)))

    def _read(self, level: int, box: Box) -> Pixels:
        page = self._pages[level]
        height, width = _piece_shape(page)
        across = -(-page.imagewidth // width)
        x0, y0, x1, y1 = box
        canvas = np.empty((y1 - y0, x1 - x0, 3), np.uint8)
        for row in range(y0 // height, -(-y1 // height)):
            for column in range(x0 // width, -(-x1 // width)):
                piece = self._piece(level, row * across + column)
                top, left = row * height, column * width
                ys = slice(max(y0, top), min(y1, top + piece.shape[0]))
                xs = slice(max(x0, left), min(x1, left + piece.shape[1]))
                canvas[ys.start - y0 : ys.stop - y0, xs.start - x0 : xs.stop - x0] = piece[
                    ys.start - top : ys.stop - top, xs.start - left : xs.stop - left
                ]
        return canvas

    def _piece(self, level: int, index: int) -> Pixels:
        """(h, w, 3) of one tile or strip, cut to the image."""
        with self._lock:
            if (level, index) in self._cache:
                self._cache.move_to_end((level, index))
                return self._cache[level, index]
            piece = self._decode(self._pages[level], index)
            self._cache[level, index] = piece
            while sum(each.nbytes for each in self._cache.values()) > _CACHE_BYTES and len(self._cache) > 1:
                self._cache.popitem(last=False)
            return piece

    def _decode(self, page: Any, index: int) -> Pixels:
        count = page.databytecounts[index]
        if not count:  # a sparse file: never written, so nothing was there
            height, width = _piece_shape(page)
            return np.full((height, width, 3), 255, np.uint8)
        file = self._handle.filehandle
        file.seek(page.dataoffsets[index])
        data = file.read(count)
        if len(data) < count:
            raise UnreadableRegion("pixel data end early")
        tables = page.jpegtables
        decoded, _, shape = page.decode(data, index, **({"jpegtables": tables} if tables is not None else {}))
        if decoded is None:
            raise UnreadableRegion("no pixel data")
        height, width = shape[1:3]
        samples, layout = normalise_samples(_flat(decoded)[:height, :width], page)
        return TO_RGB[layout](samples)

    def close(self) -> None:
        self._handle.close()


def _slide_in(path: Path, handle: tifffile.TiffFile) -> Any:
    """The series that is the slide: the largest image of the file, which is said where others may be meant.

    Labels and overviews that a file holds beside its slide are far smaller, and a level of a pyramid that is not marked
    as one is the slide again.
    """
    first = handle.series[0]
    if first.kind not in _SIDE_BY_SIDE:
        return first
    images = [series for series in handle.series if not series.keyframe.is_mask]
    largest = max(images, key=_pixels_of, default=first)
    full = Level(_shape_of(largest), 1.0)
    others = [
        series
        for series in images
        if series is not largest
        and _pixels_of(series) > _SMALL * _pixels_of(largest)
        and not _is_level(full, _shape_of(series))
    ]
    if others:
        sizes = ", ".join("{1}×{0} px".format(*_shape_of(series)) for series in others[:3])
        LOGGER.warning(
            "%s: holds several images, of which the largest is the slide (%d×%d px); if the others are wanted (%s%s), "
            "save them by themselves.",
            *(path, *full.shape[::-1], sizes, ", …" if len(others) > 3 else ""),
        )
    return largest


def _shape_of(series: Any) -> tuple[int, int]:
    """(height, width), px."""
    return int(series.keyframe.imagelength), int(series.keyframe.imagewidth)


def _pixels_of(series: Any) -> int:
    height, width = _shape_of(series)
    return height * width


def _is_level(full: Level, shape: tuple[int, int]) -> bool:
    step = downsample_of(full.shape, shape)
    return step > 1 and is_whole(full, Level(shape, step))


def _flat(decoded: Any) -> Any:
    """(1, h, w, samples) → (h, w, samples), or (h, w) of one sample."""
    piece = decoded.reshape(decoded.shape[-3:])
    return piece[..., 0] if piece.shape[-1] == 1 else piece


def _piece_shape(page: Any) -> tuple[int, int]:
    """(height, width) of a tile, or of a strip."""
    if page.is_tiled:
        return int(page.tilelength), int(page.tilewidth)
    return int(min(page.rowsperstrip, page.imagelength)), int(page.imagewidth)


def _check(page: Any) -> None:
    """See that a level's pieces can be decoded and have a meaning in RGB.

    Raises:
        NotMine: they do not.
    """
    if page.planarconfig != 1 and page.samplesperpixel > 1:
        raise NotMine("its colours lie in separate planes")
    height, width = _piece_shape(page)
    if height * width > _PIECE_LIMIT:
        raise NotMine(f"it is one piece of {width}×{height} px")
    if page.compression != 1 and page.compression not in tifffile.TIFF.DECOMPRESSORS:
        raise NotMine(f"its compression ({page.compression}) is unknown")
    try:
        normalise_samples(np.zeros((1, 1, page.samplesperpixel), page.dtype), page)
    except UnsupportedImage as error:
        raise NotMine(one_line(error)) from error


def _mpp_of(handle: tifffile.TiffFile, page: Any, first: bool) -> tuple[float | None, str]:
    """Microns per pixel and what the file says instead; inches are a printer's unit and never believed.

    What an OME-TIFF states is of its first image.
    """
    stated = stated_mpp(handle, page)
    if stated is not None and handle.is_ome and not first:
        return None, f"states {stated:.4g} of its first image, and this is another"
    if stated is not None or "XResolution" not in page.tags or "YResolution" not in page.tags:
        return stated, ""
    unit = int(page.tags["ResolutionUnit"].value) if "ResolutionUnit" in page.tags else _INCH
    sides = []
    for axis in "XY":
        pixels, units = page.tags[f"{axis}Resolution"].value
        sides.append(_MICRONS.get(unit, 0) * units / max(pixels, 1))
    hint = f"its resolution tags say {sides[0]:.4g}"
    return (credible_mpp(*sides) if unit == _CENTIMETRE else None), hint if sides[0] else ""
