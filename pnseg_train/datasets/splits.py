"""Names of splits: ``train``, or ``scheme:train`` where a set has been divided in several ways."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import TypeVar

from pnseg_runtime.errors import ImageError

T = TypeVar("T")
SPLITS = ("train", "val", "test")


def choose(folder: Path, schemes: Mapping[str, Mapping[str, T]], split: str) -> T:
    """What a split stands for; without a scheme's name the first scheme is meant.

    Raises:
        ImageError: there is no such scheme or split.
    """
    scheme, _, part = split.rpartition(":")
    try:
        return schemes[scheme or next(iter(schemes))][part]
    except KeyError:
        known = [f"{name}:{part}" if name else part for name, parts in schemes.items() for part in parts]
        raise ImageError(f"{folder}: no split {split!r} in this data set; it has {', '.join(known)}.") from None


def is_sixth(number: int) -> bool:
    """Whether a numbered training image is held out for validation: 5, 11, 17 and so on.

    Where a set has no validation split of its own, every sixth training image makes one.
    """
    return number % 6 == 5
