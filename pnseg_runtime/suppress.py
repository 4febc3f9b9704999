"""Greedy suppression, shared by the NMS of points and the NMS of boxes."""

from __future__ import annotations

import numpy as np
from numpy.typing import ArrayLike, NDArray


def descending(scores: ArrayLike) -> NDArray[np.intp]:
    """Indices of N scores from the highest to the lowest; of equal ones, the lower index first."""
    return np.argsort(-np.asarray(scores, np.float64), kind="stable")


def greedy_suppress(scores: ArrayLike, pairs: NDArray[np.integer]) -> NDArray[np.bool_]:
    """Keep items from the highest score down; a kept item removes its neighbours.

    Memory and time grow with the number of pairs, not with the square of the items.

    Args:
        scores: (N,) float, higher is better; of equal scores the lower index goes first.
        pairs: (M, 2) int, indices of items that exclude each other, in any order.

    Returns:
        (N,) bool, true for the items that stay.
    """
    order = descending(scores)
    keep = np.ones(len(order), np.bool_)
    # Both directions, grouped by the first item: neighbours[starts[i]:starts[i + 1]] are those of i.
    both = np.concatenate([pairs, pairs[:, ::-1]])
    neighbours = both[np.argsort(both[:, 0], kind="stable"), 1]
    degree = np.bincount(both[:, 0], minlength=len(order))
    starts = np.concatenate([[0], np.cumsum(degree)])
    for item in order[degree[order] > 0]:
        if keep[item]:
            keep[neighbours[starts[item] : starts[item + 1]]] = False
    return keep
