"""What OpenSlide reads: Aperio, Hamamatsu, Leica, MIRAX, Philips, Sakura, Trestle, Ventana, DICOM, tiled TIFF."""

from __future__ import annotations

import threading
from pathlib import Path

import numpy as np
import openslide
import tifffile

from pnseg_runtime.colour import rgba_on_white
from pnseg_runtime.slide.readers.base import (
    Box,
    Facts,
    Level,
    NotMine,
    Pixels,
    SlideReader,
    UnreadableRegion,
    downsample_of,
    hint_of,
)
from pnseg_runtime.slide.readers.several import files_of
from pnseg_runtime.tiff import credible_mpp

_BLOCK = 512  # px


def open_slide(path: Path) -> SlideReader:
    """Open a slide.

    Raises:
        NotMine: OpenSlide does not know the format, or knows less of it than another reader, or the file is damaged.
    """
    try:
        handle = openslide.OpenSlide(path)
    except openslide.OpenSlideUnsupportedFormatError as error:
        raise NotMine("an unknown format") from error
    except openslide.OpenSlideError as error:
        raise NotMine(str(error)) from error
    plain = handle.properties.get(openslide.PROPERTY_NAME_VENDOR) == "generic-tiff"
    if plain and (reason := _beyond_openslide(path)) is not None:
        handle.close()
        raise NotMine(reason)
    return OpenSlideReader(path, handle)


def _beyond_openslide(path: Path) -> str | None:
    """What OpenSlide, which takes any tiled TIFF, would leave out of a plain one; None if that is nothing."""
    try:
        with tifffile.TiffFile(path) as tif:
            page = tif.pages.first
            if tif.is_ome:
                return "an OME-TIFF, whose levels and pixel size it does not know"
            if page.dtype is None or page.dtype.kind not in "ui" or page.bitspersample not in (8, 16):
                return f"its samples are no integers of 8 or 16 bits ({page.dtype}, {page.bitspersample} bits)"
    except Exception:  # whatever a damaged directory makes tifffile raise: OpenSlide has opened it
        return None
    return None


class OpenSlideReader(SlideReader):
    """A slide in OpenSlide's hands.

    Where the scanner names the bounds of what it scanned (MIRAX and others), the slide is that part:
    the rest was never scanned, and viewers such as QuPath count from there too.
    """

    def __init__(self, path: Path, handle: openslide.OpenSlide) -> None:
        self._handle = handle
        self._lock = threading.Lock()
        self._steps = handle.level_downsamples
        self._bounds = _bounds_of(handle)
        super().__init__("openslide", path, _facts_of(path, handle, self._bounds))

    def _read(self, level: int, box: Box) -> Pixels:
        if float(self._steps[level]).is_integer():
            return self._region(level, box)
        # A corner that is no whole pixel of the level makes OpenSlide blend pixels. On a fixed grid of blocks it does
        # so in the same way whatever box is read.
        x0, y0, x1, y1 = box
        canvas = np.empty((y1 - y0, x1 - x0, 3), np.uint8)
        height, width = self.stored[level].shape
        for top in range(y0 // _BLOCK * _BLOCK, y1, _BLOCK):
            for left in range(x0 // _BLOCK * _BLOCK, x1, _BLOCK):
                block = self._region(level, (left, top, min(left + _BLOCK, width), min(top + _BLOCK, height)))
                ys, xs = slice(max(y0 - top, 0), y1 - top), slice(max(x0 - left, 0), x1 - left)
                part = block[ys, xs]
                row, column = max(top - y0, 0), max(left - x0, 0)
                canvas[row : row + part.shape[0], column : column + part.shape[1]] = part
        return canvas

    def _region(self, level: int, box: Box) -> Pixels:
        x0, y0, x1, y1 = box
        step = self._steps[level]
        # OpenSlide wants the corner in level 0 and divides by its own factor.
        corner = (self._bounds[0] + round(x0 * step), self._bounds[1] + round(y0 * step))
        with self._lock:
            try:
                region = self._handle.read_region(corner, level, (x1 - x0, y1 - y0))
            except openslide.OpenSlideError as error:
                self._open_again()
                raise UnreadableRegion(str(error)) from error
        pixels = np.asarray(region)
        if (pixels[..., 3] == 255).all():  # almost always, and laying on white takes time
            return np.ascontiguousarray(pixels[..., :3])
        return rgba_on_white(pixels)

    def _open_again(self) -> None:
        # After an error a handle refuses everything else, though the rest of the slide may be sound.
        self._handle.close()
        self._handle = openslide.OpenSlide(self.path)

    def close(self) -> None:
        with self._lock:
            self._handle.close()


def _bounds_of(handle: openslide.OpenSlide) -> Box:
    """(x0, y0, x1, y1) of what was scanned, px of level 0."""
    width, height = handle.dimensions
    stated = [handle.properties.get(f"openslide.bounds-{name}") for name in ("x", "y", "width", "height")]
    if any(value is None for value in stated):
        return 0, 0, width, height
    x, y, w, h = (int(float(value or 0)) for value in stated)
    return x, y, min(x + w, width), min(y + h, height)


def _facts_of(path: Path, handle: openslide.OpenSlide, bounds: Box) -> Facts:
    said = handle.properties
    full = (handle.dimensions[1], handle.dimensions[0])
    size = (bounds[3] - bounds[1], bounds[2] - bounds[0])
    levels = []
    for width, height in handle.level_dimensions:
        step = downsample_of(full, (height, width))
        # What remains of a level whose slide is cut to its bounds; cut down, so that it can be read to its end.
        shape = (height, width) if size == full else (max(int(size[0] / step), 1), max(int(size[1] / step), 1))
        levels.append(Level(shape, step))
    mpp_x, mpp_y = (said.get(f"openslide.mpp-{axis}", "") for axis in "xy")
    return Facts(
        levels=tuple(levels),
        mpp=credible_mpp(mpp_x, mpp_y),
        hint=hint_of(mpp_x, said.get("openslide.objective-power")),
        identity=f"{said.get('openslide.quickhash-1', '')} {bounds}",
        files=files_of(path),
    )
