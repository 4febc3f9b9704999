"""A plain folder: ``images/*.png``, ``labels/*.png`` (instance ids), optional ``classes/`` and ``index.csv``."""

from __future__ import annotations

import csv
import math
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from pnseg_runtime.errors import ImageError
from pnseg_runtime.images import read_image
from pnseg_train.datasets.files import read_label
from pnseg_train.datasets.sample import Sample, check_size
from pnseg_train.datasets.samples import Samples


def read_folder(folder: Path, split: str | None = None) -> list[Sample]:
    """All images of a split, read at once; otherwise as :func:`read`."""
    return list(read(folder, split))


def recognises(folder: Path) -> bool:
    """Whether images and labels lie side by side."""
    return (folder / "images").is_dir() and (folder / "labels").is_dir()


def splits(folder: Path) -> tuple[str, ...]:
    """The splits of the index, in order of appearance."""
    return tuple(dict.fromkeys(row["split"] for row in _index(folder) if row.get("split")))


def read(folder: Path, split: str | None = None) -> Samples:
    """The images of a split.

    Args:
        folder: holds ``images`` and ``labels`` with equal names; ``index.csv`` has the columns
            ``id`` and, if known, ``split``, ``group``, ``tissue`` and ``mpp``.
        split: only the rows with this split; None for all. Without an index there are no splits.

    Raises:
        ImageError: a folder without images, a split without rows, an index that is not understood; when a sample is
            read, a label that is missing, or a class map where others have theirs.
        SizeMismatchError: when a sample is read, a label of another size.
    """
    rows = [row for row in _index(folder) if split is None or row.get("split") == split]
    if not rows:
        wanted = f"no image of the split {split!r}" if split else "no image"
        raise ImageError(
            f"{folder}: {wanted} found; expected images/*.png, labels/*.png and index.csv with a split column."
        )
    return Samples(partial(_read, folder, row) for row in rows)


def _index(folder: Path) -> list[dict[str, str]]:
    index = folder / "index.csv"
    if not index.is_file():
        return [{"id": path.stem} for path in sorted((folder / "images").glob("*.png"))]
    try:
        with index.open(newline="", encoding="utf-8-sig") as stream:
            reader = csv.DictReader(stream)
            _check_columns(index, list(reader.fieldnames or ()))
            return [_checked(index, reader.line_num, row) for row in reader]
    except UnicodeDecodeError as error:
        raise ImageError(f"{index}: not UTF-8 ({error.reason}); save it as CSV UTF-8.") from error


def _check_columns(index: Path, columns: list[str]) -> None:
    if "id" in columns:
        return
    if columns and ";" in columns[0]:
        raise ImageError(
            f"{index}: its columns are separated by semicolons; save it with commas, and points in numbers."
        )
    raise ImageError(
        f"{index}: no column id among {', '.join(columns) or 'none'}; name the column of the images' names id."
    )


def _checked(index: Path, line: int, row: dict[Any, str]) -> dict[str, str]:
    if any(row.get(None, ())):  # where DictReader puts what is beyond the last column
        raise ImageError(f"{index}: line {line} has more fields than columns; write decimals with a point.")
    mpp = row.get("mpp")
    if mpp and not _is_positive(mpp):
        raise ImageError(f"{index}: line {line} has the mpp {mpp}; write microns per pixel as 0.25, or leave it empty.")
    return row


def _is_positive(number: str) -> bool:
    try:
        return 0 < float(number) < math.inf
    except ValueError:
        return False


def _read(folder: Path, row: dict[str, str]) -> Sample:
    name = row["id"]
    image = read_image(folder / "images" / f"{name}.png").pixels
    label = folder / "labels" / f"{name}.png"
    instances = read_label(label)
    check_size(label, instances, image)
    classes = _classes(folder, name, instances)
    check_size(folder / "classes" / label.name, classes, image)
    return Sample(
        name=name,
        image=image,
        instances=instances.astype(np.int32),
        classes=classes.astype(np.uint8),
        group=row.get("group", ""),
        tissue=row.get("tissue", ""),
        mpp=float(row["mpp"]) if row.get("mpp") else None,
    )


def _classes(folder: Path, name: str, instances: NDArray[np.generic]) -> NDArray[np.generic]:
    # Of a set that tells classes, an image that lacks its own would have all its nuclei in the first.
    path = folder / "classes" / f"{name}.png"
    if path.is_file():
        return read_label(path)
    if path.parent.is_dir() and instances.any():
        raise ImageError(
            f"{path}: missing, but the set tells classes; put it there, take its row out of index.csv, or take the "
            "folder classes/ away from a set of one class."
        )
    return instances != 0
