"""PanNuke: three folds of 256×256 tiles from 19 tissues, five classes (Gamper et al. 2020).

A fold is a few arrays, too large for most memories, which stay on the disk: a tile is read when it
is indexed.
"""

from __future__ import annotations

import re
from functools import partial
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from pnseg_runtime.errors import ImageError
from pnseg_train.datasets.sample import Sample, SizeMismatchError, consecutive
from pnseg_train.datasets.samples import Samples
from pnseg_train.datasets.splits import SPLITS, choose

CLASSES = ("neoplastic", "inflammatory", "connective", "dead", "epithelial")
MPP = 0.25

# The paper trains, validates and tests on the folds in these three orders (section 4).
SCHEMES = {
    "".join(map(str, folds)): dict(zip(SPLITS, folds, strict=True)) for folds in ((1, 2, 3), (2, 1, 3), (3, 2, 1))
}


class Fold:
    """Where the arrays of fold k lie: ``images/foldk/{images,types}.npy`` and ``masks/foldk/masks.npy``."""

    def __init__(self, images: Path):
        self.images = images
        self.types = images.with_name("types.npy")
        self.masks = images.parents[2] / "masks" / images.parent.name / "masks.npy"
        self.number = int(re.findall(r"\d+", images.parent.name)[0])


def recognises(folder: Path) -> bool:
    """Whether a fold's images are there."""
    return bool(_folds(folder))


def splits(folder: Path) -> tuple[str, ...]:
    """The splits of the order 1, 2, 3 whose folds are there."""
    present = _folds(folder).keys()
    return tuple(split for split, fold in SCHEMES["123"].items() if fold in present)


def read(folder: Path, split: str | None = None) -> Samples:
    """The tiles of a split, read one by one.

    Args:
        folder: holds ``Fold 1``, ``Fold 2``, ``Fold 3`` as downloaded, or is one of them.
        split: ``train``, ``val`` or ``test`` of the order 1, 2, 3, or ``213:train``, ``321:test`` …;
            None for every fold that is there.

    Raises:
        ImageError: no such split, its fold is missing, or an array cannot be read.
        SizeMismatchError: a fold's arrays do not belong together.
    """
    folds = _folds(folder)
    wanted = sorted(folds) if split is None else [choose(folder, SCHEMES, split)]
    missing = [number for number in wanted if number not in folds]
    if missing:
        raise ImageError(
            f"{folder}: fold {missing[0]}, the split {split!r}, is not there; unpack it beside the others."
        )
    return Samples.joined(_read_fold(folds[number]) for number in wanted)


def merge_channels(masks: NDArray[np.floating]) -> tuple[NDArray[np.int32], NDArray[np.uint8]]:
    """One channel a class → one label map and one class map.

    Ids are a channel's own, and one id may stand in several channels for different nuclei. Where
    channels overlap, the later class lies on top, as in the reference implementation.

    Args:
        masks: (H, W, 6) ids, 0 elsewhere; the last channel, the background, is not looked at.

    Returns:
        (H, W) int32 with ids 1..N, and (H, W) uint8 with the values 0 to 5.
    """
    instances = np.zeros(masks.shape[:2], np.int32)
    classes = np.zeros(masks.shape[:2], np.uint8)
    number = 0
    for channel in range(len(CLASSES)):
        inside = masks[:, :, channel] > 0
        ids, within = np.unique(masks[:, :, channel][inside], return_inverse=True)
        instances[inside] = number + 1 + within
        classes[inside] = channel + 1
        number += len(ids)
    return consecutive(instances), classes


def _folds(folder: Path) -> dict[int, Fold]:
    patterns = ("images/fold[123]/images.npy", "*/images/fold[123]/images.npy")
    folds = [Fold(images) for pattern in patterns for images in folder.glob(pattern)]
    return {fold.number: fold for fold in folds}


def _read_fold(fold: Fold) -> Samples:
    images, masks, types = _open(fold.images), _open(fold.masks), _open(fold.types)
    if masks.shape != (*images.shape[:3], len(CLASSES) + 1) or types.shape != images.shape[:1]:
        raise SizeMismatchError(
            f"{fold.masks}: shape {masks.shape} and {types.shape[0]} types do not belong to images of shape "
            f"{images.shape}; download the fold again."
        )
    return Samples(partial(_read_tile, fold, index) for index in range(len(images)))


def _read_tile(fold: Fold, index: int) -> Sample:
    instances, classes = merge_channels(np.asarray(_open(fold.masks)[index]))
    return Sample(
        name=f"fold{fold.number}_{index:04d}",
        image=_bytes(fold.images, index, np.ascontiguousarray(_open(fold.images)[index])),
        instances=instances,
        classes=classes,
        tissue=str(_open(fold.types)[index]),
        mpp=MPP,
    )


def _bytes(path: Path, index: int, pixels: NDArray[np.generic]) -> NDArray[np.uint8]:
    # Copies that were scaled to 0–1 are about; as bytes they would be black.
    least, most = pixels.min(), pixels.max()
    scaled = np.issubdtype(pixels.dtype, np.floating) and 0 < most <= 1
    if scaled or least < 0 or most > 255 or not np.array_equal(pixels, np.rint(pixels)):
        raise ImageError(
            f"{path}: tile {index} holds {pixels.dtype} from {least:g} to {most:g}, expected whole numbers from 0 to "
            "255; download the fold again, or scale and round the array."
        )
    return pixels.astype(np.uint8)


def _open(path: Path) -> NDArray[np.generic]:
    # Opened anew for every tile: a mapping that is kept would be copied whole into a loader's worker.
    try:
        array: NDArray[np.generic] = np.load(path, mmap_mode="r", allow_pickle=False)
    except (OSError, ValueError, EOFError) as error:
        raise ImageError(f"{path}: cannot be read as an array ({error}); download the fold again.") from error
    return array
