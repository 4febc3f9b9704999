import itertools

import pytest
import torch

from pnseg_train.matching import match_points


@pytest.mark.parametrize("seed", range(5))
def test_matching_has_the_lowest_cost_of_all(seed):
    torch.manual_seed(seed)
    points, centroids = 50 * torch.rand(6, 2), 50 * torch.rand(3, 2)
    logits, classes = torch.randn(6, 4), torch.randint(0, 3, (3,))
    cost = 0.1 * torch.cdist(points, centroids) - logits.softmax(-1)[:, classes]
    best = min(sum(float(cost[a, n]) for n, a in enumerate(order)) for order in itertools.permutations(range(6), 3))
    anchors, nuclei = match_points(points, logits, centroids, classes)
    assert float(cost[anchors, nuclei].sum()) == pytest.approx(best, abs=1e-5)
    assert sorted(nuclei.tolist()) == [0, 1, 2]


def test_no_nuclei_match_nothing():
    anchors, nuclei = match_points(torch.rand(4, 2), torch.randn(4, 2), torch.zeros(0, 2), torch.zeros(0).long())
    assert len(anchors) == len(nuclei) == 0
