"""CPM-17: 32 training and 32 test tiles of brain, head and neck, and lung tumours (Vu et al. 2019).

``val`` is every sixth of the training images, ``train`` the others; all 32 are ``train+val``.
"""

from __future__ import annotations

from functools import partial
from pathlib import Path

from pnseg_runtime.images import read_image
from pnseg_train.datasets.hovernet_mat import Pair, find_pairs, has_types, read_labels, select
from pnseg_train.datasets.sample import Sample, check_size
from pnseg_train.datasets.samples import Samples

CLASSES = ("nucleus",)


def recognises(folder: Path) -> bool:
    """Whether there are images with label files that know no classes."""
    return bool(find_pairs(folder, "train") or find_pairs(folder, "test")) and not has_types(folder)


def read(folder: Path, split: str | None = None) -> Samples:
    """The images of ``train``, ``val`` or ``test``; None for all.

    Raises:
        ImageError: no such split, or none of its images is there; when a sample is read, a damaged file.
        SizeMismatchError: when a sample is read, a label of another size.
    """
    return Samples(partial(_read, pair) for pair in select(folder, split))


def _read(pair: Pair) -> Sample:
    image = read_image(pair.image).pixels
    instances, _ = read_labels(pair.label)
    check_size(pair.label, instances, image)
    # Training and test images have the same names. They were scanned at 20× or 40×, which no file tells.
    part = pair.label.parents[1].name.lower()
    return Sample(
        name=f"{part}_{pair.image.stem}", image=image, instances=instances, classes=(instances != 0).astype("uint8")
    )
