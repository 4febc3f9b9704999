"""Copies of nuclei laid against others keep image and labels together."""

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy import ndimage

from pnseg_train import clumps
from pnseg_train.augment import separate
from pnseg_train.clumps import OVERLAP, _lay, add_clumps, cut_out, resting_place, short_axis, turned, whole_nuclei
from pnseg_train.crops import Crops
from pnseg_train.datasets import Sample
from pnseg_train.recipes import Augment

BACKGROUND = 240


def discs(count: int = 6, side: int = 128) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Discs of their own grey on a light ground; every second one of class 2."""
    rng = np.random.default_rng(count)
    labels = np.zeros((side, side), np.int32)
    ys, xs = np.mgrid[:side, :side]
    for _ in range(count):
        y, x = rng.integers(15, side - 15, 2)
        labels[(ys - y) ** 2 + (xs - x) ** 2 < rng.integers(5, 10) ** 2] = labels.max() + 1
    labels = separate(torch.from_numpy(labels)).numpy()
    image = np.where(labels > 0, 10 * labels, BACKGROUND).astype(np.uint8)
    return np.repeat(image[..., None], 3, axis=2), labels, np.where(labels > 0, 1 + labels % 2, 0).astype(np.int32)


@settings(max_examples=15, deadline=None)
@given(st.integers(0, 2**31), st.integers(1, 9))
def test_every_pixel_of_a_copy_looks_like_the_nucleus_it_was_copied_from(seed, count):
    image, labels, classes = discs(count)
    torch.manual_seed(seed)
    clumped, ids, kinds = add_clumps(image, labels, classes)
    greys = {10 * int(label): int(label) % 2 + 1 for label in np.unique(labels)[1:]}
    for new in np.setdiff1d(np.unique(ids), np.unique(labels)):
        mask = ids == new
        inside = ndimage.binary_erosion(mask, iterations=3)  # its rim is mixed with what lies around it
        for grey in np.unique(clumped[inside][:, 0]).tolist():
            nearest = min(greys, key=lambda known: abs(known - grey))
            assert abs(nearest - grey) <= 1
            assert (kinds[mask] == greys[nearest]).all()


@settings(max_examples=15, deadline=None)
@given(st.integers(0, 2**31))
def test_far_from_copies_nothing_changes(seed):
    image, labels, classes = discs()
    torch.manual_seed(seed)
    clumped, ids, kinds = add_clumps(image, labels, classes)
    near = np.zeros(labels.shape, bool)
    for y, x in np.argwhere(ids != labels):
        near[max(y - 4, 0) : y + 5, max(x - 4, 0) : x + 5] = True
    assert (clumped == image)[~near].all()
    assert (kinds == classes)[~near].all()


def test_the_given_arrays_are_left_alone():
    given_ = discs()
    before = [array.copy() for array in given_]
    torch.manual_seed(0)
    changed = add_clumps(*given_)
    assert all((a == b).all() for a, b in zip(given_, before, strict=True))
    assert (changed[1] != given_[1]).any()


def test_nuclei_at_the_border_and_small_ones_are_not_copied():
    labels = np.zeros((40, 40), np.int32)
    labels[0:9, 10:20] = 1
    labels[20:24, 20:24] = 2
    labels[28:36, 4:12] = 3
    assert whole_nuclei(labels).tolist() == [3]
    labels[labels == 3] = 0
    image = np.zeros((40, 40, 3), np.uint8)
    assert add_clumps(image, labels, labels)[1] is labels


@settings(max_examples=60, deadline=None)
@given(st.floats(0, 6.28), st.floats(0, OVERLAP))
def test_a_copy_rests_where_it_overlaps_no_more_than_allowed_and_touches(angle, overlap):
    _, labels, _ = discs()
    host = labels == whole_nuclei(labels)[0]
    _, mask = cut_out(np.zeros((*labels.shape, 3), np.uint8), host)
    corner = resting_place(labels > 0, host, mask, angle, overlap)
    if corner is None:
        return
    height, width = mask.shape
    placed = np.zeros(np.array(labels.shape) + 2 * np.array(mask.shape), bool)
    placed[corner[0] + height : corner[0] + 2 * height, corner[1] + width : corner[1] + 2 * width] = mask
    placed = placed[height:-height, width:-width]
    assert (placed & (labels > 0)).sum() <= overlap * mask.sum()
    grown = np.zeros_like(placed)
    for y, x in np.argwhere(placed):
        grown[max(y - 3, 0) : y + 4, max(x - 3, 0) : x + 4] = True
    assert (grown & (labels > 0)).any()


def test_a_copy_that_would_lie_mostly_beyond_the_crop_has_no_place():
    host = np.zeros((40, 40), bool)
    host[10:22, 2:14] = True
    mask = np.ones((12, 12), bool)
    assert resting_place(host, host, mask, np.pi, 0.0) is None
    assert resting_place(host, host, mask, 0.0, 0.0) is not None


def test_copies_find_their_places_among_earlier_copies_too(monkeypatch):
    occupied = []

    def noted(taken, *rest):
        occupied.append(int(taken.sum()))
        return resting_place(taken, *rest)

    monkeypatch.setattr(clumps, "resting_place", noted)
    torch.manual_seed(0)
    image, labels, classes = discs(9, side=200)
    add_clumps(image, labels, classes)
    assert occupied[0] == (labels > 0).sum() < max(occupied)


@pytest.mark.parametrize("degrees", [0, 90, 180, 37])
def test_a_nucleus_is_turned_whole_with_its_pixels(degrees):
    image, mask = np.full((6, 24, 3), BACKGROUND, np.uint8), np.zeros((6, 24), bool)
    mask[1:5, 2:22] = True
    image[mask] = 9
    copy, inside = turned(image, mask, degrees)
    assert inside.sum() == pytest.approx(mask.sum(), rel=0.1)
    assert (copy[ndimage.binary_erosion(inside)] == 9).all()
    rows, columns = np.nonzero(inside)
    assert abs(rows.mean() - (len(inside) - 1) / 2) < 0.6
    assert abs(columns.mean() - (len(inside) - 1) / 2) < 0.6


@pytest.mark.parametrize("over", [False, True])
def test_a_copy_lies_over_or_under_what_is_there_and_leaves_equal_colours_alone(over):
    image = np.random.default_rng(0).integers(50, 250, (20, 30, 3), np.uint8)
    labels, classes = np.zeros((20, 30), np.int32), np.zeros((20, 30), np.int32)
    labels[5:15, 5:15] = classes[5:15, 5:15] = 1
    before, mask = image.copy(), np.ones((10, 10), bool)
    _lay(image, labels, classes, image[5:15, 12:22].copy(), mask, (5, 12), 2, 3, over)
    assert np.unique(labels[5:15, 12:15]).tolist() == [1 + over]
    assert np.unique(classes[5:15, 12:15]).tolist() == [3 if over else 1]
    assert (labels[5:15, 15:22] == 2).all()
    assert (image == before).all()
    _lay(image, labels, classes, np.zeros((10, 10, 3), np.uint8), mask, (5, 20), 4, 3, over)
    assert (image[labels == 1] == before[labels == 1]).all()
    assert (image[5:15, 20:22] != before[5:15, 20:22]).any() == over
    assert (image[7:13, 24:28] == 0).all()


def test_the_short_axis_of_a_bar_is_across_it():
    bar = np.zeros((50, 50), bool)
    bar[5:45, 20:26] = True
    assert abs(np.cos(short_axis(bar))) > 0.99
    assert abs(np.sin(short_axis(bar.T))) > 0.99


def test_nuclei_that_copies_hide_or_cut_in_two_are_numbered_anew(monkeypatch):
    def cut(image, labels, classes):
        labels = np.zeros_like(labels)
        labels[10:20, 10:20] = labels[10:20, 40:50] = 5
        return image, labels, classes

    monkeypatch.setattr("pnseg_train.crops.add_clumps", cut)
    image, labels, classes = discs(9, side=200)
    crops = Crops([Sample("discs", image, labels, classes.astype(np.uint8))], Augment(crop=128, clumps=1.0), 0, 1)
    assert crops[0].instances.unique().tolist() == [0, 1, 2]


def test_crops_with_clumps_have_consecutive_nuclei_and_are_the_same_every_time():
    image, labels, classes = discs(9, side=200)
    sample = Sample("discs", image, labels, classes.astype(np.uint8))
    crops = Crops([sample], Augment(crop=128, colour=0.0, clumps=1.0), seed=4, length=20)
    plain = Crops([sample], Augment(crop=128, colour=0.0), seed=4, length=20)
    more = 0
    for index in range(20):
        first, second = crops[index], crops[index]
        assert all(torch.equal(a, b) for a, b in zip(first, second, strict=True))
        found = torch.unique(first.instances)
        assert torch.equal(found, torch.arange(len(found)))
        assert ((first.instances > 0) <= (first.classes > 0)).all()
        more += int(first.instances.max()) - int(plain[index].instances.max())
    assert more > 20
