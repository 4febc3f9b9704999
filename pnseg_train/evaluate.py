"""Predictions against annotations: PQ, AJI and their parts (paper section 4), and detection."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator

import numpy as np
from numpy.typing import NDArray

from pnseg_runtime.metrics import evaluate_pair, match_points
from pnseg_runtime.nuclei import Nuclei
from pnseg_train.datasets import Sample
from pnseg_train.targets import label_centroids

Predict = Callable[[NDArray[np.uint8]], Nuclei]
Row = dict[str, float]

# What is printed, in this order; all else goes into the JSON.
SHOWN = ("pq", "dq", "sq", "aji", "aji_plus", "dice", "precision", "recall", "f1")


def evaluate(predict: Predict, samples: Iterable[Sample]) -> Iterator[tuple[str, Row]]:
    """Name and metrics of every image."""
    for sample in samples:
        yield sample.name, evaluate_sample(predict, sample)


def evaluate_sample(predict: Predict, sample: Sample) -> Row:
    """Metrics of one image: those of :mod:`pnseg_runtime.metrics`, and numbers of nuclei.

    ``precision``, ``recall`` and ``f1`` are those of the point prompts, a hit within 12 px of a centroid.
    """
    found = predict(sample.image)
    row = evaluate_pair(sample.instances, found.instance_map())
    hits = match_points(label_centroids(sample.instances), found.points)
    detection = {"precision": hits.precision, "recall": hits.recall, "f1": hits.f1}
    counts = {"nuclei": float(hits.truths), "found": float(hits.predictions)}
    return {name: float(value) for name, value in (row | detection | counts).items()}


def mean(rows: list[Row]) -> Row:
    """Mean over the images, as the paper has it on Kumar and CPM-17."""
    return {name: float(np.mean([row[name] for row in rows])) for name in rows[0]}
