"""TiffSlide, for tiled pyramids that OpenSlide refuses."""

from __future__ import annotations

import threading
from pathlib import Path

import numpy as np
import tiffslide

from pnseg_runtime.errors import one_line
from pnseg_runtime.slide.readers.base import Box, Facts, Level, NotMine, Pixels, SlideReader, downsample_of, hint_of
from pnseg_runtime.tiff import credible_mpp, stated_mpp


def open_slide(path: Path) -> SlideReader:
    """Open a slide.

    Raises:
        NotMine: TiffSlide does not know the format, or its pixels are no 8-bit RGB.
    """
    try:
        handle = tiffslide.TiffSlide(path)
    except Exception as error:  # it raises what the file makes tifffile raise
        raise NotMine(one_line(error)) from error
    try:
        return TiffSlideReader(path, handle)
    except Exception as error:
        handle.close()
        raise NotMine(one_line(error)) from error


class TiffSlideReader(SlideReader):
    """A slide in TiffSlide's hands."""

    def __init__(self, path: Path, handle: tiffslide.TiffSlide) -> None:
        self._handle = handle
        self._lock = threading.Lock()
        super().__init__("tiffslide", path, _facts_of(path, handle))
        self._read(len(self.stored) - 1, (0, 0, 1, 1))  # a compression that cannot be decoded shows here

    def _read(self, level: int, box: Box) -> Pixels:
        x0, y0, x1, y1 = box
        step = self._handle.level_downsamples[level]
        with self._lock:
            region = self._handle.read_region(
                (round(x0 * step), round(y0 * step)), level, (x1 - x0, y1 - y0), as_array=True
            )
        if region.dtype != np.uint8 or region.ndim != 3 or region.shape[2] < 3:
            raise NotMine(f"its pixels are {region.dtype} of shape {region.shape}, not 8-bit RGB")
        return np.ascontiguousarray(region[..., :3])

    def close(self) -> None:
        self._handle.close()


def _facts_of(path: Path, handle: tiffslide.TiffSlide) -> Facts:
    said = handle.properties
    shapes = [(height, width) for width, height in handle.level_dimensions]
    mpp_x, mpp_y = (said.get(f"tiffslide.mpp-{axis}") or "" for axis in "xy")
    tif = handle.ts_tifffile
    return Facts(
        levels=tuple(Level(shape, downsample_of(shapes[0], shape)) for shape in shapes),
        # It knows nothing of an OME-TIFF's pixel size.
        mpp=credible_mpp(mpp_x, mpp_y) or stated_mpp(tif, tif.series[0].keyframe),
        hint=hint_of(mpp_x, said.get("tiffslide.objective-power")),
        files=(path,),
    )
