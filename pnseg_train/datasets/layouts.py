"""The layouts that are known, and the one door to all of them."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path

from pnseg_runtime.errors import ImageError
from pnseg_train.datasets import consep, cpm17, dsb2018, folder, hovernet_mat, kumar, monuseg, pannuke
from pnseg_train.datasets.samples import Samples
from pnseg_train.recipes import same_classes


@dataclass(frozen=True)
class Layout:
    """A way in which a data set lies on the disk.

    Attributes:
        name: what it is called.
        title: for people.
        classes: names of the classes 1, 2, … of its samples; empty if they are the user's own.
        licence: of the data; "" if it is the user's own.
        recognises: whether a folder has this layout.
        splits: the splits that a folder holds, of which no two share an image.
        read: the samples of one split, or of all for None.
    """

    name: str
    title: str
    classes: tuple[str, ...]
    licence: str
    recognises: Callable[[Path], bool]
    splits: Callable[[Path], tuple[str, ...]]
    read: Callable[[Path, str | None], Samples]


_NC = "CC BY-NC-SA 4.0"

# In the order in which they are tried; the first that recognises a folder reads it.
LAYOUTS: tuple[Layout, ...] = (
    Layout("folder", "plain folder", (), "", folder.recognises, folder.splits, folder.read),
    Layout("pannuke", "PanNuke", pannuke.CLASSES, _NC, pannuke.recognises, pannuke.splits, pannuke.read),
    Layout("dsb2018", "DSB 2018", dsb2018.CLASSES, "CC0 1.0", dsb2018.recognises, dsb2018.splits, dsb2018.read),
    Layout("consep", "CoNSeP", consep.CLASSES, "not stated", consep.recognises, hovernet_mat.splits, consep.read),
    Layout("cpm17", "CPM-17", cpm17.CLASSES, "not stated", cpm17.recognises, hovernet_mat.splits, cpm17.read),
    Layout("monuseg", "MoNuSeg 2018", monuseg.CLASSES, _NC, monuseg.recognises, monuseg.splits, monuseg.read),
    Layout("kumar", "Kumar", kumar.CLASSES, _NC, kumar.recognises, kumar.splits, kumar.read),
)


def layout_of(path: Path) -> Layout:
    """The layout of a folder.

    Raises:
        ImageError: it has none that is known.
    """
    found = next((layout for layout in LAYOUTS if layout.recognises(path)), None)
    if found is None:
        known = ", ".join(layout.title for layout in LAYOUTS)
        raise ImageError(f"{path}: none of the known layouts ({known}); arrange it as docs/datasets.md shows.")
    return found


def other_classes(path: Path, names: Sequence[str]) -> str:
    """Why the nuclei of a data set cannot be told by a model's class names, as the end of a sentence.

    The names count, in their order, but neither capitals nor hyphens. A plain folder does not tell its
    names, only whether it has classes.

    Returns:
        "" where the classes are the same, where nothing is known against it, and for a model of one
        class or none, which takes the nuclei of any.

    Raises:
        ImageError: an unknown layout.
    """
    layout = layout_of(path)
    if len(names) < 2 or same_classes(names, layout.classes):
        return ""
    if layout.classes:
        return f"has the classes {', '.join(layout.classes)}, the model {', '.join(names)}"
    if (path / "classes").is_dir():
        return ""
    return f"has no folder classes/ that tells which of its nuclei are {' or '.join(names)}"


def open_dataset(path: Path, split: str | None = None) -> Samples:
    """The samples of a data set in any known layout, each read when it is indexed.

    Args:
        path: the folder, as it was downloaded.
        split: ``train``, ``val``, ``test`` or what the index of a plain folder says; several joined
            by ``+``; with ``213:train`` those of another division of the set. None for all images.

    Raises:
        ImageError: an unknown layout or split; when a sample is read, a file that is missing or damaged.
        SizeMismatchError: when a sample is read, a label that does not fit its image.
    """
    layout = layout_of(path)
    if split is None:
        return layout.read(path, None)
    scheme, colon, parts = split.rpartition(":")
    return Samples.joined(layout.read(path, f"{scheme}{colon}{part}") for part in parts.split("+"))
