"""How good a segmentation is: PQ, AJI, AJI+, Dice and the detection scores.

Label maps are (H, W) integer arrays, 0 is background, every other value one nucleus; the values need
not be consecutive. All region metrics of a pair come from one table of overlaps.

Where a metric has nothing to count, it is defined: two empty maps agree (every value is 1); if one
of the two is empty, or nothing matches, the value is 0.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import ArrayLike, NDArray
from scipy.optimize import linear_sum_assignment
from scipy.sparse import coo_array
from scipy.sparse.csgraph import connected_components
from scipy.spatial import cKDTree

LabelMap = NDArray[np.integer[Any]]


@dataclass(frozen=True)
class Overlaps:
    """Where the nuclei of two label maps overlap: a sparse table with R entries.

    Attributes:
        truth: (R,) index of a nucleus of the ground truth, 0 to N − 1.
        prediction: (R,) index of a predicted nucleus, 0 to M − 1.
        intersection: (R,) pixels they share, at least 1.
        truth_areas: (N,) pixels.
        prediction_areas: (M,) pixels.
    """

    truth: NDArray[np.int64]
    prediction: NDArray[np.int64]
    intersection: NDArray[np.int64]
    truth_areas: NDArray[np.int64]
    prediction_areas: NDArray[np.int64]

    @property
    def union(self) -> NDArray[np.int64]:
        """(R,) pixels of either."""
        return self.truth_areas[self.truth] + self.prediction_areas[self.prediction] - self.intersection

    @property
    def iou(self) -> NDArray[np.float64]:
        """(R,) intersection over union."""
        return self.intersection / self.union


def overlaps(truth: LabelMap, prediction: LabelMap) -> Overlaps:
    """Count what the nuclei of two label maps share.

    Raises:
        ValueError: the maps are of different shapes.
    """
    truth, prediction = np.asarray(truth), np.asarray(prediction)
    if truth.shape != prediction.shape:
        raise ValueError(f"The label maps must be of one shape, not {truth.shape} and {prediction.shape}.")
    rows, columns = _consecutive(truth), _consecutive(prediction)
    both = (rows > 0) & (columns > 0)
    width = int(columns.max(initial=0)) + 1
    pairs, counts = _count(rows[both] * width + columns[both])
    return Overlaps(
        truth=pairs // width - 1,
        prediction=pairs % width - 1,
        intersection=counts.astype(np.int64),
        truth_areas=np.bincount(rows)[1:].astype(np.int64),
        prediction_areas=np.bincount(columns)[1:].astype(np.int64),
    )


def _consecutive(labels: LabelMap) -> NDArray[np.int64]:
    """The pixels' labels as 1 to N in the order of their values, background 0, in one row."""
    flat = labels.ravel()
    if flat.min(initial=0) < 0:
        raise ValueError("A label map must not have negative labels.")
    if _countable(flat):
        used = np.bincount(flat.astype(np.int64), minlength=1) > 0
        used[0] = False
        numbers = np.where(used, np.cumsum(used), 0)
        return numbers[flat].astype(np.int64)
    # With a background pixel in front, background is the first of the values.
    return np.unique(np.concatenate([[0], flat]), return_inverse=True)[1][1:].astype(np.int64)


def _countable(values: LabelMap) -> bool:
    """Whether a table with a place for every value up to the greatest costs less than sorting them."""
    return bool(values.max(initial=0) <= 65536 + 8 * len(values))


def _count(values: NDArray[np.int64]) -> tuple[NDArray[np.int64], NDArray[np.int64]]:
    """The different values, ascending, and how often each occurs; without sorting where they are small."""
    if not _countable(values):
        return np.unique(values, return_counts=True)
    counts = np.bincount(values)
    different = np.flatnonzero(counts)
    return different, counts[different]


def panoptic_quality(truth: LabelMap, prediction: LabelMap) -> dict[str, float]:
    """Panoptic quality ``pq``, and its factors, detection quality ``dq`` and segmentation quality ``sq``.

    Nuclei match where their IoU is over 0.5, which makes matches unique. DQ = TP / (TP + FP/2 + FN/2),
    SQ = mean IoU of the matches, PQ = DQ · SQ.
    """
    return _panoptic_quality(overlaps(truth, prediction))


