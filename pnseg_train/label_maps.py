"""Label maps that any tool has written, found by the names of the images they belong to."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import numpy as np
import tifffile
from numpy.typing import NDArray

from pnseg_runtime.errors import ImageError
from pnseg_train.datasets.files import read_label
from pnseg_train.datasets.hovernet_mat import knows_types, read_labels
from pnseg_train.datasets.sample import Sample, check_size
from pnseg_train.evaluate import Found

Maps = tuple[NDArray[np.integer], "NDArray[np.integer] | None"]


class LabelMaps:
    """A folder of label maps, one an image: ``<image>.png``, ``.tif``, ``.npy`` or ``.mat``.

    ``.labels.tif``, as ``pnseg predict`` writes it, counts as ``.tif``. Maps may lie in a folder
    ``labels`` inside; class maps of the same names in ``classes`` are read if they are there. A
    ``.mat`` is HoVer-Net's: ``inst_map`` with, if known, ``inst_type`` or ``type_map``.

    Attributes:
        tells_classes: whether there are classes; then no map may be without.
    """

    def __init__(self, folder: Path):
        """Find the maps.

        Raises:
            ImageError: there are none, or two of one image.
        """
        self.folder = folder
        labels = folder / "labels" if (folder / "labels").is_dir() else folder
        self.paths: dict[str, Path] = {}
        named = [(path.name[: -len(suffix)], path) for suffix in READERS for path in labels.glob(f"[!.]*{suffix}")]
        for name, path in named:
            other = self.paths.setdefault(name, path)
            if other != path:
                raise ImageError(f"{labels}: {other.name} and {path.name} are both of the image {name}; take one away.")
        if not self.paths:
            known = ", ".join(READERS)
            raise ImageError(f"{folder}: neither a bundle nor a checkpoint, and no label map in it (*{known}).")
        self.tells_classes = any(
            self._beside(name).is_file() or (path.suffix == ".mat" and knows_types(path))
            for name, path in self.paths.items()
        )

    def missing(self, names: list[str]) -> list[str]:
        """The images of these names that have no map."""
        return [name for name in names if name not in self.paths]

    def __call__(self, sample: Sample) -> Found:
        """What the tool found in a sample.

        Raises:
            ImageError: its map is missing or unreadable, or lacks the classes that others have.
            SizeMismatchError: its map is of another size.
        """
        path = self.paths.get(sample.name)
        if path is None:
            raise ImageError(f"{self.folder}: no label map for the image {sample.name}; name it {sample.name}.png.")
        labels, classes = READERS[next(suffix for suffix in READERS if path.name.endswith(suffix))](path)
        check_size(path, labels, sample.image)
        beside = self._beside(sample.name)
        if beside.is_file():
            classes = _read_png(beside)[0]
            check_size(beside, classes, sample.image)
        if classes is None and self.tells_classes:
            raise ImageError(
                f"{path}: has no classes, but other maps of this folder do; add its own, or remove theirs."
            )
        return Found.of_maps(labels, classes)

    def _beside(self, name: str) -> Path:
        # Where the class map of an image would be.
        return self.folder / "classes" / f"{name}.png"


def _read_png(path: Path) -> Maps:
    return _checked(path, read_label(path)), None


def _read_tiff(path: Path) -> Maps:
    try:
        return _checked(path, tifffile.imread(path)), None
    except (OSError, ValueError, tifffile.TiffFileError) as error:
        raise ImageError(f"{path}: not a readable TIFF ({error}); export it again.") from error


def _read_npy(path: Path) -> Maps:
    try:
        return _checked(path, np.load(path, allow_pickle=False)), None
    except (OSError, ValueError, EOFError) as error:
        raise ImageError(f"{path}: not a readable array ({error}); save it anew with numpy.save.") from error


def _read_mat(path: Path) -> Maps:
    instances, classes = read_labels(path)
    # Without types every nucleus is given the class 1, which tells nothing; with them the tool may have found it.
    return instances, classes if knows_types(path) else None


def _checked(path: Path, labels: NDArray[np.generic]) -> NDArray[np.integer]:
    if labels.ndim != 2:
        raise ImageError(f"{path}: has the shape {labels.shape}, but a label map has rows and columns alone.")
    if not np.issubdtype(labels.dtype, np.integer):
        if not np.array_equal(labels, np.round(labels)):
            raise ImageError(f"{path}: holds fractions, but a label map holds the numbers of nuclei.")
        labels = labels.astype(np.int64)
    if labels.min(initial=0) < 0:
        raise ImageError(f"{path}: holds negative numbers, but nuclei are numbered from 1 on and background is 0.")
    return labels.astype(np.int64)


# The end of a file's name → its reader; the first that fits is taken.
READERS: dict[str, Callable[[Path], Maps]] = {
    ".labels.tif": _read_tiff,
    ".tif": _read_tiff,
    ".tiff": _read_tiff,
    ".png": _read_png,
    ".npy": _read_npy,
    ".mat": _read_mat,
}
