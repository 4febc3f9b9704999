"""A slide as deep zoom: square tiles at every power of two."""

from __future__ import annotations

import io
import math
import threading

import numpy as np
from PIL import Image

from pnseg_runtime.slide.readers.base import Pixels, SlideReader
from pnseg_runtime.slide.resolution import at_scale, read_work
from pnseg_runtime.slide.tissue import Thumbnail, thumbnail_of

TILE = 256  # px
_MOST_READ = 70_000_000  # px of a level for one tile; beyond, the thumbnail has to do
_QUALITY = 85


class DeepZoom:
    """Tiles of a slide; zoom level ``levels - 1`` is the full resolution, each one before it half of that."""

    def __init__(self, reader: SlideReader) -> None:
        self._reader = reader
        self._lock = threading.Lock()
        self._thumbnail: Thumbnail | None = None
        self.height, self.width = reader.shape
        self.levels = math.ceil(math.log2(max(self.height, self.width, 2))) + 1

    def close(self) -> None:
        """Let go of the slide."""
        with self._lock:
            self._reader.close()

    def tile(self, level: int, column: int, row: int) -> bytes | None:
        """A tile as JPEG, or None if there is none."""
        if not 0 <= level < self.levels or column < 0 or row < 0:
            return None
        scale = 2 ** (self.levels - 1 - level)
        width, height = (math.ceil(side / scale) for side in (self.width, self.height))
        x0, y0 = column * TILE, row * TILE
        if x0 >= width or y0 >= height:
            return None
        size = (min(TILE, height - y0), min(TILE, width - x0))
        stream = io.BytesIO()
        Image.fromarray(self._pixels(scale, x0, y0, size)).save(stream, format="JPEG", quality=_QUALITY)
        return stream.getvalue()

    def _pixels(self, scale: int, x0: int, y0: int, size: tuple[int, int]) -> Pixels:
        """(h, w, 3) of a tile; a last row or column that the resolution does not fill is repeated."""
        resolution = at_scale(self._reader, float(scale))
        height, width = resolution.shape
        box = (min(x0, width - 1), min(y0, height - 1), min(x0 + size[1], width), min(y0 + size[0], height))
        if (TILE * resolution.step) ** 2 > _MOST_READ:
            return self._from_thumbnail(scale, x0, y0, size)
        with self._lock:
            pixels = read_work(self._reader, resolution, box).pixels
        missing = [(0, size[0] - pixels.shape[0]), (0, size[1] - pixels.shape[1]), (0, 0)]
        return np.pad(pixels, missing, mode="edge")

    def _from_thumbnail(self, scale: int, x0: int, y0: int, size: tuple[int, int]) -> Pixels:
        with self._lock:
            self._thumbnail = self._thumbnail or thumbnail_of(self._reader)
        small = self._thumbnail
        step = scale / small.scale
        limits = (small.shape[1], small.shape[0], small.shape[1], small.shape[0])
        wanted = (x0, y0, x0 + size[1], y0 + size[0])
        left, top, right, bottom = (min(v * step, float(limit)) for v, limit in zip(wanted, limits, strict=True))
        image = Image.fromarray(small.pixels)
        return np.asarray(image.resize((size[1], size[0]), Image.Resampling.BICUBIC, box=(left, top, right, bottom)))
