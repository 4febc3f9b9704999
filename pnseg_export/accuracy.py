"""How good a bundle is on annotated images, for its manifest."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from pnseg_runtime.bundle import Bundle
from pnseg_runtime.errors import PnsegError
from pnseg_runtime.segmenter import Segmenter
from pnseg_train.datasets import open_dataset
from pnseg_train.evaluate import SHOWN, Row, mean, measure
from pnseg_train.finder import Finder


def check_validation(data: Sequence[Path], split: str) -> None:
    """Refuse what :func:`accuracy` could not measure or keep apart, before the work.

    Raises:
        PnsegError: no such data set or split, or two of one name.
    """
    seen: dict[str, Path] = {}
    for place in data:
        open_dataset(place, split)
        name = place.resolve().name
        if name in seen:
            raise PnsegError(f"--validate {seen[name]} and {place}: two of one name; rename one.")
        seen[name] = place


def accuracy(folder: Path, data: Sequence[Path], split: str) -> dict[str, Row]:
    """Mean metrics of the bundle in ``folder`` on a split of every data set, by the data sets' names.

    Images are seen as ``pnseg evaluate`` shows them: at the model's resolution, those that state none by the bundle's
    guess; they are measured in their own pixels.
    """
    find = Finder.usual(Segmenter(Bundle.open(folder)))
    return {place.resolve().name: _mean_over(find, place, split) for place in data}


def _mean_over(find: Finder, place: Path, split: str) -> Row:
    samples = open_dataset(place, split)
    rows = [measure(sample, find(sample)).row for sample in samples]
    average = mean(rows)
    return {"images": float(len(rows)), **{name: round(average[name], 4) for name in SHOWN}}
