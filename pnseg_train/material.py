"""The images to train and to validate on, as the model sees them, and what refuses them."""

from __future__ import annotations

import csv
import logging
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import NamedTuple

import numpy as np

from pnseg_runtime.errors import PnsegError
from pnseg_train.datasets import Sample, layout_of, open_dataset, other_classes
from pnseg_train.datasets.sample import image_digest
from pnseg_train.datasets.tcga import patient_of
from pnseg_train.recipes import Recipe, Splits
from pnseg_train.tasks import judged_windows

log = logging.getLogger(__name__)


class Read(NamedTuple):
    """A sample as the model sees it; folder, the data set; digest, of the image as its file holds it."""

    folder: Path
    sample: Sample
    digest: str


def read_split(folders: Sequence[Path], split: str, recipe: Recipe, mpp: float | None) -> list[Read]:
    """All samples of a split as the model sees them; ``mpp`` is that of images that do not state theirs.

    Raises:
        PnsegError: a data set of other classes than the recipe's, or without the split.
        ImageError: an image or annotation that cannot be read.
    """
    number, samples = len(recipe.classes), []
    for folder in folders:
        given = (replace(sample, mpp=sample.mpp or mpp) for sample in open_dataset(folder, split))
        own = [
            Read(folder, sample.with_classes(number).at_mpp(recipe.mpp), image_digest(sample.image)) for sample in given
        ]
        _check_classes(folder, split, [read.sample for read in own], recipe)
        samples += own
    return samples


def _check_classes(folder: Path, split: str, samples: list[Sample], recipe: Recipe) -> None:
    other = other_classes(folder, recipe.classes)
    if other:
        raise PnsegError(
            f"{folder}: {other}; choose a recipe with the classes of this data set, or one with a single class."
        )
    found = {int(kind) for sample in samples for kind in np.unique(sample.classes)}
    missing = [name for number, name in enumerate(recipe.classes, start=1) if number not in found]
    if missing and len(recipe.classes) > 1:
        log.warning("%s: no nucleus of the split %s is of the class %s", folder, split, " or ".join(missing))


def licences_of(folder: Path) -> set[str]:
    """The licences of a data set: its layout's, or those that its ``index.csv`` names; none if neither tells."""
    index = folder / "index.csv"
    if not index.is_file():
        layout = layout_of(folder)
        return {f"{layout.licence} ({layout.title})"} if layout.licence else set()
    with index.open(newline="", encoding="utf-8-sig") as stream:
        return {row["licence"] for row in csv.DictReader(stream) if row.get("licence")}


def refuse_leak(training: list[Read], validation: list[Read], splits: Splits) -> None:
    """See that no image is both trained and validated on, nor are two of one group.

    Raises:
        PnsegError: one is, under whatever name, or two are.
    """
    both = f"both in the training split {splits.train} and in the validation split {splits.val}"
    remedy = "choose splits that share none, or --val-split none, which trains without validation"
    trained = {read.digest: read for read in training}
    shared = [(read, trained[read.digest]) for read in validation if read.digest in trained]
    if shared:
        held, twin = min(shared, key=lambda pair: (pair[0].folder, pair[0].sample.name))
        there = f"{held.sample.name} one of them"
        if (held.folder, held.sample.name) != (twin.folder, twin.sample.name):
            there = f"{held.sample.name} (the same pixels as {twin.folder}: {twin.sample.name}) one of them"
        raise PnsegError(f"{held.folder}: {len(shared)} images, {there}, stand {both}; {remedy}.")
    groups = _groups(training) & _groups(validation)
    if groups:
        raise PnsegError(
            f"images of one group ({', '.join(sorted({name for _, name in groups}))}) stand {both}; {remedy}, "
            "or mend the groups of index.csv where the data have one."
        )


def _groups(samples: list[Read]) -> set[tuple[Path | None, str]]:
    # A data set may number its patients as another does; those of TCGA have the same names in all.
    patients = [(read.folder.resolve(), patient_of(read.sample.group)) for read in samples if read.sample.group]
    return {(None if patient.startswith("TCGA-") else folder, patient) for folder, patient in patients}


def refuse_nothing_to_judge_by(network: str, validation: list[Read], splits: Splits) -> None:
    """See that a validation split, where there is one, has nuclei by which steps differ.

    Raises:
        PnsegError: it has none, or none that is large enough to be prompted where the network is not the prompter.
    """
    if not validation:
        return
    remedy = "choose another split, or --val-split none, which trains without validation"
    if not any(read.sample.instances.any() for read in validation):
        raise PnsegError(
            f"the validation split {splits.val} has no nucleus, so no step is better than another; {remedy}."
        )
    if network != "prompter" and not any(True for read in validation for _ in judged_windows(read.sample)):
        raise PnsegError(
            f"the nuclei of the validation split {splits.val} are all too small to be prompted (under 16 px at "
            f"the recipe's mpp), so no step is better than another; {remedy}."
        )
