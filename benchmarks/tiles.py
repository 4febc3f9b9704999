"""Tiles of 256×256 pixels with a given number of nuclei, from annotated images that come with the tests."""

from __future__ import annotations

import csv
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from numpy.typing import NDArray
from PIL import Image
from scipy.ndimage import find_objects
from scipy.spatial import cKDTree

from pnseg_runtime.errors import PnsegError

SIDE = 256
SOURCE = Path(__file__).parents[1] / "tests" / "data" / "cc0_tiles"
CLASSES = 5
#: Nuclei of a PanNuke image on average (paper section 4.1).
TYPICAL = 24
#: Centres are further apart than the point NMS reaches, so that each nucleus is decoded, px.
APART = 12.5

Labels = NDArray[np.int32]


@dataclass(frozen=True)
class Tile:
    """An image and what is to be found in it.

    Attributes:
        image: (256, 256, 3) uint8 RGB.
        labels: (256, 256) int32, instances 1..n.
        classes: (256, 256) int32, class 1..5 of each instance's pixels, 0 background; made up, as
            the images' annotations have no classes.
        centres: (n, 2) float32 (x, y), px.
    """

    image: NDArray[np.uint8]
    labels: Labels
    classes: Labels
    centres: NDArray[np.float32]

    @property
    def nuclei(self) -> int:
        """N."""
        return len(self.centres)


def make_tile(nuclei: int, source: Path = SOURCE) -> Tile:
    """The annotated image that has the fitting number of nuclei; those too many are left out.

    Where no image has enough, the missing ones are other nuclei of the same images, the smallest
    first, put where there is room. The image stays as it is: no network's time depends on it.

    Raises:
        PnsegError: no annotated images there, or no room for so many nuclei.
    """
    pairs = read_pairs(source)
    image, labels = min(pairs, key=lambda pair: (_count(pair[1]) < nuclei, abs(_count(pair[1]) - nuclei)))
    kept = _keep(labels, nuclei)
    kept = _add(kept, nuclei - int(kept.max()), [labels for _, labels in pairs])
    if int(kept.max()) < nuclei:
        raise PnsegError(f"{source}: a tile has no room for {nuclei} nuclei of these images; ask for fewer.")
    classes = np.where(kept > 0, (kept - 1) % CLASSES + 1, 0).astype(np.int32)
    return Tile(image, kept, classes, _centres(kept))


def read_pairs(source: Path) -> list[tuple[NDArray[np.uint8], Labels]]:
    """Every annotated image's first 256×256 pixels.

    Raises:
        PnsegError: no such images.
    """
    try:
        with (source / "index.csv").open(newline="", encoding="utf-8") as stream:
            names = sorted(row["id"] for row in csv.DictReader(stream))
    except OSError as error:
        raise PnsegError(f"{source}: no annotated images ({error.strerror}); run from a checkout.") from error
    pairs = []
    for name in names:
        image, labels = (np.asarray(Image.open(source / kind / f"{name}.png")) for kind in ("images", "labels"))
        pairs.append((np.ascontiguousarray(image[:SIDE, :SIDE, :3]), labels[:SIDE, :SIDE].astype(np.int32)))
    return pairs


def _count(labels: Labels) -> int:
    return len(np.unique(labels[labels > 0]))


def _centres(labels: Labels) -> NDArray[np.float32]:
    """(n, 2) centroids (x, y) of instances 1..n."""
    y, x = np.nonzero(labels)
    own = labels[y, x] - 1
    area = np.maximum(np.bincount(own), 1)
    sums = (np.bincount(own, weights=values) for values in (x, y))
    return np.stack([total / area for total in sums], axis=1).astype(np.float32).reshape(-1, 2)


def _keep(labels: Labels, nuclei: int) -> Labels:
    """At most so many of the nuclei, those nearest to the middle, apart from each other; numbered from 1."""
    ids = np.unique(labels[labels > 0])
    numbered = np.zeros(int(labels.max()) + 1, np.int32)
    numbered[ids] = np.arange(1, len(ids) + 1)
    labels = numbered[labels]
    centres = _centres(labels)
    order = np.argsort(np.abs(centres - SIDE / 2).max(axis=1)) if len(centres) else np.empty(0, int)
    chosen: list[int] = []
    for index in order:
        if len(chosen) < nuclei and _free(centres[index], centres[chosen]):
            chosen.append(int(index))
    renumbered = np.zeros(len(ids) + 1, np.int32)
    renumbered[np.array(chosen, int) + 1] = np.arange(1, len(chosen) + 1)
    return renumbered[labels]


def _add(labels: Labels, missing: int, sources: Sequence[Labels]) -> Labels:
    """So many more nuclei, wherever there is room."""
    if missing <= 0:
        return labels
    labels = labels.copy()
    masks = [
        source[place] == number
        for source in sources
        for number, place in enumerate(find_objects(source), start=1)
        if place is not None
    ]
    masks = sorted((mask for mask in masks if mask.sum() >= 30), key=lambda mask: int(mask.sum()))
    generator = np.random.default_rng(0)
    placed = 0
    for _ in range(200 * missing):
        mask = masks[placed % max(1, len(masks) // 3)]
        y, x = (int(generator.integers(0, SIDE - side)) for side in mask.shape)
        part = labels[y : y + mask.shape[0], x : x + mask.shape[1]]
        middle = np.array([np.nonzero(mask)[1].mean() + x, np.nonzero(mask)[0].mean() + y])
        if not part[mask].any() and _free(middle, _centres(labels)):
            part[mask] = labels.max() + 1
            placed += 1
            if placed == missing:
                break
    return labels


def _free(centre: NDArray[np.floating], others: NDArray[np.floating]) -> bool:
    return not len(others) or float(cKDTree(others).query(centre)[0]) > APART