def aggregated_jaccard(truth: LabelMap, prediction: LabelMap) -> float:
    """Aggregated Jaccard index (AJI): every nucleus takes the prediction of highest IoU, taken ones included.

    Sum of the intersections / (sum of the unions + areas of the predictions never taken). A nucleus
    that nothing overlaps adds its area to the unions.
    """
    return _aggregated_jaccard(overlaps(truth, prediction))


def aggregated_jaccard_plus(truth: LabelMap, prediction: LabelMap) -> float:
    """AJI+: as :func:`aggregated_jaccard`, but one to one with the highest total IoU."""
    return _aggregated_jaccard_plus(overlaps(truth, prediction))


def dice(truth: LabelMap, prediction: LabelMap) -> float:
    """Dice coefficient of the foregrounds."""
    return _dice(overlaps(truth, prediction))


def ensemble_dice(truth: LabelMap, prediction: LabelMap) -> float:
    """Ensemble Dice: 2 · Σ intersections / Σ (both areas), over all pairs of nuclei that overlap."""
    return _ensemble_dice(overlaps(truth, prediction))


def evaluate_pair(truth: LabelMap, prediction: LabelMap) -> dict[str, float]:
    """All of them: ``pq``, ``dq``, ``sq``, ``aji``, ``aji_plus``, ``dice``, ``dice2`` (ensemble Dice)."""
    return evaluate_overlaps(overlaps(truth, prediction))


def evaluate_overlaps(table: Overlaps) -> dict[str, float]:
    """As :func:`evaluate_pair`, from the table."""
    single = {name: metric(table) for name, metric in _SINGLE.items()}
    return _panoptic_quality(table) | single


def panoptic_quality_of_classes(
    table: Overlaps, truth: NDArray[np.integer[Any]], prediction: NDArray[np.integer[Any]]
) -> dict[int, float]:
    """PQ of every class that the ground truth has: only nuclei of one class can match.

    Args:
        table: the overlaps of all nuclei.
        truth: (N,) class of each nucleus.
        prediction: (M,) class of each predicted nucleus.
    """
    agree = (truth[table.truth] == prediction[table.prediction]) & (table.iou > 0.5)
    matched, iou = truth[table.truth[agree]], table.iou[agree]
    return {
        int(kind): float(2 * iou[matched == kind].sum() / ((truth == kind).sum() + (prediction == kind).sum()))
        for kind in np.unique(truth)
    }


def _panoptic_quality(table: Overlaps) -> dict[str, float]:
    matched = table.iou[table.iou > 0.5]
    # TP + FP/2 + FN/2 is half of all nuclei, since a match is one of each.
    nuclei = len(table.truth_areas) + len(table.prediction_areas)
    if not nuclei:
        return {"pq": 1.0, "dq": 1.0, "sq": 1.0}
    dq = 2 * len(matched) / nuclei
    sq = float(matched.mean()) if len(matched) else 0.0
    return {"pq": dq * sq, "dq": dq, "sq": sq}


def _aggregated_jaccard(table: Overlaps) -> float:
    # By nucleus, then by descending IoU, then by index: its best prediction stands first.
    order = np.lexsort((table.prediction, -table.iou, table.truth))
    _, first = np.unique(table.truth[order], return_index=True)
    return _jaccard_of(table, order[first])


def _aggregated_jaccard_plus(table: Overlaps) -> float:
    return _jaccard_of(table, _assign(table.truth, table.prediction, table.iou))


def _jaccard_of(table: Overlaps, chosen: NDArray[np.intp]) -> float:
    """Aggregated Jaccard index of the chosen entries of the table."""
    alone_truth = np.delete(table.truth_areas, table.truth[chosen]).sum()
    alone_prediction = np.delete(table.prediction_areas, table.prediction[chosen]).sum()
    return _ratio(
        float(table.intersection[chosen].sum()),
        float(table.union[chosen].sum() + alone_truth + alone_prediction),
    )


