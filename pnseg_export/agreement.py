"""Do two models find the same nuclei? Points moved, lost and gained, the IoU of masks, PQ of one against the other."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, field
from functools import partial
from typing import Any

import numpy as np
from numpy.typing import NDArray
from scipy.optimize import linear_sum_assignment

from pnseg_runtime.clock import Clock
from pnseg_runtime.metrics import overlaps, panoptic_quality
from pnseg_runtime.nuclei import Nuclei
from pnseg_runtime.prompts import PointPrompts
from pnseg_runtime.segmenter import Segmenter
from pnseg_runtime.softening import Blurs, see

Tile = NDArray[np.uint8]

#: Two points at most this far apart prompt the same nucleus, px; point NMS keeps points twice as far apart.
NEAR = 6.0
#: A point with a higher score may not be lost.
CONFIDENT = 0.6
#: Two nuclei whose masks have a higher IoU are one, as in PQ.
MATCH = 0.5


@dataclass(frozen=True)
class Finding:
    """What one model finds in a tile: the points of its prompter, and its nuclei."""

    points: PointPrompts
    nuclei: Nuclei


@dataclass(frozen=True)
class TileAgreement:
    """A candidate against a reference on one tile.

    Attributes:
        moved: (M,) px, distance of the points that both have.
        lost: (L,) scores of the reference's points that the candidate has not.
        gained: (G,) scores of the candidate's points that the reference has not.
        ious: (K,) IoU of the masks of nuclei that both have.
        pairs: (K, 2) their indices among the reference's and the candidate's nuclei.
        nuclei: how many the candidate has, and how many the reference.
        matched: how many of them are the same to PQ: the IoU of their masks is over 0.5.
        pq: of the candidate's label map against the reference's.
    """

    moved: NDArray[np.float64]
    lost: NDArray[np.float32]
    gained: NDArray[np.float32]
    ious: NDArray[np.float64]
    pairs: NDArray[np.int64]
    nuclei: tuple[int, int]
    matched: int
    pq: float


@dataclass(frozen=True)
class Agreement:
    """A candidate against a reference over all tiles."""

    tiles: list[TileAgreement] = field(default_factory=list)

    def _all(self, name: str) -> NDArray[Any]:
        return np.concatenate([getattr(tile, name) for tile in self.tiles] or [np.zeros(0)])

    @property
    def mean_iou(self) -> float:
        """Mean IoU of the masks of nuclei that both have; 0 where the reference has some and none is shared.

        NaN where it has none.
        """
        ious = self._all("ious")
        if len(ious):
            return float(ious.mean())
        return 0.0 if self.nuclei_reference else float("nan")

    @property
    def nuclei(self) -> int:
        """Nuclei of the candidate."""
        return sum(tile.nuclei[0] for tile in self.tiles)

    @property
    def nuclei_reference(self) -> int:
        """Nuclei of the reference."""
        return sum(tile.nuclei[1] for tile in self.tiles)

    @property
    def pq(self) -> float:
        """PQ of the candidate's label maps against the reference's, over the nuclei of all tiles; NaN without any.

        Each nucleus counts the same, so that one in a tile that is nearly empty weighs no more than others.
        """
        counts = [sum(tile.nuclei) for tile in self.tiles]
        return _share(sum(count * tile.pq for count, tile in zip(counts, self.tiles, strict=True)), sum(counts))

    @property
    def share_lost(self) -> float:
        """Points lost, as a share of the reference's; NaN where it has none."""
        return _share(len(self._all("lost")), self._points_reference)

    @property
    def share_gained(self) -> float:
        """Points gained, as a share of the reference's; NaN where it has none."""
        return _share(len(self._all("gained")), self._points_reference)

    @property
    def share_nuclei_lost(self) -> float:
        """Nuclei of the reference that match none of the candidate's, as a share of them; NaN where there are none."""
        return _share(self.nuclei_reference - self._matched, self.nuclei_reference)

    @property
    def share_nuclei_gained(self) -> float:
        """Nuclei of the candidate that match none of the reference's, as a share of these; NaN where there are none."""
        return _share(self.nuclei - self._matched, self.nuclei_reference)

    @property
    def _points_reference(self) -> int:
        return len(self._all("lost")) + len(self._all("moved"))

    @property
    def _matched(self) -> int:
        return sum(tile.matched for tile in self.tiles)

    @property
    def confident_lost(self) -> int:
        """Points lost whose score is over :data:`CONFIDENT`."""
        return int((self._all("lost") > CONFIDENT).sum())

    def figures(self) -> dict[str, float | None]:
        """Plain numbers for a manifest or a table; None where there is nothing to measure."""
        moved, ious = self._all("moved"), self._all("ious")
        return {
            "tiles": len(self.tiles),
            "nuclei_reference": self.nuclei_reference,
            "nuclei": self.nuclei,
            "nuclei_lost": self.nuclei_reference - self._matched,
            "nuclei_gained": self.nuclei - self._matched,
            "points_lost": len(self._all("lost")),
            "points_lost_confident": self.confident_lost,
            "points_gained": len(self._all("gained")),
            "points_moved_mean_px": _rounded(_over(np.mean, moved)),
            "points_moved_max_px": _rounded(_over(np.max, moved)),
            "mask_iou_mean": _rounded(self.mean_iou),
            "mask_iou_p5": _rounded(_over(partial(np.percentile, q=5), ious)),
            "mask_iou_min": _rounded(_over(np.min, ious)),
            "pq_against_reference": _rounded(self.pq),
        }


