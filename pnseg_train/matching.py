"""Assignment of proposed points to nuclei (paper Eq. 3)."""

from __future__ import annotations

import torch
from scipy.optimize import linear_sum_assignment
from torch import Tensor

DISTANCE_WEIGHT = 0.1


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
    rows, columns = linear_sum_assignment(cost)
    device = points.device
    return torch.as_tensor(rows, device=device), torch.as_tensor(columns, device=device)
