"""Point prompts: from the prompter's raw outputs to one point, class and score a nucleus."""

from __future__ import annotations

from dataclasses import dataclass
from math import factorial

import numpy as np
from numpy.typing import NDArray
from scipy.spatial import cKDTree

from pnseg_runtime.suppress import greedy_suppress

Coordinates = NDArray[np.float32]


@dataclass(frozen=True)
class PointPrompts:
    """N point prompts of an image.

    Attributes:
        coords: (N, 2) float32, (x, y) in px, pixel centres at integers.
        classes: (N,) int64, index of the class.
        scores: (N,) float32, probability of that class.
    """

    coords: Coordinates
    classes: NDArray[np.int64]
    scores: NDArray[np.float32]

    def __len__(self) -> int:
        return len(self.coords)

    def select(self, which: NDArray[np.bool_] | NDArray[np.integer]) -> PointPrompts:
        """The points chosen by a mask or by indices."""
        return PointPrompts(self.coords[which], self.classes[which], self.scores[which])

    def shifted(self, origin: tuple[int, int]) -> PointPrompts:
        """The same points in an image in which theirs lies at ``origin`` (x, y)."""
        return PointPrompts(self.coords + np.asarray(origin, np.float32), self.classes, self.scores)

    @staticmethod
    def joined(parts: list[PointPrompts]) -> PointPrompts:
        """All points of one or more parts, in order."""
        return PointPrompts(
            np.concatenate([part.coords for part in parts]),
            np.concatenate([part.classes for part in parts]),
            np.concatenate([part.scores for part in parts]),
        )


