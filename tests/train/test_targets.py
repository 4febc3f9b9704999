import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from pnseg_train.models.segmentor import Prompts
from pnseg_train.targets import (
    centroids,
    contacts,
    label_centroids,
    mask_targets,
    pixels_by_nucleus,
    random_points,
    random_prompts,
    vote_targets,
)


def label_map() -> torch.Tensor:
    instances = torch.zeros(32, 48, dtype=torch.int64)
    instances[2:6, 3:9] = 1
    instances[20:30, 40:47] = 2
    instances[10:12, 20:22] = 3
    return instances


def test_centroids_are_mean_pixel_coordinates():
    expected = torch.tensor([[5.5, 3.5], [43.0, 24.5], [20.5, 10.5]])
    assert torch.equal(centroids(pixels_by_nucleus(label_map())), expected)


def test_the_centroid_of_an_instance_of_millions_of_pixels_is_exact():
    labels = np.ones((2000, 2500), np.int32)
    assert label_centroids(labels).tolist() == [[1249.5, 999.5]]
    assert label_centroids(labels).dtype == np.float32


@given(st.integers(0, 2**31))
def test_random_points_lie_inside_their_nuclei(seed):
    torch.manual_seed(seed)
    instances = label_map()
    for averaged in (1, 6):  # these nuclei are convex, so a mean of pixels stays inside, too
        x, y = random_points(pixels_by_nucleus(instances), averaged).long().T
        assert instances[y, x].tolist() == [1, 2, 3]
        drawn = random_points(pixels_by_nucleus(instances), averaged)
        assert torch.equal(drawn, drawn.round())


@given(st.integers(0, 2**31), st.integers(0, 3), st.integers(1, 4))
def test_prompts_name_their_nucleus_and_the_nearest_others(seed, negatives, limit):
    torch.manual_seed(seed)
    instances = label_map()
    prompts, chosen = random_prompts(pixels_by_nucleus(instances), 5, limit, negatives, drop=0.0, central=0.0)
    assert len(chosen) == min(limit, 3) == len(set(chosen.tolist()))
    assert (prompts.image_index == 5).all()
    x, y = prompts.coords[:, 0].long().T
    assert torch.equal(instances[y, x], chosen + 1)
    given_negatives = min(negatives, 2)
    assert (prompts.labels[:, 1 : 1 + given_negatives] == 0).all()
    assert (prompts.labels[:, 1 + given_negatives :] == -1).all()
    for row, nucleus in zip(prompts.coords[:, 1 : 1 + given_negatives].long(), chosen, strict=True):
        others = [int(instances[y, x]) - 1 for x, y in row.tolist()]
        assert int(nucleus) not in others
        assert len(set(others)) == len(others)
        assert -1 not in others


@given(st.integers(0, 2**31), st.integers(1, 2))
def test_negatives_are_the_nearest_points_of_the_other_nuclei(seed, negatives):
    torch.manual_seed(seed)
    prompts, _ = random_prompts(pixels_by_nucleus(label_map()), 0, 3, negatives, drop=0.0, central=0.5)
    points = prompts.coords[:, 0]
    apart = torch.cdist(points, points).fill_diagonal_(torch.inf)
    given_, _ = (prompts.coords[:, 1:] - points[:, None]).norm(dim=2).sort(dim=1)
    assert torch.allclose(given_, apart.sort(dim=1).values[:, :negatives])


@pytest.mark.parametrize(("central", "least", "most"), [(0.0, 5.2, 6.4), (1.0, 1.8, 3.0)])
def test_central_points_lie_closer_about_the_middle_of_their_nuclei(central, least, most):
    torch.manual_seed(0)
    instances = torch.arange(1, 101).reshape(10, 10).repeat_interleave(20, 0).repeat_interleave(20, 1)
    pixels = pixels_by_nucleus(instances)
    prompts, chosen = random_prompts(pixels, 0, 100, 0, drop=0.0, central=central)
    assert least < float((prompts.coords[:, 0] - centroids(pixels)[chosen]).std()) < most


def test_a_nucleus_without_any_background_has_its_centroid():
    assert label_centroids(np.full((4, 6), 7, np.int32)).tolist() == [[2.5, 1.5]]


def test_dropped_negatives_are_missing_points():
    prompts, _ = random_prompts(pixels_by_nucleus(label_map()), 0, 3, 1, drop=1.0, central=0.5)
    assert (prompts.labels[:, 1] == -1).all()
    assert (prompts.coords[:, 1] == 0).all()


def test_a_crop_without_nuclei_gives_no_prompts():
    prompts, chosen = random_prompts(pixels_by_nucleus(torch.zeros(8, 8).long()), 0, 4, 1, 0.5, 0.5)
    assert len(chosen) == len(prompts.coords) == 0


def test_votes_point_to_the_centroid_of_the_own_nucleus():
    instances = label_map()[None]
    targets = vote_targets(instances, [centroids(pixels_by_nucleus(instances[0]))])
    assert targets.centroid.shape == (1, 2, 16, 24)
    assert targets.centroid[0, :, 2, 2].tolist() == [5.5, 3.5]
    assert targets.owned[0, 2, 2] == 1
    assert targets.owned[0, 0, 0] == 0
    assert targets.inside.mean() * 32 * 48 == (instances > 0).sum()


def test_a_mask_target_is_the_share_of_each_cell_that_is_the_prompts_nucleus():
    instances = torch.zeros(2, 8, 8, dtype=torch.int64)
    instances[1, 0:3, 0:4] = 2
    instances[1, 0:3, 4:8] = 1
    prompts = Prompts(torch.zeros(1, 1, 2), torch.ones(1, 1), torch.tensor([1]))
    whole = mask_targets(instances, prompts, torch.tensor([2]), 8)
    assert torch.equal(whole[0], (instances[1] == 2).float())
    half = mask_targets(instances, prompts, torch.tensor([2]), 4)
    assert half[0].tolist() == [[1, 1, 0, 0], [0.5, 0.5, 0, 0], [0, 0, 0, 0], [0, 0, 0, 0]]


def test_contacts_are_where_two_nuclei_come_near_and_not_at_free_borders():
    instances = torch.zeros(1, 20, 40, dtype=torch.int64)
    instances[0, 5:15, 2:12] = 4
    instances[0, 5:15, 14:24] = 1  # a gap of two px
    instances[0, 5:15, 34:38] = 2  # far from both
    touching = contacts(instances, reach=3)[0]
    assert touching[10, 11:15].all()
    assert not touching[:, 20:].any()
    assert not touching[:, :8].any()


@given(st.integers(0, 2**31))
def test_contacts_do_not_depend_on_the_order_of_ids(seed):
    generator = torch.Generator().manual_seed(seed)
    instances = torch.randint(0, 5, (1, 6, 6), generator=generator).repeat_interleave(4, 1).repeat_interleave(4, 2)
    renamed = torch.tensor([0, 3, 1, 4, 2])[instances]
    assert torch.equal(contacts(instances), contacts(renamed))
