import numpy as np
import pytest
from hypothesis import assume, given
from hypothesis import strategies as st

from pnseg_runtime.windows import (
    Part,
    cut,
    from_first_centres,
    macro_tiles,
    memberships,
    mirror,
    most_central,
    windows,
)
from tests import golden

shapes = st.tuples(st.integers(1, 700), st.integers(1, 700))


def points_of(shape, seed, count=60):
    height, width = shape
    return (np.random.default_rng(seed).random((count, 2)) * [width - 1, height - 1]).astype(np.float32)


@pytest.mark.parametrize(
    ("length", "starts"),
    [
        (1, [0]),
        (255, [0]),
        (256, [0]),
        (257, [0, 1]),
        (448, [0, 192]),
        (500, [0, 192, 244]),
        (1000, [0, 192, 384, 576, 744]),
    ],
)
def test_windows_advance_by_their_stride_and_the_last_is_pushed_back_inside(length, starts):
    assert windows((256, length), 256, 64).tolist() == [[x, 0] for x in starts]
    assert windows((length, 256), 256, 64).tolist() == [[0, y] for y in starts]


def test_windows_are_listed_row_by_row():
    assert windows((448, 257), 256, 64).tolist() == [[0, 0], [1, 0], [0, 192], [1, 192]]


@given(shapes, st.integers(8, 128), st.data())
def test_windows_cover_the_image_stay_inside_and_overlap_enough(shape, window, data):
    overlap = data.draw(st.integers(0, window - 1))
    assume((window - overlap) * 200 > max(shape))
    origins = windows(shape, window, overlap)
    for axis, length in ((0, shape[1]), (1, shape[0])):
        starts = np.unique(origins[:, axis])
        assert starts[0] == 0
        assert starts[-1] == max(length - window, 0)
        assert (np.diff(starts) <= window - overlap).all()
    assert len(np.unique(origins, axis=0)) == len(origins)


@given(shapes)
def test_windows_put_back_together_are_the_image(shape):
    image = np.random.default_rng(0).integers(0, 255, (*shape, 3), np.uint8)
    origins = windows(shape, 256, 64)
    patches = cut(image, origins, 256)
    assert patches.shape == (len(origins), 256, 256, 3)
    rebuilt = np.zeros_like(image)
    for (x, y), patch in zip(origins, patches, strict=True):
        target = rebuilt[y : y + 256, x : x + 256]
        target[:] = patch[: target.shape[0], : target.shape[1]]
    np.testing.assert_array_equal(rebuilt, image)


@pytest.mark.parametrize(
    ("row", "expected"), [([1, 2, 3], [1, 2, 3, 2, 1, 2, 3]), ([1, 2], [1, 2, 1, 2, 1, 2, 1]), ([5], [5] * 7)]
)
def test_mirroring_leaves_out_the_edge_pixel_and_works_for_one_pixel(row, expected):
    assert mirror(np.array([row]), (1, 7)).tolist() == [expected]
    assert mirror(np.array([row]).T, (7, 1)).T.tolist() == [expected]


def test_mirroring_a_real_tile_matches_the_reference_padding():
    image = golden.arrays("prompter_cpm17")["image_2"][0].transpose(1, 2, 0)
    height, width = image.shape[:2]
    padded = mirror(image, (256, 256))
    np.testing.assert_array_equal(padded[:height, :width], image)
    np.testing.assert_array_equal(padded[height:, :width], image[height - 7 : height - 1][::-1])
    np.testing.assert_array_equal(padded[:height, width:], image[:, width - 6 : width - 1][:, ::-1])


@given(shapes, st.integers(0, 1000))
def test_memberships_are_all_pairs_of_a_window_and_a_point_inside(shape, seed):
    coords, origins = points_of(shape, seed), windows(shape, 100, 30)
    inside = ((coords[None] >= origins[:, None]) & (coords[None] < origins[:, None] + 100)).all(axis=2)
    expected = np.argwhere(inside)
    points, holders = memberships(coords, origins, 100)
    np.testing.assert_array_equal(np.stack([holders, points], axis=1), expected)


def test_a_window_holds_the_points_from_its_first_pixel_to_its_last():
    coords = np.array([[100, 5], [199, 5], [199.5, 5], [200, 5], [150, 99.5], [150, 100]], np.float32)
    points, _ = memberships(coords, np.array([[100, 0]]), 100)
    assert points.tolist() == [0, 1, 2, 4]


def test_points_on_the_outer_half_of_the_first_pixels_come_to_their_centres_and_those_beyond_stay():
    coords = np.array([[-0.5, 3], [2, -0.25], [-0.75, 4], [5, 6]], np.float32)
    assert from_first_centres(coords).tolist() == [[0, 3], [2, 0], [-0.75, 4], [5, 6]]


