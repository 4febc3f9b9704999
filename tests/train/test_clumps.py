"""Copies of nuclei laid against others keep image and labels together."""

import numpy as np
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy import ndimage

from pnseg_train.augment import separate
from pnseg_train.clumps import OVERLAP, add_clumps, cut_out, resting_place, short_axis, whole_nuclei
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


def test_the_short_axis_of_a_bar_is_across_it():
    bar = np.zeros((50, 50), bool)
    bar[5:45, 20:26] = True
    assert abs(np.cos(short_axis(bar))) > 0.99
    assert abs(np.sin(short_axis(bar.T))) > 0.99


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
