"""A model, or anyone's label maps, on a split of several data sets."""

from __future__ import annotations

import logging
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

from rich.console import Console
from rich.progress import track

from pnseg_runtime.bundle import Guess
from pnseg_runtime.errors import ImageError, PnsegError
from pnseg_runtime.options import Options
from pnseg_runtime.params import MppChoice
from pnseg_train.datasets import Sample, layout_of, open_dataset, other_classes
from pnseg_train.evaluate import Result, measure
from pnseg_train.finder import Find, Finder, open_model
from pnseg_train.label_maps import LabelMaps

log = logging.getLogger(__name__)


@dataclass(frozen=True)
class Run:
    """One model on one split.

    Attributes:
        classes: names of its classes, if it tells several.
        guess: what images of unknown resolution were taken for.
    """

    name: str
    split: str
    find: Find
    classes: tuple[str, ...]
    sets: dict[str, list[Result]]
    guess: Guess = "model"

    @property
    def results(self) -> list[Result]:
        """Of all sets."""
        return [result for results in self.sets.values() for result in results]


def evaluate_run(
    split: str,
    model: Sequence[str],
    folders: Sequence[Path],
    options: Options,
    oracle: bool,
    radius: float,
    mpp: MppChoice = None,
    tell: Callable[[str], None] = log.warning,
) -> Run:
    """One model on one split of every data set.

    Args:
        mpp: microns per pixel of images that do not state theirs, or a guess.
        tell: given a sentence where classes are not measured.

    Raises:
        PnsegError: no such model, label maps that do not cover the split, two data sets of one name, or label maps with
            classes for data sets of different ones or for nuclei without any.
    """
    _refuse_namesakes(folders)
    find, classes = open_model(model, options, oracle, mpp)
    guess = find.guess if isinstance(find, Finder) else "model"
    others = [f"{folder} {other}" for folder in folders if (other := other_classes(folder, classes))]
    if others:
        tell(f"{'; '.join(others)}: nuclei are measured without their classes.")
        find, classes = _without_classes(find), ()
    tells = isinstance(find, LabelMaps) and find.tells_classes
    told = _told_by(folders) if tells else classes
    sets: dict[str, list[Result]] = {}
    for folder in folders:
        samples = open_dataset(folder, None if split == "all" else split)
        console = Console(stderr=True)
        shown = track(samples, description=folder.name, console=console, disable=not console.is_terminal)
        results = sets[folder.resolve().name] = []
        for sample in shown:
            if tells:
                _refuse_classless(sample)
            own = sample.with_classes(len(classes)) if len(classes) > 1 else sample
            results.append(measure(own, find(sample), radius))
    if tells and not told:
        told = _numbered(result for results in sets.values() for result in results)
    return Run("+".join(Path(part).name for part in model), split, find, told, sets, guess)


def _refuse_namesakes(folders: Sequence[Path]) -> None:
    # Results stand under the folder's name.
    seen: dict[str, Path] = {}
    for folder in folders:
        name = folder.resolve().name
        if name in seen:
            raise PnsegError(
                f"--data {seen[name]} and {folder}: two of one name; evaluate them one by one, or rename one."
            )
        seen[name] = folder


def _told_by(folders: Sequence[Path]) -> tuple[str, ...]:
    # Numbers in label maps mean what they mean in the data.
    told = {folder: layout_of(folder).classes for folder in folders}
    if len(set(told.values())) > 1:
        names = "; ".join(f"{folder}: {', '.join(classes) or 'unknown'}" for folder, classes in told.items())
        raise PnsegError(f"these data sets have other classes each ({names}); evaluate them one by one.")
    return told[folders[0]]


def _refuse_classless(sample: Sample) -> None:
    without = sample.classless_ids()
    if len(without):
        raise ImageError(
            f"{sample.name}: {len(without)} of its nuclei have no class, by which the label maps are to be measured; "
            "complete the annotation, or take the classes away from the maps."
        )


def _numbered(results: Iterable[Result]) -> tuple[str, ...]:
    # Of data that tell no names, the classes up to the highest that is annotated; a single one tells nothing apart.
    highest = max((kind for result in results for kind in result.annotated), default=0)
    return tuple(f"class {kind}" for kind in range(1, highest + 1)) if highest > 1 else ()


def _without_classes(find: Find) -> Find:
    return lambda sample: replace(find(sample), classes=None, point_classes=None)
