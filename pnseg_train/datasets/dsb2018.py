"""Data Science Bowl 2018, stage 1: ``<id>/images/<id>.png`` and one PNG a nucleus in ``<id>/masks`` (BBBC038).

Training images only, since the test images come without masks. The set has no validation split:
``val`` is the images whose random id starts with 0 or 1, an eighth of them, ``train`` the others.
"""

from __future__ import annotations

from collections.abc import Iterable
from functools import partial
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from pnseg_runtime.errors import ImageError
from pnseg_runtime.images import read_image
from pnseg_train.datasets.files import find, read_label
from pnseg_train.datasets.sample import Sample, check_size, consecutive
from pnseg_train.datasets.samples import Samples
from pnseg_train.datasets.splits import choose

CLASSES = ("nucleus",)
SCHEMES = {"": {"train": frozenset("23456789abcdef"), "val": frozenset("01")}}


def recognises(folder: Path) -> bool:
    """Whether there is an image's folder with masks in it."""
    return next(_base(folder).glob("*/masks/*.png"), None) is not None


def splits(folder: Path) -> tuple[str, ...]:
    """The splits of which there are images."""
    return tuple(
        split for split, starts in SCHEMES[""].items() if any(image.name[0] in starts for image in _images(folder))
    )


def read(folder: Path, split: str | None = None) -> Samples:
    """The images of ``train`` or ``val``; None for all.

    Args:
        folder: ``stage1_train`` or the folder that holds it.
        split: see above.

    Raises:
        ImageError: no such split, or none of its images is there; when a sample is read, a damaged file.
        SizeMismatchError: when a sample is read, a mask of another size.
    """
    starts = None if split is None else choose(folder, SCHEMES, split)
    images = [image for image in _images(folder) if starts is None or image.name[0] in starts]
    if not images:
        raise ImageError(f"{folder}: no image of the split {split!r}; expected stage1_train/<id>/images/<id>.png.")
    return Samples(partial(_read, image) for image in images)


def stack_masks(masks: Iterable[NDArray[np.bool_]], shape: tuple[int, int]) -> NDArray[np.int32]:
    """One mask (H, W) a nucleus → the label map; where two overlap, the later lies on top."""
    labels = np.zeros(shape, np.int32)
    for label, mask in enumerate(masks, start=1):
        labels[mask] = label
    return consecutive(labels)


def _base(folder: Path) -> Path:
    inner = folder / "stage1_train"
    return inner if inner.is_dir() else folder


def _images(folder: Path) -> list[Path]:
    return [path.parent for path in find(_base(folder), "*/masks")]


def _read(folder: Path) -> Sample:
    image = read_image(folder / "images" / f"{folder.name}.png").pixels
    masks = [_read_mask(path, image) for path in find(folder / "masks", "*.png")]
    instances = stack_masks(masks, image.shape[:2])
    return Sample(name=folder.name, image=image, instances=instances, classes=(instances != 0).astype(np.uint8))


def _read_mask(path: Path, image: NDArray[np.uint8]) -> NDArray[np.bool_]:
    mask = read_label(path, grey=True)
    check_size(path, mask, image)
    return np.asarray(mask > 127)