def _assign(rows: NDArray[np.int64], columns: NDArray[np.int64], gains: NDArray[np.float64]) -> NDArray[np.intp]:
    """Pair rows with columns one to one along R possible pairs, so that the total gain is highest.

    Rows and columns that are linked, directly or through others, form small groups; each is solved by
    itself, so that no matrix of all rows and columns is needed.

    Args:
        rows: (R,) row of each possible pair.
        columns: (R,) its column.
        gains: (R,) what it is worth, positive.

    Returns:
        Indices of the chosen pairs.
    """
    if not len(rows):
        return np.empty(0, np.intp)
    width = int(rows.max()) + 1
    size = width + int(columns.max()) + 1
    links = coo_array((np.ones(len(rows)), (rows, columns + width)), shape=(size, size))
    group = connected_components(links, directed=False)[1][rows]
    order = np.argsort(group, kind="stable")
    bounds = np.flatnonzero(np.diff(group[order])) + 1
    return np.concatenate([_assign_group(part, rows, columns, gains) for part in np.split(order, bounds)])


def _assign_group(
    part: NDArray[np.intp], rows: NDArray[np.int64], columns: NDArray[np.int64], gains: NDArray[np.float64]
) -> NDArray[np.intp]:
    """The best pairing within one group of pairs."""
    own_rows, row = np.unique(rows[part], return_inverse=True)
    own_columns, column = np.unique(columns[part], return_inverse=True)
    pair_at = np.full((len(own_rows), len(own_columns)), -1, np.intp)
    pair_at[row, column] = part
    gain = np.zeros(pair_at.shape)
    gain[row, column] = gains[part]
    chosen = pair_at[linear_sum_assignment(gain, maximize=True)]
    return chosen[chosen >= 0]


def _dice(table: Overlaps) -> float:
    areas = table.truth_areas.sum() + table.prediction_areas.sum()
    return _ratio(2.0 * float(table.intersection.sum()), float(areas))


def _ensemble_dice(table: Overlaps) -> float:
    if not len(table.intersection):  # nothing overlaps: right only if there is nothing
        return _dice(table)
    areas = table.truth_areas[table.truth] + table.prediction_areas[table.prediction]
    return _ratio(2.0 * float(table.intersection.sum()), float(areas.sum()))


def _ratio(part: float, whole: float) -> float:
    """Their ratio, 1 for nothing of nothing."""
    return part / whole if whole else 1.0


_SINGLE: dict[str, Callable[[Overlaps], float]] = {
    "aji": _aggregated_jaccard,
    "aji_plus": _aggregated_jaccard_plus,
    "dice": _dice,
    "dice2": _ensemble_dice,
}


@dataclass(frozen=True)
class PointMatches:
    """Which predicted points found which nuclei, one to one.

    Attributes:
        pairs: (TP, 2) int, index of the true point and of the predicted one.
        truths: N.
        predictions: M.
    """

    pairs: NDArray[np.int64]
    truths: int
    predictions: int

    @property
    def precision(self) -> float:
        """Share of the predictions that found a nucleus."""
        return len(self.pairs) / self.predictions if self.predictions else float(not self.truths)

    @property
    def recall(self) -> float:
        """Share of the nuclei that were found."""
        return len(self.pairs) / self.truths if self.truths else float(not self.predictions)

    @property
    def f1(self) -> float:
        """2 TP / (N + M)."""
        return _ratio(2.0 * len(self.pairs), self.truths + self.predictions)


def match_points(truth: ArrayLike, prediction: ArrayLike, radius: float = 12.0) -> PointMatches:
    """Match predicted points with nuclei within a distance (Table 2: 12 px at 40×, about 3 µm).

    As many as possible are matched, one to one, and among those matchings one of least total distance.

    Args:
        truth: (N, 2), centres of the nuclei, px.
        prediction: (M, 2), predicted points, px.
        radius: px, inclusive.
    """
    nuclei, points = (np.asarray(given, np.float64).reshape(-1, 2) for given in (truth, prediction))
    if not len(nuclei) or not len(points):
        return PointMatches(np.empty((0, 2), np.int64), len(nuclei), len(points))
    found = cKDTree(points).query_ball_point(nuclei, radius)
    first = np.repeat(np.arange(len(nuclei)), [len(near) for near in found])
    second = np.concatenate(found).astype(np.int64)
    distance = np.linalg.norm(nuclei[first] - points[second], axis=1)
    # One more match is worth more than all the distance that it can add.
    chosen = _assign(first, second, (radius + 1) * (min(len(nuclei), len(points)) + 1) - distance)
    return PointMatches(np.stack([first[chosen], second[chosen]], axis=1), len(nuclei), len(points))
