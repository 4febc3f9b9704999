"""Predictions against annotations: PQ, AJI and their parts, by class and tissue, and detection (paper section 4)."""

from __future__ import annotations

import math
from collections import Counter, defaultdict
from collections.abc import Iterable, Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from pnseg_runtime.metrics import (
    PointMatches,
    evaluate_overlaps,
    match_points,
    overlaps,
    panoptic_quality_of_classes,
)
from pnseg_runtime.nuclei import Nuclei
from pnseg_runtime.prompts import PointPrompts
from pnseg_train.datasets import Sample
from pnseg_train.targets import label_centroids

Row = dict[str, float]

# What is printed, in this order; all else goes into the JSON.
SHOWN = ("pq", "dq", "sq", "aji", "aji_plus", "dice", "precision", "recall", "f1")

RADIUS = 12.0  # px at 40×, about 3 µm (Table 2)


@dataclass(frozen=True)
class Found:
    """What a model or another tool found in an image.

    Attributes:
        labels: (H, W) instance ids, 0 background.
        points: (M, 2) where it says the nuclei are, px.
        classes: (N,) class 1, 2, … of each instance, by ascending id; None if it tells none.
        point_classes: (M,) class of each point; None likewise.
    """

    labels: NDArray[np.integer]
    points: NDArray[np.float32]
    classes: NDArray[np.integer] | None = None
    point_classes: NDArray[np.integer] | None = None

    @classmethod
    def of(cls, nuclei: Nuclei) -> Found:
        """A prediction of the pipeline; classes count only where the model has several."""
        kinds = nuclei.classes + 1 if len(nuclei.class_table) > 1 else None
        return cls(nuclei.instance_map(), nuclei.points, kinds, kinds)

    @classmethod
    def of_maps(cls, labels: NDArray[np.integer], classes: NDArray[np.integer] | None) -> Found:
        """Label map and, if known, class map (H, W) of any tool; its points are the centroids."""
        kinds = None if classes is None else instance_classes(labels, classes)
        return cls(labels, label_centroids(labels.astype(np.int64)), kinds, kinds)


@dataclass(frozen=True)
class Result:
    """One image.

    Attributes:
        name: of the image.
        tissue: of the image, "" if unknown.
        row: the metrics; NaN where the ground truth has nothing that a metric of PanNuke's protocol could count.
        pairs: how often a nucleus of class a was found as class b.
        missed: nuclei of each class that were not found.
        invented: points of each class that found none.
    """

    name: str
    tissue: str
    row: Row
    pairs: Counter[tuple[int, int]]
    missed: Counter[int]
    invented: Counter[int]

    @property
    def annotated(self) -> set[int]:
        """The classes of its nuclei, found or not."""
        return {truth for truth, _ in self.pairs} | set(self.missed)


def measure(sample: Sample, found: Found, radius: float = RADIUS) -> Result:
    """Everything about one image, from one table of overlaps and one matching of points.

    The row has the metrics of :mod:`pnseg_runtime.metrics`; ``precision``, ``recall`` and ``f1`` of the
    points within ``radius`` px of a centroid; ``bpq``, PQ of all classes together, and ``mpq``, the mean
    over the classes that the image's annotation has, which are NaN without a nucleus; ``pq_1``, ``pq_2`` …
    of those classes; and the numbers of nuclei.
    """
    table = overlaps(sample.instances, found.labels)
    row = evaluate_overlaps(table)
    hits = match_points(label_centroids(sample.instances), found.points, radius)
    row |= {"precision": hits.precision, "recall": hits.recall, "f1": hits.f1}
    row |= {"nuclei": float(hits.truths), "found": float(hits.predictions)}
    row["bpq"] = row["pq"] if hits.truths else math.nan
    truth = instance_classes(sample.instances, sample.classes)
    if found.classes is not None:
        by_class = panoptic_quality_of_classes(table, truth, found.classes)
        row["mpq"] = float(np.mean(list(by_class.values()))) if by_class else math.nan
        row |= {f"pq_{kind}": value for kind, value in by_class.items()}
    told = np.ones(len(found.points), np.int64) if found.point_classes is None else found.point_classes
    truth = np.ones_like(truth) if found.point_classes is None else truth
    row = {name: float(value) for name, value in row.items()}
    return Result(sample.name, sample.tissue, row, *_confusion(hits, truth, told))


def instance_classes(labels: NDArray[np.integer], classes: NDArray[np.integer]) -> NDArray[np.int64]:
    """(N,) class of each instance, by ascending id, as the class map (H, W) has it at its first pixel."""
    ids, first = np.unique(labels, return_index=True)
    return classes.ravel()[first[ids != 0]].astype(np.int64)


def true_points(sample: Sample) -> PointPrompts:
    """A perfect prompter's points ("oracle", Table 7): every nucleus's centroid, with its class."""
    coords = label_centroids(sample.instances).astype(np.float32)
    kinds = np.maximum(instance_classes(sample.instances, sample.classes) - 1, 0)
    return PointPrompts(coords, kinds, np.ones(len(coords), np.float32))


