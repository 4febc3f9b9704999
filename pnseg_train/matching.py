"""Assignment of proposed points to nuclei (paper Eq. 3)."""

from __future__ import annotations

import numpy as np
import torch
from scipy.optimize import linear_sum_assignment
from torch import Tensor

DISTANCE_WEIGHT = 0.1
FARTHEST = 1e9  # what a cost that is not finite counts as


@torch.no_grad()
def match_points(points: Tensor, class_logits: Tensor, centroids: Tensor, classes: Tensor) -> tuple[Tensor, Tensor]:
    """Optimal one-to-one matching of M anchors with N nuclei; cost 0.1·distance − p(class).

    Args:
        points: (M, 2) px.
        class_logits: (M, C + 1).
        centroids: (N, 2) px.
        classes: (N,) int64.

    Returns:
        anchors and nuclei, both (min(M, N),) int64: pair i is (anchors[i], nuclei[i]).
    """
    distance = torch.cdist(points.float(), centroids.float())
    probability = class_logits.float().softmax(-1)[:, classes]
    cost = (DISTANCE_WEIGHT * distance - probability).cpu().numpy()
    # A network that has diverged gives no finite costs. It gets some pairs, so that its loss, which is not finite
    # either, can tell.
    rows, columns = linear_sum_assignment(np.nan_to_num(cost, nan=FARTHEST, posinf=FARTHEST))
    device = points.device
    return torch.as_tensor(rows, device=device), torch.as_tensor(columns, device=device)
