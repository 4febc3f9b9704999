"""Predictions against annotations (paper section 4: PQ, AJI and their parts)."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from typing import Any

import numpy as np
from numpy.typing import NDArray

from pnseg_runtime.metrics import evaluate_pair, match_points
from pnseg_runtime.nuclei import Nuclei
from pnseg_train.datasets import Sample

Predict = Callable[[NDArray[np.uint8]], Nuclei]


def evaluate_samples(predict: Predict, samples: Iterable[Sample]) -> list[dict[str, Any]]:
    """One row an image: its name, its metrics, its numbers of nuclei."""
    return [{"image": sample.name, **evaluate_sample(predict, sample)} for sample in samples]


def evaluate_sample(predict: Predict, sample: Sample) -> dict[str, float]:
    """Metrics of one image."""
    found = predict(sample.image)
    row = {name: float(value) for name, value in evaluate_pair(sample.instances, found.instance_map()).items()}
    return row | detection(found, sample.instances)


def detection(found: Nuclei, instances: NDArray[np.int32], radius: float = 12.0) -> dict[str, float]:
    """Precision, recall and F1 of the point prompts, a hit within ``radius`` px of a centroid."""
    raise NotImplementedError


def means(rows: list[dict[str, Any]]) -> dict[str, float]:
    """Mean over the images, as the paper has it on Kumar and CPM-17."""
    names = [name for name in rows[0] if name != "image"]
    return {name: float(np.nanmean([row[name] for row in rows])) for name in names}