def image_anchors(
    values: NDArray[np.float32], padded: tuple[int, int], shape: tuple[int, int], spacing: int
) -> NDArray[np.float32]:
    """What belongs to the anchors that the image has of its own, without those of its padding.

    Args:
        values: (M, D) float, one row an anchor, rows of anchors from the top, each from the left;
            M = (padded height / λ) · (padded width / λ).
        padded: (height, width) that the prompter has seen, multiples of λ, px.
        shape: (height, width) of the image, px.
        spacing: λ, px.

    Returns:
        (ceil(H/λ) · ceil(W/λ), D) float.
    """
    rows, columns = padded[0] // spacing, padded[1] // spacing
    grid = values.reshape(rows, columns, -1)
    own = grid[: -(-shape[0] // spacing), : -(-shape[1] // spacing)]
    return own.reshape(-1, values.shape[-1])


def decode_points(
    points: NDArray[np.float32], class_logits: NDArray[np.float32], shape: tuple[int, int], sensitivity: float = 0.0
) -> PointPrompts:
    """Softmax over the classes; anchors of background go, points are clipped to the image (§3.2).

    Args:
        points: (M, 2) float32, (x, y) of each anchor's point, px.
        class_logits: (M, C + 1) float32, background last.
        shape: (height, width) of the image, px.
        sensitivity: taken from the background's logit. 0 is the method's; the background weight β of
            the training sets the same balance, so that this moves it without training again.
    """
    kept = foreground(points, class_logits, sensitivity)
    points, logits = points[kept], _balanced(class_logits[kept], sensitivity)
    classes = logits.argmax(axis=1)
    largest = logits[np.arange(len(logits)), classes, None].astype(np.float64)
    with np.errstate(invalid="ignore"):  # a score of logits that are no numbers is none, and fails every threshold
        scores = (1 / _sum(_exponential(logits - largest))).astype(np.float32)
    height, width = shape
    return PointPrompts(
        coords=np.clip(points, 0, np.array([width - 1, height - 1], np.float32)).astype(np.float32),
        classes=classes.astype(np.int64),
        scores=scores,
    )


def foreground(
    points: NDArray[np.float32], class_logits: NDArray[np.float32], sensitivity: float = 0.0
) -> NDArray[np.bool_]:
    """The anchors that :func:`decode_points` takes: (M,) bool.

    Args:
        points, class_logits, sensitivity: see there.
    """
    logits = _balanced(class_logits, sensitivity)
    # A point that is no number lies nowhere.
    return (logits.argmax(axis=1) < logits.shape[1] - 1) & np.isfinite(points).all(axis=1)


def _balanced(class_logits: NDArray[np.float32], sensitivity: float) -> NDArray[np.float32]:
    """A copy of the logits whose background is lowered by the sensitivity."""
    logits = class_logits.astype(np.float32)
    logits[:, -1] -= np.float32(sensitivity)
    return logits


#: 1/8!, …, 1/1!, 1: the power series of the exponential, with an error under 3e-10 for |x| ≤ ln 2 / 2.
_SERIES = [1 / factorial(n) for n in range(8, -1, -1)]
_LOG2_E = 1.4426950408889634
#: ln 2 in two parts, of which the first has so few digits that its multiples are exact.
_LN2 = (0.693147180369123816490, 1.90821492927058770002e-10)


def _exponential(values: NDArray[np.float64]) -> NDArray[np.float64]:
    """E to the power of values up to 0, by additions and products alone.

    Libraries' exponentials differ in the last bit between processors; this one gives the same bits on
    all of them, and on a GPU (``pnseg_runtime/cuda/kernels/decode.cu``), so that they find the same points.
    """
    values = np.where(values < -700, -700.0, values)  # nothing, beside the largest one's 1
    twos = np.rint(values * _LOG2_E)
    rest = (values - twos * _LN2[0]) - twos * _LN2[1]
    result = np.full_like(rest, _SERIES[0])
    for coefficient in _SERIES[1:]:
        result = result * rest + coefficient
    return np.ldexp(result, twos.astype(np.int32))


def _sum(values: NDArray[np.float64]) -> NDArray[np.float64]:
    """(M, C) → (M,), from the first to the last: NumPy's own order depends on C."""
    total = values[:, 0]
    for column in values.T[1:]:
        total = total + column
    return total


def filter_by_region(coords: Coordinates, region_logits: NDArray[np.float32]) -> NDArray[np.bool_]:
    """Mask-aided filtering: a point stays where the nuclear region is more likely than not (§3.2).

    Args:
        coords: (N, 2) float32 inside the image, px.
        region_logits: (H, W) float32.

    Returns:
        (N,) bool, true where the logit of the pixel (⌊x⌋, ⌊y⌋) is positive.
    """
    x, y = coords.astype(np.int64).T
    return region_logits[y, x] > 0


def suppress_points(coords: Coordinates, scores: NDArray[np.float32], radius: float) -> NDArray[np.bool_]:
    """Point NMS: a kept point removes every other within ``radius`` px (inclusive), whatever its class.

    Args:
        coords: (N, 2) float32, px.
        scores: (N,) float32.
        radius: px.

    Returns:
        (N,) bool, true for the points that stay.
    """
    pairs = cKDTree(coords).query_pairs(radius, output_type="ndarray")
    return greedy_suppress(scores, pairs)


def nearest_negatives(coords: Coordinates, negatives: int) -> tuple[Coordinates, NDArray[np.float32]]:
    """For every point, itself as the positive prompt and its K nearest others as negative ones (§3.3).

    Args:
        coords: (N, 2) float32, px.
        negatives: K ≥ 0.

    Returns:
        Coordinates (N, 1 + K, 2) float32: the point, then its neighbours from the nearest on (of
        equally near ones the lower index first), and their labels (N, 1 + K) float32: 1 positive,
        0 negative, −1 missing; a missing prompt lies at (0, 0).
    """
    count = len(coords)
    prompts = np.zeros((count, 1 + negatives, 2), np.float32)
    labels = np.full((count, 1 + negatives), -1, np.float32)
    prompts[:, 0], labels[:, 0] = coords, 1
    found = min(negatives, count - 1)
    if found > 0:
        prompts[:, 1 : 1 + found] = coords[_nearest(coords, found)]
        labels[:, 1 : 1 + found] = 0
    return prompts, labels


def _nearest(coords: Coordinates, count: int) -> NDArray[np.intp]:
    """(N, count) indices of the nearest others, for N > count."""
    tree = cKDTree(coords)
    # The tree breaks ties as it likes, so it is asked how far the last neighbour is (the point
    # itself is the first), then for everything up to there, and ties are settled here.
    reach = tree.query(coords, k=[count + 1])[0][:, 0]
    candidates = tree.query_ball_point(coords, np.nextafter(reach, np.inf))
    point = np.repeat(np.arange(len(coords)), [len(found) for found in candidates])
    other = np.concatenate(candidates).astype(np.intp)
    point, other = point[point != other], other[point != other]
    distance = np.linalg.norm(coords[point].astype(np.float64) - coords[other], axis=1)
    order = np.lexsort((other, distance, point))
    first = np.searchsorted(point, np.arange(len(coords)))
    return other[order][first[:, None] + np.arange(count)]
