"""libvips, for images that are too large to be read whole and are stored in one piece."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pyvips

from pnseg_runtime.colour import rgba_on_white
from pnseg_runtime.errors import one_line
from pnseg_runtime.slide.readers.base import Box, Facts, Level, NotMine, Pixels, SlideReader


def open_slide(path: Path) -> SlideReader:
    """Open an image; libvips unpacks it once, into a temporary file if it is large.

    Raises:
        NotMine: libvips does not read it.
    """
    try:
        image = pyvips.Image.new_from_file(str(path))
        if image.bands not in (1, 3, 4) or image.format not in ("uchar", "ushort"):
            raise NotMine(f"it has {image.bands} channels of type {image.format}")
        return VipsReader(path, image.colourspace("srgb").cast("uchar"))
    except pyvips.Error as error:
        raise NotMine(one_line(error)) from error


class VipsReader(SlideReader):
    """An image in libvips' hands."""

    def __init__(self, path: Path, image: pyvips.Image) -> None:
        self._image = image
        super().__init__("vips", path, Facts(levels=(Level((image.height, image.width), 1.0),), files=(path,)))

    def _read(self, level: int, box: Box) -> Pixels:
        x0, y0, x1, y1 = box
        pixels = np.asarray(self._image.crop(x0, y0, x1 - x0, y1 - y0).numpy(), np.uint8)
        return rgba_on_white(pixels) if pixels.shape[2] == 4 else np.ascontiguousarray(pixels[..., :3])
