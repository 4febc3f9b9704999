import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from pnseg_runtime.assign import batches, window_prompts
from pnseg_runtime.prompts import nearest_negatives
from pnseg_runtime.windows import most_central, windows


def scene(seed, shape=(500, 400), count=80):
    coords = (np.random.default_rng(seed).random((count, 2)) * [shape[1] - 1, shape[0] - 1]).astype(np.float32)
    return coords, windows(shape, 256, 64), shape


@given(st.integers(0, 1000), st.sampled_from(["central", "all"]))
def test_negatives_are_the_nearest_points_of_the_same_window(seed, assignment):
    coords, origins, shape = scene(seed)
    with_negatives, alone = window_prompts(coords, origins, 256, shape, 2, assignment)
    np.testing.assert_array_equal(with_negatives.points, alone.points)
    np.testing.assert_array_equal(with_negatives.windows, alone.windows)
    assert alone.coords.shape[1] == 1
    for window, origin in enumerate(origins):
        members = np.flatnonzero(((coords >= origin) & (coords < origin + 256)).all(axis=1))
        expected, _ = nearest_negatives(coords[members] - origin.astype(np.float32), 2)
        here = with_negatives.windows == window
        place = np.searchsorted(members, with_negatives.points[here])
        np.testing.assert_array_equal(with_negatives.coords[here], expected[place])


@given(st.integers(0, 1000))
def test_central_assignment_decodes_every_point_once_in_its_most_central_window(seed):
    coords, origins, shape = scene(seed)
    (prompts,) = window_prompts(coords, origins, 256, shape, 0)
    assert sorted(prompts.points) == list(range(len(coords)))
    np.testing.assert_array_equal(prompts.windows, most_central(coords, origins, 256, shape)[prompts.points])


def test_without_points_there_is_nothing_to_decode():
    (prompts,) = window_prompts(np.empty((0, 2), np.float32), windows((300, 300), 256, 64), 256, (300, 300), 0)
    assert len(prompts) == 0
    assert list(batches(prompts, 4)) == []


def test_batches_hold_about_as_many_windows_each():
    coords, origins, shape = scene(0)
    (prompts,) = window_prompts(coords, origins, 256, shape, 0, "all")
    used = len(np.unique(prompts.windows))
    for size in range(1, used + 2):
        sizes = [len(batch) for batch in batches(prompts, size)]
        assert (sum(sizes), len(sizes)) == (used, -(-used // size))
        assert max(sizes) - min(sizes) <= 1


@pytest.mark.parametrize("size", [1, 7, 1000])
def test_batches_of_windows_and_prompts_lose_and_repeat_nothing(size):
    coords, origins, shape = scene(0)
    (prompts,) = window_prompts(coords, origins, 256, shape, 0, "all")
    seen = []
    for batch in batches(prompts, 2):
        assert len(batch) <= 2
        for part in prompts.within(batch, size):
            assert len(part) <= size
            tensors = part.tensors(batch)
            np.testing.assert_array_equal(batch[tensors["image_index"]], part.windows)
            seen += list(zip(part.points, part.windows, strict=True))
    assert seen == list(zip(prompts.points, prompts.windows, strict=True))
