"""A plain folder: ``images/*.png``, ``labels/*.png`` (instance ids), optional ``classes/`` and ``index.csv``."""

from __future__ import annotations

import csv
from pathlib import Path

import cv2
import numpy as np
from numpy.typing import NDArray

from pnseg_runtime.errors import ImageError
from pnseg_train.datasets.sample import Sample


def read_folder(folder: Path, split: str | None = None) -> list[Sample]:
    """All images of a split.

    Args:
        folder: holds ``images`` and ``labels`` with equal names; ``index.csv`` has the columns
            ``id`` and, if known, ``split``, ``group``, ``tissue`` and ``mpp``.
        split: only the rows with this split; None for all. Without an index there are no splits.

    Raises:
        ImageError: a folder without images, a split without rows, a label that is missing or of another size.
    """
    rows = [row for row in _index(folder) if split is None or row.get("split") == split]
    if not rows:
        wanted = f"no image of the split {split!r}" if split else "no image"
        raise ImageError(
            f"{folder}: {wanted} found; expected images/*.png, labels/*.png and index.csv with a split column."
        )
    return [_read(folder, row) for row in rows]


def _index(folder: Path) -> list[dict[str, str]]:
    index = folder / "index.csv"
    if not index.is_file():
        return [{"id": path.stem} for path in sorted((folder / "images").glob("*.png"))]
    with index.open(newline="", encoding="utf-8") as stream:
        return list(csv.DictReader(stream))


def _read(folder: Path, row: dict[str, str]) -> Sample:
    name = row["id"]
    image = _pixels(folder / "images" / f"{name}.png", cv2.IMREAD_COLOR)[:, :, ::-1]
    instances = _pixels(folder / "labels" / f"{name}.png", cv2.IMREAD_UNCHANGED)
    if instances.shape != image.shape[:2]:
        raise ImageError(
            f"{folder / 'labels' / name}.png: {instances.shape} px, its image has {image.shape[:2]}; export it again."
        )
    class_file = folder / "classes" / f"{name}.png"
    classes = _pixels(class_file, cv2.IMREAD_UNCHANGED) if class_file.is_file() else (instances != 0)
    return Sample(
        name=name,
        image=np.ascontiguousarray(image),
        instances=instances.astype(np.int32),
        classes=classes.astype(np.uint8),
        group=row.get("group", ""),
        tissue=row.get("tissue", ""),
        mpp=float(row["mpp"]) if row.get("mpp") else None,
    )


def _pixels(path: Path, flags: int) -> NDArray[np.generic]:
    pixels = cv2.imread(str(path), flags)
    if pixels is None:
        raise ImageError(f"{path}: missing or not a readable PNG; put it there or take its row out of index.csv.")
    return pixels
