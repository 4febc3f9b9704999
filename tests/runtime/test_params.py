import click
import pytest

from pnseg_runtime.params import given


@pytest.mark.parametrize(
    ("chosen", "left"),
    [
        ({"negatives": None, "tta": False, "assignment": "central"}, {}),
        ({"negatives": 0, "tta": True, "assignment": "all"}, {"negatives": 0, "tta": True, "assignment": "all"}),
        ({"region_filter": False, "overlap": 0}, {"region_filter": False, "overlap": 0}),
        ({"region_filter": None, "enlarged_blur": (0.0, 0.0)}, {"enlarged_blur": (0.0, 0.0)}),
    ],
)
def test_what_is_left_to_the_model_is_not_given_and_what_is_switched_off_is(chosen, left):
    assert given(chosen) == left


def test_a_choice_that_makes_no_sense_is_wrong_usage():
    with pytest.raises(click.UsageError, match="negatives must be at most"):
        given({"negatives": 1000})
