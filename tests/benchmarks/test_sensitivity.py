"""A bisection finds the sensitivity at which there are as many nuclei as are wanted."""

import pytest

from benchmarks.sensitivity import REACH, sensitivity_for


def test_sensitivity_is_searched_until_the_wanted_number_is_found():
    value = sensitivity_for(lambda s: round(10 * (s + 1)), 24)
    assert round(10 * (value + 1)) == pytest.approx(24, abs=1)


def test_nothing_more_is_tried_once_the_number_is_right():
    tried = []
    assert sensitivity_for(lambda s: tried.append(s) or 3, 3) == 0
    assert tried == [0]


@pytest.mark.parametrize(("found", "end"), [(0, REACH), (9, -REACH)])
def test_a_number_that_is_never_found_gives_the_nearer_end(found, end):
    assert sensitivity_for(lambda _: found, 5) == pytest.approx(end, abs=1e-5)
