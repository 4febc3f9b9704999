"""Points on which six views of an image agree.

The method's test-time augmentation is of masks alone. This one is of points: the prompter sees the image flipped and
turned as well, and what it thinks of a nucleus is averaged. On tissue that it was not trained on it finds more so, and
depends less on how an image was compressed (``docs/nano_training.md``).
"""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray
from scipy.spatial import cKDTree

from pnseg_runtime.prompts import PointPrompts, decode_points, foreground

#: How far below the threshold a view's judgement of a nucleus still counts, in log odds. A view that sees none counts
#: as that.
SLACK = 1.0
#: Points of two views that lie at most this share of the point NMS's radius apart are of one nucleus.
NEARNESS = 2 / 3


def judged_points(
    points: NDArray[np.float32], class_logits: NDArray[np.float32], shape: tuple[int, int], sensitivity: float
) -> PointPrompts:
    """Points as :func:`~pnseg_runtime.prompts.decode_points` has them, with the doubtful ones and another score.

    Args:
        points, class_logits, shape, sensitivity: see there.

    Returns:
        The points at a sensitivity that is higher by :data:`SLACK`, whose score is how far the class is above the
        background, in log odds at the sensitivity asked for.
    """
    judged = class_logits[:, :-1].max(axis=1) - class_logits[:, -1] + np.float32(sensitivity)
    # The judgement, rounded as it is, may fall on the other side of −SLACK than what decides; one that is no number is
    # none.
    seen = foreground(points, class_logits, sensitivity + SLACK) & ~np.isnan(judged)
    found = decode_points(points[seen], class_logits[seen], shape, sensitivity + SLACK)
    return PointPrompts(found.coords, found.classes, judged[seen].astype(np.float32))


def agreed_points(views: list[PointPrompts], radius: float) -> PointPrompts:
    """Where the views' mean judgement is for a nucleus.

    Args:
        views: of each the :func:`judged_points` after its point NMS, all in px of the image.
        radius: points of two views at most this far apart are of one nucleus, px.

    Returns:
        Every view's idea of every such nucleus, so several of each: the mean place, the class that has most of the
        views, and the probability that the mean judgement stands for.
    """
    ideas = PointPrompts.joined(views)
    count = len(ideas)
    judgement, heard = np.full((len(views), count), -SLACK), np.zeros((len(views), count), bool)
    places = np.zeros((len(views), count, 2))
    votes = np.zeros((count, int(ideas.classes.max(initial=0)) + 1))
    for index, view in enumerate(views):
        if not count or not len(view):
            continue
        distance, nearest = cKDTree(view.coords).query(ideas.coords)
        own = distance <= radius
        heard[index] = own
        judgement[index, own] = view.scores[nearest[own]]
        places[index, own] = view.coords[nearest[own]]
        votes[np.flatnonzero(own), view.classes[nearest[own]]] += 1
    mean = judgement.mean(axis=0)
    kept = mean > 0
    middle = (places.sum(axis=0) / np.maximum(heard.sum(axis=0), 1)[:, None])[kept]
    return PointPrompts(
        middle.astype(np.float32), votes[kept].argmax(axis=1), (1 / (1 + np.exp(-mean[kept]))).astype(np.float32)
    )
