"""How good a bundle is on annotated images, for its manifest."""

from __future__ import annotations

from collections.abc import Sequence
from functools import partial
from pathlib import Path

from pnseg_runtime.bundle import Bundle
from pnseg_runtime.segmenter import Segmenter
from pnseg_train.datasets import open_dataset
from pnseg_train.evaluate import SHOWN, Row, evaluate_sample, mean


def accuracy(folder: Path, data: Sequence[Path], split: str) -> dict[str, Row]:
    """Mean metrics of the bundle in ``folder`` on a split of every data set, by the data sets' names.

    Images are seen at the model's resolution and measured in their own pixels, as ``pnseg evaluate`` does.
    """
    segmenter = Segmenter(Bundle.open(folder))
    return {place.resolve().name: _mean_over(segmenter, place, split) for place in data}


def _mean_over(segmenter: Segmenter, place: Path, split: str) -> Row:
    samples = open_dataset(place, split)
    rows = [evaluate_sample(partial(segmenter.predict, mpp=sample.mpp), sample) for sample in samples]
    average = mean(rows)
    return {"images": float(len(rows)), **{name: round(average[name], 4) for name in SHOWN}}
