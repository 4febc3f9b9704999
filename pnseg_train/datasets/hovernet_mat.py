"""What CPM-17 and CoNSeP share: ``{train,test}/Images/*.png`` and ``{train,test}/Labels/*.mat`` of the same name."""

from __future__ import annotations

from pathlib import Path
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray
from scipy.io import loadmat, whosmat

from pnseg_runtime.errors import ImageError
from pnseg_train.datasets.files import find
from pnseg_train.datasets.splits import SPLITS, choose, is_sixth

#: Variables of a label file that tell classes.
TYPES = frozenset({"type_map", "inst_type"})

_SCHEMES = {"": {split: split for split in SPLITS}}


class Labels(NamedTuple):
    """Attributes: instances (H, W) int32 with the file's own ids; classes (H, W) uint8, 0 where there is no nucleus."""

    instances: NDArray[np.int32]
    classes: NDArray[np.uint8]


class Pair(NamedTuple):
    """An image and its label file."""

    image: Path
    label: Path


def read_labels(path: Path) -> Labels:
    """A label file of HoVer-Net.

    ``type_map`` has the class of each pixel; without it ``inst_type`` has that of each nucleus in
    ``inst_uid``, a nucleus that is not in there being of class 0; without ``inst_uid``, those of all
    nuclei by ascending id; without classes, every nucleus is of class 1.

    Raises:
        ImageError: missing, damaged, of MATLAB 7.3, or without ``inst_map``.
    """
    content = _load(path, "inst_map", "type_map", "inst_uid", "inst_type")
    if "inst_map" not in content:
        raise ImageError(f"{path}: has no inst_map; expected a label file as HoVer-Net writes it.")
    instances = content["inst_map"].astype(np.int32)
    return Labels(instances, _classes(path, instances, content))


def read_types(path: Path) -> NDArray[np.integer]:
    """The classes in a file, in any order and number: of its nuclei or, where it lacks those, of its pixels.

    Raises:
        ImageError: missing, damaged or of MATLAB 7.3.
    """
    # Only the variable that is asked for is decompressed, and inst_type is small.
    content = _load(path, "inst_type") or _load(path, "type_map")
    return np.concatenate([np.zeros(0, np.int64), *(values.ravel().astype(np.int64) for values in content.values())])


def has_types(folder: Path) -> bool:
    """Whether any label file below a folder knows classes."""
    return any(knows_types(pair.label) for part in ("train", "test") for pair in find_pairs(folder, part))


def knows_types(path: Path) -> bool:
    """Whether a label file knows classes, even if it has no nucleus; a ruin, which fails when it is read, does not."""
    return not _variables(path).isdisjoint(TYPES)


def find_pairs(folder: Path, part: str) -> list[Pair]:
    """Images of ``train`` or ``test`` with their labels, by number; names of folders in any case."""
    images = _child(_child(folder, part), "images")
    labels = _child(_child(folder, part), "labels")
    if images is None or labels is None:
        return []
    return [Pair(images / f"{label.stem}.png", label) for label in sorted(find(labels, "*.mat"), key=_number)]


def splits(folder: Path) -> tuple[str, ...]:
    """The splits of which there are images."""
    return tuple(split for split in SPLITS if _of_split(folder, split))


def select(folder: Path, split: str | None) -> list[Pair]:
    """Pairs of ``train``, ``val`` (every sixth of the training images, which ``train`` then lacks) or ``test``.

    Raises:
        ImageError: no such split, or none of its images is there.
    """
    wanted = SPLITS if split is None else (choose(folder, _SCHEMES, split),)
    pairs = [pair for part in wanted for pair in _of_split(folder, part)]
    if not pairs:
        raise ImageError(f"{folder}: no image of the split {split!r}; expected Images and Labels in train and test.")
    return pairs


def _of_split(folder: Path, split: str) -> list[Pair]:
    if split == "test":
        return find_pairs(folder, "test")
    return [pair for pair in find_pairs(folder, "train") if is_sixth(_number(pair.label)) == (split == "val")]


def _classes(path: Path, instances: NDArray[np.int32], content: dict[str, NDArray[np.generic]]) -> NDArray[np.uint8]:
    if "type_map" in content:
        return np.where(instances != 0, content["type_map"], 0).astype(np.uint8)
    if "inst_type" not in content:
        return (instances != 0).astype(np.uint8)
    ids, numbers = np.unique(instances, return_inverse=True)
    # HoVer-Net itself gives no class to nuclei whose outline has under three points, and says which have one.
    told = content["inst_uid"].ravel().astype(np.int64) if "inst_uid" in content else ids[ids != 0]
    types = content["inst_type"].ravel().astype(np.uint8)
    if len(types) != len(told):
        whose = "of inst_uid" if "inst_uid" in content else "nuclei"
        raise ImageError(f"{path}: {len(types)} values of inst_type for {len(told)} {whose}; download it again.")
    kinds = dict(zip(told.tolist(), types.tolist(), strict=True)) | {0: 0}
    return np.array([kinds.get(label, 0) for label in ids.tolist()], np.uint8)[numbers].reshape(instances.shape)


def _variables(path: Path) -> frozenset[str]:
    try:
        return frozenset(name for name, _, _ in whosmat(str(path)))
    except Exception:  # a damaged file raises anything; it is named when it is read
        return frozenset()


def _load(path: Path, *names: str) -> dict[str, NDArray[np.generic]]:
    try:
        content = loadmat(str(path), variable_names=names)
    except NotImplementedError as error:
        raise ImageError(f"{path}: a MATLAB 7.3 file; save it with '-v7' to have it read.") from error
    except Exception as error:  # a damaged file raises anything
        raise ImageError(f"{path}: missing or damaged ({error}); download it again.") from error
    return {name: content[name] for name in names if name in content}


def _child(folder: Path | None, name: str) -> Path | None:
    if folder is None or not folder.is_dir():
        return None
    return next((child for child in sorted(folder.iterdir()) if child.name.lower() == name and child.is_dir()), None)


def _number(path: Path) -> int:
    digits = "".join(filter(str.isdigit, path.stem))
    return int(digits) if digits else 0
