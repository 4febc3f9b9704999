import tracemalloc

import cv2
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra.numpy import arrays

from pnseg_runtime import contours
from pnseg_runtime.contours import outline, outlines
from tests import golden

masks = arrays(np.bool_, st.tuples(st.integers(1, 10), st.integers(1, 10)))


def shoelace(ring):
    x, y = ring[:-1].astype(np.float64).T
    return (np.dot(x, np.roll(y, -1)) - np.dot(y, np.roll(x, -1))) / 2


def rasterised(polygons, shape):
    """Pixels whose centre is inside: crossed by an odd number of vertical sides to the left."""
    inside = np.zeros(shape, bool)
    for rings in polygons:
        for ring in rings:
            for (x, y), (x_next, y_next) in zip(ring[:-1].astype(int), ring[1:].astype(int), strict=True):
                if x == x_next:
                    inside[min(y, y_next) : max(y, y_next), x:] ^= True
    return inside


def test_a_pixel_is_a_unit_square_in_image_coordinates():
    ((ring,),) = outline(np.ones((1, 1), bool), offset=(5, 7))
    assert {tuple(corner) for corner in ring.tolist()} == {(5, 7), (6, 7), (6, 8), (5, 8)}
    assert ring.shape == (5, 2)
    assert ring.dtype == np.float32
    assert (ring[0] == ring[-1]).all()


def test_a_straight_side_has_no_vertices_between_its_ends():
    ((ring,),) = outline(np.ones((30, 20), bool))
    assert len(ring) == 5


def test_a_hole_of_one_pixel_is_a_square_ring_after_the_outer_one():
    mask = np.ones((3, 3), bool)
    mask[1, 1] = False
    ((outer, hole),) = outline(mask)
    assert shoelace(outer) == 9
    assert shoelace(hole) == -1
    assert {tuple(corner) for corner in hole.tolist()} == {(1, 1), (2, 1), (2, 2), (1, 2)}


def test_pixels_that_share_only_a_corner_are_two_polygons():
    assert len(outline(np.eye(2, dtype=bool))) == 2


def test_an_island_in_a_hole_is_a_polygon_of_its_own():
    mask = np.ones((7, 7), bool)
    mask[1:6, 1:6] = False
    mask[3, 3] = True
    assert sorted(len(rings) for rings in outline(mask)) == [1, 2]


def test_an_empty_mask_has_no_outline():
    assert outline(np.zeros((3, 4), bool)) == []


@given(masks)
def test_the_area_of_the_outline_is_the_number_of_pixels(mask):
    assert sum(shoelace(ring) for rings in outline(mask) for ring in rings) == mask.sum()


@given(masks, st.integers(0, 20), st.integers(0, 20))
def test_the_outline_rasterised_is_the_mask(mask, x, y):
    placed = np.zeros((mask.shape[0] + y, mask.shape[1] + x), bool)
    placed[y:, x:] = mask
    np.testing.assert_array_equal(rasterised(outline(mask, offset=(x, y)), placed.shape), placed)


@given(masks)
def test_rings_are_closed_turn_at_every_vertex_and_never_touch_themselves(mask):
    for rings in outline(mask):
        for ring in rings:
            assert (ring[0] == ring[-1]).all()
            assert len(np.unique(ring[:-1], axis=0)) == len(ring) - 1
            horizontal = np.diff(ring, axis=0)[:, 0] != 0
            assert (horizontal != np.roll(horizontal, 1)).all()


@given(masks)
def test_outer_rings_and_holes_wind_in_opposite_ways_and_parts_are_4_connected(mask):
    polygons = outline(mask)
    assert len(polygons) == cv2.connectedComponents(mask.astype(np.uint8), connectivity=4)[0] - 1
    for outer, *holes in polygons:
        assert shoelace(outer) > 0
        assert all(shoelace(hole) < 0 for hole in holes)


def test_outlines_of_real_nuclei_enclose_their_pixels():
    labels = golden.arrays("metrics")["gt_5"]
    for label in np.unique(labels)[1:]:
        mask = labels == label
        np.testing.assert_array_equal(rasterised(outline(mask), mask.shape), mask)


@settings(deadline=None)
@given(st.lists(masks, max_size=6), st.integers(0, 2**32 - 1), st.sampled_from([1, 50, contours.AT_ONCE]))
def test_masks_traced_together_have_the_outlines_they_have_alone(several, seed, at_once):
    offsets = np.random.default_rng(seed).integers(0, 40, (len(several), 2))
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(contours, "AT_ONCE", at_once)
        together = outlines(several, offsets)
    for mask, offset, polygons in zip(several, offsets.tolist(), together, strict=True):
        alone = outline(mask, tuple(offset))
        assert [[ring.tolist() for ring in rings] for rings in polygons] == [
            [ring.tolist() for ring in rings] for rings in alone
        ]


def test_tracing_more_masks_takes_no_more_memory_than_their_outlines():
    mask = np.zeros((128, 128), np.bool_)
    mask[8:-8, 8:-8] = True

    def peak(count):
        tracemalloc.start()
        outlines([mask] * count, np.zeros((count, 2), np.int64))
        return tracemalloc.get_traced_memory()[1], tracemalloc.stop()

    few = contours.AT_ONCE // mask.size
    assert peak(8 * few)[0] < 1.25 * peak(few)[0]
