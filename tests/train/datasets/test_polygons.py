import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from matplotlib.path import Path as Outline

from pnseg_train.datasets.polygons import fill_polygon, paint_polygons

# Places in tenths of a pixel, as ImageScope stores them, in and around an image of 30 × 24 px.
places = st.tuples(st.integers(-60, 360), st.integers(-60, 300)).map(lambda p: (p[0] / 10, p[1] / 10))
polygons = st.lists(places, min_size=3, max_size=12).map(np.array)
SHAPE = (24, 30)


def filled(polygon, shape=SHAPE):
    whole = np.zeros(shape, bool)
    (left, top), mask = fill_polygon(polygon, shape)
    whole[top : top + mask.shape[0], left : left + mask.shape[1]] = mask
    return whole


def distance_to_edges(points, polygon):
    starts, ends = polygon, np.roll(polygon, -1, axis=0)
    along = ends - starts
    length = np.maximum((along**2).sum(axis=1), 1e-12)
    t = np.clip(((points[:, None] - starts) * along).sum(axis=2) / length, 0, 1)
    return np.linalg.norm(points[:, None] - (starts + t[..., None] * along), axis=2).min(axis=1)


@given(polygons)
@settings(deadline=None)
def test_pixels_whose_centres_the_outline_goes_round_are_filled(polygon):
    ys, xs = np.mgrid[: SHAPE[0], : SHAPE[1]]
    centres = np.stack([xs.ravel(), ys.ravel()], axis=1) + 0.5
    off_border = distance_to_edges(centres, polygon) > 1e-6
    # An independent winding number: the sum of the angles under which the edges are seen.
    starts = polygon[None] - centres[:, None]
    ends = np.roll(polygon, -1, axis=0)[None] - centres[:, None]
    cross = starts[..., 0] * ends[..., 1] - starts[..., 1] * ends[..., 0]
    turns = np.round(np.arctan2(cross, (starts * ends).sum(axis=2)).sum(axis=1) / (2 * np.pi))
    np.testing.assert_array_equal(filled(polygon).ravel()[off_border], turns[off_border] != 0)


@given(polygons, st.integers(-8, 8), st.integers(-8, 8))
@settings(deadline=None)
def test_a_polygon_moved_by_whole_pixels_moves_its_mask(polygon, dx, dy):
    room = (60, 60)
    # Quarters have exact sums; tenths would put borders on either side of a centre by rounding.
    polygon = np.round(polygon * 4) / 4 + 14
    np.testing.assert_array_equal(
        filled(polygon + np.array([dx, dy]), room), np.roll(filled(polygon, room), (dy, dx), axis=(0, 1))
    )


@given(st.lists(st.integers(0, 40), min_size=4, max_size=4), st.integers(1, 39), st.integers(1, 39))
@settings(deadline=None)
def test_polygons_that_share_an_edge_share_no_pixel_and_leave_none_out(heights, x0, x1):
    # A rectangle cut from its upper to its lower edge; vertices at half pixels, where centres are.
    box = np.array([(0, 0), (20, 0), (20, 20), (0, 20)], float)
    upper, lower = (x0 / 2, 0.0), (x1 / 2, 20.0)
    middle = [(heights[0] / 2, 5.0), (heights[1] / 2, 10.5)]
    middle = [(min(max(x, 0.5), 19.5), y) for x, y in middle]
    left = np.array([(0, 0), upper, *middle, lower, (0, 20)])
    right = np.array([upper, (20, 0), (20, 20), lower, *middle[::-1]])
    parts = filled(left).astype(int) + filled(right)
    np.testing.assert_array_equal(parts, filled(box))


def test_pixel_0_covers_0_to_1():
    np.testing.assert_array_equal(np.argwhere(filled(np.array([(3, 2), (5, 2), (5, 3), (3, 3)]))), [(2, 3), (2, 4)])
    assert filled(np.array([(3.6, 2.6), (4.4, 2.6), (4.4, 3.4), (3.6, 3.4)])).sum() == 0  # between four centres


def test_the_loop_that_closes_an_outline_is_no_hole():
    # A square drawn one and a quarter times round.
    twice = np.array([(2, 2), (12, 2), (12, 12), (2, 12), (2, 2), (12, 2), (12, 7), (2, 7)], float)
    assert filled(twice).sum() == 100


def test_the_area_of_a_smooth_outline_is_kept():
    angles = np.linspace(0, 2 * np.pi, 200, endpoint=False)
    disc = np.stack([50.3 + 20 * np.cos(angles), 49.8 + 20 * np.sin(angles)], axis=1)
    mask = filled(disc, (100, 100))
    assert mask.sum() == pytest.approx(np.pi * 20**2, rel=0.01)
    inside = Outline(disc).contains_points(np.argwhere(np.ones((100, 100)))[:, ::-1] + 0.5).reshape(100, 100)
    np.testing.assert_array_equal(mask, inside)


def test_a_later_polygon_lies_on_top_and_a_hidden_one_takes_no_id():
    square = np.array([(2, 2), (8, 2), (8, 8), (2, 8)], float)
    labels = paint_polygons([square + 1, square + 40, square, square + 4], SHAPE)
    assert sorted(np.unique(labels)) == [0, 1, 2, 3]  # the one outside is gone
    assert labels[2, 2] == 2  # over the first
    assert labels[7, 7] == 3
    assert paint_polygons([square, square - 0.1, square], SHAPE).max() == 1
    assert paint_polygons([], SHAPE).shape == SHAPE
