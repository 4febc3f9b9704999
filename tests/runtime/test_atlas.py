import cv2
import numpy as np
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra.numpy import arrays

from pnseg_runtime.atlas import Atlas

several = st.lists(arrays(np.bool_, st.tuples(st.integers(0, 9), st.integers(0, 9))), max_size=12)


@settings(deadline=None)
@given(several)
def test_every_mask_lies_whole_in_its_place(masks):
    atlas = Atlas.of(masks)
    assert (atlas.labels > 0).sum() == sum(mask.sum() for mask in masks)
    for label, (mask, (x, y)) in enumerate(zip(masks, atlas.origins, strict=True), start=1):
        np.testing.assert_array_equal(atlas.labels[y : y + mask.shape[0], x : x + mask.shape[1]] == label, mask)


@settings(deadline=None)
@given(several)
def test_no_mask_touches_another_or_the_border(masks):
    labels = Atlas.of(masks).labels
    grown = cv2.dilate(labels.astype(np.float32), np.ones((3, 3), np.uint8))
    assert (grown[labels > 0] == labels[labels > 0]).all()
    assert not labels[[0, -1]].any()
    assert not labels[:, [0, -1]].any()


def test_the_memory_is_that_of_the_boxes():
    masks = [np.ones((size, 40 - size), bool) for size in range(5, 35)] * 40
    assert Atlas.of(masks).labels.size < 1.4 * sum(mask.size for mask in masks)


def test_borders_are_told_with_their_mask():
    ring = np.ones((5, 5), bool)
    ring[2, 2] = False
    owner, contours = Atlas.of([np.ones((2, 2), bool), ring]).borders(cv2.RETR_CCOMP, cv2.CHAIN_APPROX_NONE)
    assert sorted(owner.tolist()) == [0, 1, 1]
    assert len(contours) == 3