def _confusion(
    hits: PointMatches, truth: NDArray[np.integer], told: NDArray[np.integer]
) -> tuple[Counter[tuple[int, int]], Counter[int], Counter[int]]:
    first, second = hits.pairs.T
    return (
        Counter(zip(truth[first].tolist(), told[second].tolist(), strict=True)),
        Counter(np.delete(truth, first).tolist()),
        Counter(np.delete(told, second).tolist()),
    )


def mean(rows: Sequence[Row]) -> Row:
    """Mean over the images, as the paper has it on Kumar and CPM-17; NaN is left out."""
    names = dict.fromkeys(name for row in rows for name in row)
    return {name: mean_of(row[name] for row in rows if name in row) for name in names}


def mean_of(values: Iterable[float]) -> float:
    """The mean without the NaN, NaN for nothing."""
    known = [value for value in values if not math.isnan(value)]
    return float(np.mean(known)) if known else math.nan


def by_tissue(results: Sequence[Result]) -> dict[str, Row]:
    """PanNuke's protocol: ``bpq`` and ``mpq`` averaged over the images of each tissue, and then over the tissues.

    The average stands last, under the name "average"; ``images`` counts those with a nucleus.
    """
    groups: dict[str, list[Row]] = defaultdict(list)
    for result in results:
        groups[result.tissue].append(result.row)
    table = {
        tissue: {
            "bpq": mean_of(row["bpq"] for row in rows),
            "mpq": mean_of(row.get("mpq", math.nan) for row in rows),
            "images": float(sum(not math.isnan(row["bpq"]) for row in rows)),
        }
        for tissue, rows in sorted(groups.items())
    }
    average = {name: mean_of(row[name] for row in table.values()) for name in ("bpq", "mpq")}
    return table | {"average": average | {"images": sum(row["images"] for row in table.values())}}


def over_folds(folds: Sequence[dict[str, Row]]) -> dict[str, Row]:
    """Mean over folds of what :func:`by_tissue` gives, and as ``bpq_sd``, ``mpq_sd`` the standard deviation (n − 1)."""
    table: dict[str, Row] = {}
    for tissue in dict.fromkeys(tissue for fold in folds for tissue in fold):
        rows = [fold[tissue] for fold in folds if tissue in fold]
        table[tissue] = {"images": sum(row["images"] for row in rows)}
        for name in ("bpq", "mpq"):
            values = [row[name] for row in rows if not math.isnan(row[name])]
            table[tissue][name] = mean_of(values)
            table[tissue][f"{name}_sd"] = float(np.std(values, ddof=1)) if len(values) > 1 else math.nan
    return table


def detection_scores(results: Sequence[Result]) -> Row:
    """Precision, recall and F1 of the points of all images together, whatever their classes."""
    hits = sum(sum(result.pairs.values()) for result in results)
    missed = sum(sum(result.missed.values()) for result in results)
    invented = sum(sum(result.invented.values()) for result in results)
    return {
        "precision": _share(hits, hits + invented),
        "recall": _share(hits, hits + missed),
        "f1": _share(2 * hits, 2 * hits + missed + invented),
    }


def class_scores(results: Sequence[Result]) -> dict[int, Row]:
    """Precision, recall and F1 of each class over all images together, as HoVer-Net counts them.

    Among found nuclei TP are those of the class that are told so, FP those told so wrongly, FN those
    told another; FPd are points of the class that found nothing, FNd nuclei of it that were not found:
    F1 = 2·TP / (2·TP + 2·FP + 2·FN + FPd + FNd), precision = TP / (TP + 2·FP + FPd), recall =
    TP / (TP + 2·FN + FNd). An error of class weighs twice, so F1 is not the mean of the other two.
    """
    pairs = sum((result.pairs for result in results), Counter())
    missed = sum((result.missed for result in results), Counter())
    invented = sum((result.invented for result in results), Counter())
    kinds = sorted({kind for pair in pairs for kind in pair} | set(missed) | set(invented))
    scores = {}
    for kind in kinds:
        tp = pairs[kind, kind]
        fp = sum(count for (true, told), count in pairs.items() if told == kind != true)
        fn = sum(count for (true, told), count in pairs.items() if true == kind != told)
        scores[kind] = {
            "precision": _share(tp, tp + 2 * fp + invented[kind]),
            "recall": _share(tp, tp + 2 * fn + missed[kind]),
            "f1": _share(2 * tp, 2 * tp + 2 * fp + 2 * fn + invented[kind] + missed[kind]),
            "nuclei": float(sum(count for (true, _), count in pairs.items() if true == kind) + missed[kind]),
        }
    return scores


def _share(part: float, whole: float) -> float:
    return part / whole if whole else math.nan
