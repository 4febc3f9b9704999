"""From a slide's pixels to the model's and back, exact to half a pixel.

*Work pixels* are those of the model's resolution. An edge at ``e`` work px lies at ``e · scale`` px of
level 0, so a pixel centre (centres at integers) at ``p`` lies at ``(p + 0.5) · scale − 0.5``.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from pnseg_runtime.errors import ImageError
from pnseg_runtime.rescale import TOLERANCE
from pnseg_runtime.slide.readers.base import Box, Level, Pixels, SlideReader, UnreadableRegion
from pnseg_runtime.softening import Blurs, Seen, see

_SUPPORT = 2  # work px around what is resampled, which a bicubic kernel reaches
_SPARE = 6  # px of the level beyond that
_SMALLEST_BLOCK = 256  # px, where an unreadable region is no longer divided


@dataclass(frozen=True)
class Resolution:
    """How a slide is seen by the model.

    Attributes:
        shape: (height, width) of the slide in work px; what is left at its end is less than one.
        scale: px of level 0 a work px.
        level: the level that is read.
        step: px of that level a work px, 1 or more unless even level 0 is too coarse.
        slide_mpp: microns per pixel of level 0.
        work_mpp: microns per work px.
    """

    shape: tuple[int, int]
    scale: float
    level: int
    step: float
    slide_mpp: float
    work_mpp: float

    def level_box(self, box: Box) -> tuple[float, float, float, float]:
        """Edges of a box of work px, in px of the level that is read."""
        x0, y0, x1, y1 = box
        return x0 * self.step, y0 * self.step, x1 * self.step, y1 * self.step

    def full_edges(self, edges: NDArray[Any]) -> NDArray[np.float64]:
        """Edge coordinates, work px → px of level 0."""
        return np.asarray(edges, np.float64) * self.scale

    def full_centres(self, centres: NDArray[Any]) -> NDArray[np.float64]:
        """Pixel centre coordinates, work px → px of level 0."""
        return (np.asarray(centres, np.float64) + 0.5) * self.scale - 0.5

    def work_edges(self, edges: NDArray[Any]) -> NDArray[np.float64]:
        """Edge coordinates, px of level 0 → work px."""
        return np.asarray(edges, np.float64) / self.scale

    def nearest_work(self, start: int, stop: int) -> NDArray[np.intp]:
        """The work px that the centre of each px of level 0 from ``start`` to ``stop`` falls into."""
        return np.floor((np.arange(start, stop) + 0.5) / self.scale).astype(np.intp)

    @property
    def enlargement(self) -> float:
        """Work px a pixel of the level that is read, at least 1."""
        return max(1.0 / self.step, 1.0)


def resolve(
    reader: SlideReader, model_mpp: float, mpp: float | None = None, tolerance: float = TOLERANCE
) -> Resolution:
    """Settle the resolution a slide is read at.

    Args:
        reader: the slide.
        model_mpp: microns per pixel the model was trained at.
        mpp: microns per pixel of level 0, instead of what the file states.
        tolerance: relative difference up to which pixels are taken as they are.

    Raises:
        ImageError: the file states no credible value and none is given.
    """
    slide_mpp = mpp or reader.facts.mpp
    if slide_mpp is None:
        raise ImageError(_refusal(reader.path, reader.facts.hint))
    scale = model_mpp / slide_mpp
    if abs(scale - 1) <= tolerance:
        scale = 1.0
    return at_scale(reader, scale, slide_mpp)


def at_scale(reader: SlideReader, scale: float, slide_mpp: float = 1.0) -> Resolution:
    """A slide seen with ``scale`` px of level 0 a px."""
    level = _best_level(reader.levels, scale)
    height, width = (max(math.floor(side / scale + 1e-6), 1) for side in reader.shape)
    step = scale / reader.levels[level].downsample
    return Resolution((height, width), scale, level, step, slide_mpp, work_mpp=slide_mpp * scale)


def _refusal(path: Path, hint: str) -> str:
    known = f" ({hint}, which is no pixel size to go by)" if hint else ""
    return (
        f"{path}: states no credible microns per pixel{known}; give it with --mpp "
        "(a scan at 40× has about 0.25, at 20× about 0.5)."
    )


def _best_level(levels: tuple[Level, ...], scale: float) -> int:
    """The coarsest level that is not coarser than the work px; 0 if all are."""
    fine = [index for index, level in enumerate(levels) if level.downsample <= scale * (1 + 1e-3)]
    return max(fine, key=lambda index: levels[index].downsample, default=0)


@dataclass(frozen=True)
class Reading:
    """Pixels of a part of a slide.

    Attributes:
        pixels: (h, w, 3) uint8, work px; white where the file is unreadable.
        unreadable: boxes in px of level 0 that could not be decoded, with the reason.
    """

    pixels: Pixels
    unreadable: tuple[tuple[Box, str], ...] = ()


def read_work(reader: SlideReader, resolution: Resolution, box: Box) -> Reading:
    """Read a box of work px, resampled with anti-aliasing where a work px is no pixel of the level."""
    level = reader.levels[resolution.level]
    height, width = level.shape
    x0, y0, x1, y1 = resolution.level_box(box)
    if resolution.step == 1:
        span = (round(x0), round(y0), round(x1), round(y1))
        pixels, bad = _read_around_damage(reader, resolution.level, _inside(span, width, height))
        return Reading(_grown(pixels, (box[3] - box[1], box[2] - box[0])), bad)
    reach = reach_of(resolution)
    span = (math.floor(x0) - reach, math.floor(y0) - reach, math.ceil(x1) + reach, math.ceil(y1) + reach)
    outer = _inside(span, width, height)
    pixels, bad = _read_around_damage(reader, resolution.level, outer)
    # A level of rounded size may end a fraction of a pixel before the work px do.
    inner = (
        max(x0 - outer[0], 0.0),
        max(y0 - outer[1], 0.0),
        min(x1 - outer[0], float(pixels.shape[1])),
        min(y1 - outer[1], float(pixels.shape[0])),
    )
    resampled = Image.fromarray(pixels).resize((box[2] - box[0], box[3] - box[1]), Image.Resampling.BICUBIC, box=inner)
    return Reading(np.asarray(resampled), bad)


@dataclass(frozen=True)
class Look:
    """A part of a slide as the networks see it.

    Attributes:
        seen: the pixels, work px.
        unreadable: see :class:`Reading`.
    """

    seen: Seen
    unreadable: tuple[tuple[Box, str], ...] = ()


def read_seen(reader: SlideReader, resolution: Resolution, box: Box, blurs: Blurs) -> Look:
    """Read a box of work px as :func:`read_work` does, softened as the whole slide would be.

    Args:
        reader: the slide.
        resolution: how the model sees it.
        box: work px.
        blurs: see :func:`~pnseg_runtime.softening.see`.
    """
    reach, (height, width) = blurs.reach, resolution.shape
    x0, y0, x1, y1 = box
    outer = _inside((x0 - reach, y0 - reach, x1 + reach, y1 + reach), width, height)
    reading = read_work(reader, resolution, outer)
    left, top = x0 - outer[0], y0 - outer[1]
    return Look(see(reading.pixels, blurs).cut(left, top, left + x1 - x0, top + y1 - y0), reading.unreadable)


def reach_of(resolution: Resolution) -> int:
    """How far beyond the edges of a box :func:`read_work` reads, px of the level."""
    return math.ceil(_SUPPORT * max(resolution.step, 1)) + _SPARE


def _inside(span: Box, width: int, height: int) -> Box:
    x0, y0, x1, y1 = span
    return max(x0, 0), max(y0, 0), min(x1, width), min(y1, height)


def _grown(pixels: Pixels, shape: tuple[int, int]) -> Pixels:
    """Repeat the last row and column of a level of rounded size."""
    missing = [(0, wanted - got) for wanted, got in zip(shape, pixels.shape, strict=False)]
    return np.pad(pixels, [*missing, (0, 0)], mode="edge") if any(after for _, after in missing) else pixels


def _read_around_damage(reader: SlideReader, level: int, box: Box) -> tuple[Pixels, tuple[tuple[Box, str], ...]]:
    """Read a box; what cannot be decoded is white, told to the block."""
    try:
        return reader.read(level, box), ()
    except UnreadableRegion as error:
        x0, y0, x1, y1 = box
        if max(x1 - x0, y1 - y0) <= _SMALLEST_BLOCK:
            step = reader.levels[level].downsample
            where = tuple(round(value * step) for value in box)
            white = np.full((y1 - y0, x1 - x0, 3), 255, np.uint8)
            return white, (((where[0], where[1], where[2], where[3]), str(error)),)
    canvas = np.empty((y1 - y0, x1 - x0, 3), np.uint8)
    bad: list[tuple[Box, str]] = []
    for part in _quarters(box):
        pixels, found = _read_around_damage(reader, level, part)
        canvas[part[1] - y0 : part[3] - y0, part[0] - x0 : part[2] - x0] = pixels
        bad += found
    return canvas, tuple(bad)


def _quarters(box: Box) -> list[Box]:
    """A box cut on the grid of blocks, so that neighbours meet the same blocks."""
    x0, y0, x1, y1 = box
    xs, ys = _halves(x0, x1), _halves(y0, y1)
    return [(xs[i], ys[j], xs[i + 1], ys[j + 1]) for j in range(len(ys) - 1) for i in range(len(xs) - 1)]


def _halves(start: int, stop: int) -> list[int]:
    if stop - start <= _SMALLEST_BLOCK:
        return [start, stop]
    middle = (start + stop) // 2 // _SMALLEST_BLOCK * _SMALLEST_BLOCK
    return [start, middle if middle > start else middle + _SMALLEST_BLOCK, stop]