@given(shapes, st.integers(0, 1000))
def test_the_most_central_window_holds_the_point_deepest(shape, seed):
    height, width = shape
    coords, origins = points_of(shape, seed), windows(shape, 100, 30)
    chosen = most_central(coords, origins, 100, shape)
    for (x, y), window in zip(coords.astype(float), chosen, strict=True):
        depths = []
        for x0, y0 in origins:
            sides = [x - x0 if x0 else np.inf, y - y0 if y0 else np.inf]
            sides += [x0 + 99 - x if x0 + 100 < width else np.inf, y0 + 99 - y if y0 + 100 < height else np.inf]
            depths.append(min(sides) if x0 <= x < x0 + 100 and y0 <= y < y0 + 100 else -np.inf)
        assert depths[window] == pytest.approx(max(depths), abs=1e-3)


@pytest.mark.parametrize(
    ("width", "x", "window"),
    [
        (100, 10, 0),  # the only one, larger than the image
        (448, 223.5, 0),  # halfway between two windows' borders: the first
        (448, 224, 1),
        (448, 447, 1),
        (449, 400, 2),  # of the windows at 192 and 193, the one that ends with the image
    ],
)
def test_most_central_window_of_a_row(width, x, window):
    shape = (256, width)
    assert most_central(np.array([[x, 20]], np.float32), windows(shape, 256, 64), 256, shape).tolist() == [window]


@given(shapes, st.sampled_from([(64, 0), (96, 32), (256, 64)]), st.integers(0, 1000))
def test_exactly_one_macro_tile_owns_a_point_and_sees_around_it(shape, sizes, seed):
    limit, margin = sizes
    height, width = shape
    tiles = macro_tiles(shape, limit, margin)
    coords = np.concatenate([points_of(shape, seed), [[0, 0], [width - 1, height - 1]]]).astype(np.float32)
    owned = np.array([tile.owns(coords) for tile in tiles])
    assert (owned.sum(axis=0) == 1).all()
    for tile, mine in zip(tiles, owned, strict=True):
        x0, y0, x1, y1 = tile.view
        assert 0 <= x0 < x1 <= width
        assert 0 <= y0 < y1 <= height
        assert max(x1 - x0, y1 - y0) <= limit
        for x, y in coords[mine]:
            assert x0 == 0 or x - x0 >= margin
            assert y0 == 0 or y - y0 >= margin
            assert x1 == width or x1 - x > margin
            assert y1 == height or y1 - y > margin


@given(shapes)
def test_cores_partition_the_image_and_views_start_on_the_feature_grid(shape):
    covered = np.zeros(shape, int)
    for tile in macro_tiles(shape, 192, 32):
        x0, y0, x1, y1 = tile.core
        covered[y0:y1, x0:x1] += 1
        assert tile.view[0] % 32 == tile.view[1] % 32 == 0
    assert (covered == 1).all()


def test_an_image_within_the_limit_is_one_macro_tile():
    (tile,) = macro_tiles((1536, 1000), 1536, 128)
    assert tile.core == tile.view == (0, 0, 1000, 1536)


@given(
    width=st.integers(1, 1500),
    height=st.integers(256, 900),
    x=st.integers(0, 40),
    y=st.integers(0, 20),
    size=st.integers(1, 30),
)
def test_windows_of_a_part_are_those_windows_of_the_image_that_its_view_holds(width, height, x, y, size):
    x0, y0 = min(x * 32, (width - 1) // 32 * 32), min(y * 32, (height - 1) // 32 * 32)
    view = (x0, y0, min(x0 + size * 32, width), min(y0 + size * 32, height))
    part = Part.of(view, (height, width), 256, 64)
    inside = part.held(windows(part.local_shape, 256, 64), 256) - part.shift + (x0, y0)
    every = windows((height, width), 256, 64)
    beyond = (width <= view[2], height <= view[3])
    held = (every >= view[:2]) & ((every + 256 <= view[2:]) | np.array(beyond))
    assert inside.tolist() == every[held.all(axis=1)].tolist()


@given(width=st.integers(300, 3000), start=st.integers(0, 60))
def test_borders_of_a_part_are_inner_ones_unless_the_image_ends_there(width, start):
    x0 = min(start * 32, width - 1)
    part = Part.of((x0, 0, min(x0 + 640, width), 300), (300, width), 256, 64)
    origins = part.held(windows(part.local_shape, 256, 64), 256)
    image_x = origins[:, 0] - part.shift[0] + x0
    assert ((origins[:, 0] == 0) == (image_x == 0)).all()
    assert ((origins[:, 0] + 256 >= part.local_shape[1]) == (image_x + 256 >= width)).all()
