"""CoNSeP: 27 training and 14 test H&E tiles of colon, 1000² px at 40× (Graham et al. 2019).

The seven classes of the files become the four that are reported on this set. ``val`` is every sixth
of the training images, ``train`` the others; all 27 are ``train+val``.
"""

from __future__ import annotations

from functools import partial
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from pnseg_runtime.errors import ImageError
from pnseg_runtime.images import read_image
from pnseg_train.datasets.hovernet_mat import (
    Pair,
    find_pairs,
    has_types,
    knows_types,
    read_labels,
    read_types,
    select,
)
from pnseg_train.datasets.sample import Sample, check_size
from pnseg_train.datasets.samples import Samples

CLASSES = ("miscellaneous", "inflammatory", "epithelial", "spindle-shaped")
MPP = 0.25

# 1 other, 2 inflammatory, 3 healthy and 4 dysplastic or malignant epithelial, 5 fibroblast, 6 muscle, 7 endothelial.
MERGED = np.array([0, 1, 2, 3, 3, 4, 4, 4], np.uint8)
AS_IT_IS = np.array([0, 1, 2, 3, 4], np.uint8)


def recognises(folder: Path) -> bool:
    """Whether there are images with label files that know classes."""
    return has_types(folder)


def read(folder: Path, split: str | None = None) -> Samples:
    """The images of ``train``, ``val`` or ``test``; None for all.

    Raises:
        ImageError: no such split, or none of its images is there, or a damaged label; when a sample is
            read, a class that CoNSeP does not have, or a label without classes.
        SizeMismatchError: when a sample is read, a label of another size.
    """
    pairs, table = select(folder, split), class_table(folder)
    return Samples(partial(_read, pair, table) for pair in pairs)


def class_table(folder: Path) -> NDArray[np.uint8]:
    """Class in the file → class of the sample.

    Files are merged only if any of the whole set has a class above 4: copies with merged classes are
    about, and there 4 is spindle-shaped, which a single file does not tell from malignant.

    Raises:
        ImageError: a label file is damaged.
    """
    labels = [pair.label for part in ("train", "test") for pair in find_pairs(folder, part)]
    return MERGED if any(read_types(label).max(initial=0) >= len(AS_IT_IS) for label in labels) else AS_IT_IS


def _read(pair: Pair, table: NDArray[np.uint8]) -> Sample:
    image = read_image(pair.image).pixels
    instances, classes = read_labels(pair.label)
    check_size(pair.label, instances, image)
    if instances.any() and not knows_types(pair.label):
        raise ImageError(
            f"{pair.label}: has neither type_map nor inst_type, but other labels of the set do; download it again, "
            "or take it and its image out of the set."
        )
    if classes.max(initial=0) >= len(table):
        raise ImageError(f"{pair.label}: class {classes.max()}, expected 1 to {len(table) - 1}; download it again.")
    return Sample(
        name=pair.image.stem, image=image, instances=instances, classes=table[classes], tissue="colon", mpp=MPP
    )
