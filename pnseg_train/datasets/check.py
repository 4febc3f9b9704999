"""What can be wrong with a data set, found by reading all of it once."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from pnseg_runtime.errors import ImageError
from pnseg_train.datasets.layouts import Layout
from pnseg_train.datasets.sample import Sample, SizeMismatchError, image_digest
from pnseg_train.datasets.tcga import patient_of

# What is found, and whether a set with it must not be trained on.
MISMATCHED, UNREADABLE, LEAKAGE = "mismatched size", "unreadable", "split leakage"
EMPTY, GAPS, TWICE, NO_SPLIT = "empty label", "non-consecutive ids", "same image twice", "in no split"
CLASSLESS = "nuclei without a class"
FATAL = frozenset({MISMATCHED, UNREADABLE, LEAKAGE})
SHOWN_IDS = 3  # of nuclei, in a sentence


@dataclass(frozen=True)
class Finding:
    """Attributes: kind, one of the names above; images, the names it concerns; detail, a sentence."""

    kind: str
    images: tuple[str, ...]
    detail: str


@dataclass
class Counts:
    """What a split holds.

    Attributes:
        images: those that could be read.
        nuclei: in all images.
        at_border: nuclei that touch the border of their image, so that their outline is cut.
        diameters: median diameter of each image that has nuclei, px.
    """

    images: int = 0
    nuclei: int = 0
    at_border: int = 0
    diameters: list[float] = field(default_factory=list)


@dataclass(frozen=True)
class Report:
    """What is in a data set and what is wrong with it; ``counts`` by split, "" where there are no splits."""

    counts: dict[str, Counts]
    findings: list[Finding]

    @property
    def sound(self) -> bool:
        """Whether nothing was found that forbids training."""
        return not any(finding.kind in FATAL for finding in self.findings)


def check(layout: Layout, folder: Path, look: Callable[[str, Sample], object] | None = None) -> Report:
    """Read every image of a data set.

    Args:
        layout: the folder's.
        folder: the data set.
        look: called with the split and each sample that could be read.

    Raises:
        ImageError: there is nothing to read at all.
    """
    counts: dict[str, Counts] = {}
    findings: list[Finding] = []
    seen: list[tuple[str, str, str, str]] = []
    splits = layout.splits(folder)
    for split in splits or (None,):
        held = counts[split or ""] = Counts()
        samples = layout.read(folder, split)
        for index in range(len(samples)):
            try:
                sample = samples[index]
            except ImageError as error:
                kind = MISMATCHED if isinstance(error, SizeMismatchError) else UNREADABLE
                findings.append(Finding(kind, (), str(error)))
                continue
            _count(held, sample)
            findings.extend(faults_of(sample))
            seen.append((split or "", sample.name, patient_of(sample.group), image_digest(sample.image)))
            if look is not None:
                look(split or "", sample)
    findings.extend(_leaks(seen))
    left_out = len(layout.read(folder, None)) - sum(len(layout.read(folder, split)) for split in splits)
    if splits and left_out > 0:
        findings.append(Finding(NO_SPLIT, (), f"{left_out} images belong to no split and are never used."))
    return Report(counts, findings)


def faults_of(sample: Sample) -> Iterator[Finding]:
    """What a single image shows: no nuclei, ids with gaps, or nuclei without a class."""
    ids = nucleus_ids(sample.instances)
    if not len(ids):
        yield Finding(EMPTY, (sample.name,), f"{sample.name}: no nucleus.")
    elif ids[-1] != len(ids):
        yield Finding(GAPS, (sample.name,), f"{sample.name}: {len(ids)} nuclei, ids up to {ids[-1]}.")
    without = sample.classless_ids().tolist()
    if without:
        more = ", …" if len(without) > SHOWN_IDS else ""
        named = ", ".join(map(str, without[:SHOWN_IDS]))
        yield Finding(
            CLASSLESS, (sample.name,), f"{sample.name}: {len(without)} nuclei have no class (ids {named}{more})."
        )


def nucleus_ids(labels: NDArray[np.integer]) -> NDArray[np.integer]:
    """The ids of a label map of any shape, ascending, without the background."""
    ids = np.unique(labels)
    return ids[ids != 0]


def border_ids(labels: NDArray[np.integer]) -> NDArray[np.integer]:
    """The ids (H, W) that stand in the first or last row or column."""
    return nucleus_ids(np.concatenate([labels[0], labels[-1], labels[:, 0], labels[:, -1]]))


def _count(counts: Counts, sample: Sample) -> None:
    number = len(nucleus_ids(sample.instances))
    counts.images += 1
    counts.nuclei += number
    counts.at_border += len(border_ids(sample.instances))
    if number:
        counts.diameters.append(sample.median_diameter())


def _leaks(seen: Iterable[tuple[str, str, str, str]]) -> Iterator[Finding]:
    groups: dict[str, list[tuple[str, str]]] = defaultdict(list)
    pixels: dict[str, list[tuple[str, str]]] = defaultdict(list)
    for split, name, group, digest in seen:
        if group:
            groups[group].append((split, name))
        pixels[digest].append((split, name))
    for group, places in groups.items():
        if len({split for split, _ in places}) > 1:
            yield _shared(LEAKAGE, f"group {group}", places)
    for places in pixels.values():
        if len(places) > 1:
            leaks = len({split for split, _ in places}) > 1
            yield _shared(LEAKAGE if leaks else TWICE, "one image", places)


def _shared(kind: str, what: str, places: list[tuple[str, str]]) -> Finding:
    where = ", ".join(f"{split}: {name}" if split else name for split, name in places)
    return Finding(kind, tuple(name for _, name in places), f"{what} stands in {where}.")