def find(segmenter: Segmenter, tile: Tile, enlargement: float = 1.0) -> Finding:
    """Points and nuclei of a tile at the model's resolution, to which it was enlarged so many times."""
    seen = see(tile, Blurs.of(segmenter.settings, enlargement))
    return Finding(segmenter.pipeline.find_points(seen.prompter), segmenter.pipeline.predict(seen, Clock()))


def agreement(reference: Iterable[Finding], candidate: Iterable[Finding]) -> Agreement:
    """The findings of two models on the same tiles, compared."""
    return Agreement([compare(first, second) for first, second in zip(reference, candidate, strict=True)])


def compare(reference: Finding, candidate: Finding) -> TileAgreement:
    """Two findings on one tile."""
    before, after = reference.points, candidate.points
    rows, columns = same_nuclei(reference, candidate)
    nuclei, others = reference.nuclei, candidate.nuclei
    first, second = near_pairs(nuclei.points, others.points)
    maps = nuclei.instance_map(), others.instance_map()
    return TileAgreement(
        moved=np.linalg.norm(before.coords[rows].astype(np.float64) - after.coords[columns], axis=1),
        lost=np.delete(before.scores, rows),
        gained=np.delete(after.scores, columns),
        ious=np.array([mask_iou(nuclei, i, others, j) for i, j in zip(first, second, strict=True)], np.float64),
        pairs=np.stack([first, second], axis=1).astype(np.int64),
        nuclei=(len(others), len(nuclei)),
        matched=int((overlaps(*maps).iou > MATCH).sum()),
        pq=float(panoptic_quality(*maps)["pq"]),
    )


def same_nuclei(reference: Finding, candidate: Finding) -> tuple[NDArray[np.int64], NDArray[np.int64]]:
    """Indices of the points of two findings that prompt the same nucleus.

    Those near each other do; and of the others, those inside the same mask of the reference: where two anchors
    propose one nucleus and score alike, a last bit decides which of them stays.
    """
    before, after = reference.points.coords, candidate.points.coords
    rows, columns = near_pairs(before, after)
    labels = reference.nuclei.instance_map()
    spare = {label: j for j, label in enumerate(_labels_at(labels, after)) if label and j not in columns}
    found = []
    for i, label in enumerate(_labels_at(labels, before)):
        if i not in rows and label in spare:
            found.append((i, spare.pop(label)))
    pairs = np.array(found, np.int64).reshape(-1, 2)
    return np.append(rows, pairs[:, 0]), np.append(columns, pairs[:, 1])


def _labels_at(labels: NDArray[np.int32], coords: NDArray[np.float32]) -> list[int]:
    x, y = np.rint(coords).astype(int).T
    return [int(label) for label in labels[y, x]]


def near_pairs(
    first: NDArray[np.float32], second: NDArray[np.float32], limit: float = NEAR
) -> tuple[NDArray[np.int64], NDArray[np.int64]]:
    """Indices of the points (N, 2) and (M, 2) that belong together: one to one, nearest in all, within ``limit`` px."""
    distance = np.linalg.norm(first[:, None].astype(np.float64) - second[None], axis=2)
    rows, columns = linear_sum_assignment(np.minimum(distance, 2 * limit))
    near = distance[rows, columns] <= limit
    return rows[near], columns[near]


def mask_iou(first: Nuclei, i: int, second: Nuclei, j: int) -> float:
    """IoU of the visible masks of nucleus i of the one and j of the other."""
    boxes = [first.boxes[i].astype(int), second.boxes[j].astype(int)]
    x0, y0 = np.minimum(*(box[:2] for box in boxes))
    x1, y1 = np.maximum(*(box[2:] for box in boxes))
    canvases = []
    for (a0, b0, a1, b1), mask in zip(boxes, (first.masks[i], second.masks[j]), strict=True):
        canvas = np.zeros((y1 - y0, x1 - x0), bool)
        canvas[b0 - y0 : b1 - y0, a0 - x0 : a1 - x0] = mask
        canvases.append(canvas)
    union = int((canvases[0] | canvases[1]).sum())
    return float((canvases[0] & canvases[1]).sum() / union) if union else 1.0


def findings(segmenter: Segmenter, tiles: Sequence[Tile], enlargements: Sequence[float] = ()) -> list[Finding]:
    """Points and nuclei of every tile; without ``enlargements``, of each how many times, none was enlarged."""
    if not enlargements:
        return [find(segmenter, tile) for tile in tiles]
    return [find(segmenter, tile, times) for tile, times in zip(tiles, enlargements, strict=True)]


def shown(value: float | None) -> str:
    """A figure as people read it."""
    if value is None:
        return "–"
    return f"{value:.4f}" if isinstance(value, float) else str(value)


def _share(part: float, whole: int) -> float:
    return part / whole if whole else float("nan")


def _over(statistic: Callable[[NDArray[Any]], Any], values: NDArray[Any]) -> float:
    return float(statistic(values)) if len(values) else float("nan")


def _rounded(value: float) -> float | None:
    return None if math.isnan(value) else round(value, 5)
