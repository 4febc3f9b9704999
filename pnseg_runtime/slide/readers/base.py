"""What a reader of slides gives: levels, microns per pixel, and the pixels of a box."""

from __future__ import annotations

from abc import ABC, abstractmethod
from dataclasses import dataclass, field, replace
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from pnseg_runtime.errors import one_line
from pnseg_runtime.tiff import MAGIC

Box = tuple[int, int, int, int]
Pixels = NDArray[np.uint8]

_SLACK = 0.01  # part of a side by which a level may differ from what its scale makes of the slide


class UnreadableRegion(Exception):  # noqa: N818 - a finding about the file, recorded and worked around
    """Pixels that cannot be decoded; the text says why."""


class NotMine(Exception):  # noqa: N818 - a reader's refusal, upon which the next one is asked
    """A file that this reader does not open; the text says why."""


@dataclass(frozen=True)
class Level:
    """One resolution of a slide.

    Attributes:
        shape: (height, width), px of the level.
        downsample: px of level 0 that a px of this level stands for.
    """

    shape: tuple[int, int]
    downsample: float


@dataclass(frozen=True)
class Facts:
    """What a slide says of itself.

    Attributes:
        levels: from the full resolution down.
        mpp: microns per pixel of level 0, None unless the file states a credible value.
        hint: what the file says instead, for the sentence that asks for ``--mpp``.
        identity: goes into the slide's hash beside the bytes of its files.
        files: all files the pixels come from.
    """

    levels: tuple[Level, ...]
    mpp: float | None = None
    hint: str = ""
    identity: str = ""
    files: tuple[Path, ...] = field(default_factory=tuple)


class SlideReader(ABC):
    """An open slide. Boxes are (x0, y0, x1, y1) in px of a level, x1 and y1 exclusive."""

    def __init__(self, name: str, path: Path, facts: Facts) -> None:
        """Take what the file says, but for levels that are not of one scale on both axes.

        Args:
            name: of the reader.
            path: of the slide.
            facts: of it.
        """
        self.name = name
        self.path = path
        self.stored = facts.levels  # all that the file has
        self._places = [at for at, level in enumerate(self.stored) if at == 0 or is_whole(self.stored[0], level)]
        self.facts = replace(facts, levels=tuple(self.stored[at] for at in self._places))

    @property
    def levels(self) -> tuple[Level, ...]:
        return self.facts.levels

    @property
    def shape(self) -> tuple[int, int]:
        """(height, width) of level 0, px."""
        return self.levels[0].shape

    def read(self, level: int, box: Box) -> Pixels:
        """RGB pixels of a box that lies inside a level.

        Returns:
            (y1 - y0, x1 - x0, 3) uint8, transparency laid on white.

        Raises:
            UnreadableRegion: the file is damaged there.
        """
        try:
            return self._read(self._places[level], box)
        except (UnreadableRegion, MemoryError, KeyboardInterrupt):
            raise
        except Exception as error:  # decoders of damaged files raise anything
            raise UnreadableRegion(one_line(error)) from error

    @abstractmethod
    def _read(self, level: int, box: Box) -> Pixels:
        """:meth:`read`, of a level of the file."""

    def close(self) -> None:
        """Let go of the file."""
        return


def is_tiff(path: Path) -> bool:
    """Whether a file begins as a TIFF does."""
    with path.open("rb") as stream:
        return stream.read(4) in MAGIC


def hint_of(mpp: str | float, power: str | float | None) -> str:
    """What a slide says in place of a credible pixel size: microns per pixel, empty or not, or an objective."""
    if mpp:
        return f"states {float(mpp):.4g}"
    return f"names an objective of {power}×" if power else ""


def is_whole(full: Level, level: Level) -> bool:
    """Whether a level shows all of the slide at its scale, which is one for both axes; to a pixel or a hundredth."""
    sides = zip(full.shape, level.shape, strict=True)
    return all(abs(big / level.downsample - small) <= max(1, _SLACK * small) for big, small in sides)


def downsample_of(full: tuple[int, int], level: tuple[int, int]) -> float:
    """Pixels of level 0 a pixel of a level, by the sizes of both.

    Pyramids are made with whole factors and cut what does not fit, so a ratio that a whole factor
    explains is that factor: 2967 px above 1483 px are 2, not 2.0007, which would shift the end of a
    slide by a pixel.
    """
    ratios = [big / small for big, small in zip(full, level, strict=True)]
    whole = round(sum(ratios) / 2)
    fits = whole >= 1 and all(abs(big / whole - small) < 1 for big, small in zip(full, level, strict=True))
    return float(whole) if fits else sum(ratios) / 2
