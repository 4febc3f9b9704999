"""Nuclei that no tissue has mean that the microns per pixel are wrong, and the user is told."""

import re

import numpy as np
import pytest
from click.testing import CliRunner
from hypothesis import given
from hypothesis import strategies as st

from pnseg_runtime.cli import cli
from pnseg_runtime.errors import ImageError
from pnseg_runtime.nuclei import Nuclei, NucleusClass
from pnseg_runtime.plausible import LEAST, Diameters, at_likely_mpp, likely_mpp, seen_at
from tests.runtime.made import SAMPLES


def of(diameters) -> Diameters:
    found = Diameters()
    found.add(np.pi / 4 * np.asarray(diameters, np.float64) ** 2)
    return found


@given(st.lists(st.floats(0.5, 60), min_size=1, max_size=200).filter(lambda values: len(values) % 2 == 1))
def test_the_median_is_that_of_all_nuclei_however_they_came(diameters):
    whole = of(diameters)
    parts = Diameters()
    for diameter in diameters:
        parts.add(np.array([np.pi / 4 * diameter**2]))
    assert whole.median == parts.median == pytest.approx(np.median(diameters), abs=0.051)


def test_nuclei_larger_than_any_are_counted_with_the_largest():
    assert of([2.0, 500.0, 90_000.0]).median == pytest.approx(100, abs=0.051)


def test_without_nuclei_there_is_no_median_and_no_doubt():
    assert Diameters().median is None
    assert Diameters().doubt(0.25) is None


@pytest.mark.parametrize(("diameter", "number", "doubted"), [
    (2.2, 871, True), (2.2, LEAST, True), (2.2, LEAST - 1, False), (2.8, 871, True), (3.2, 871, False),
    (5.0, 871, False), (12.0, 871, False), (17.8, 871, False), (18.2, 871, True), (25.0, 871, True)
])  # fmt: skip
def test_sizes_that_no_tissue_has_are_doubted_if_there_are_enough(diameter, number, doubted):
    sentence = of([diameter] * number).doubt(0.25)
    assert (sentence is not None) == doubted
    if sentence:
        hint = re.search(r"--mpp ([\d.]+)", sentence)
        assert float(hint[1]) == pytest.approx(0.25 * 7 / diameter, rel=0.03)


def test_predict_warns_of_a_resolution_that_its_nuclei_belie(tmp_path):
    tile = SAMPLES / "purple_crowded.png"
    for mpp, warned in ((0.25, False), (0.1, True)):
        options = ["--mpp", str(mpp), "--out", str(tmp_path), "--only", "csv"]
        result = CliRunner().invoke(cli, ["predict", str(tile), *options])
        assert result.exit_code == 0, result.output
        assert ("Warning: " in result.stderr) == warned, result.stderr


def discs(*diameters: float) -> tuple[np.ndarray, ...]:
    ys, xs = np.mgrid[-40:41, -40:41]
    return tuple(xs**2 + ys**2 <= (diameter / 2) ** 2 for diameter in diameters)


@pytest.mark.parametrize(("diameters", "likely"), [
    ((18, 20, 60), 0.375), ((20, 40, 60), 0.25), ((23,), 0.375), ((25,), 0.25), ((), 0.25)
])  # fmt: skip
def test_an_image_of_small_nuclei_is_probably_of_a_coarser_resolution(diameters, likely):
    assert likely_mpp(discs(*diameters), 0.25) == likely


class Asked:
    """Finds one disc, and remembers at which resolutions it was asked."""

    def __init__(self, diameter: float, limit: float = 5.0) -> None:
        self.diameter, self.limit, self.mpps = diameter, limit, []

    def __call__(self, mpp: float | None) -> Nuclei:
        self.mpps.append(mpp)
        if mpp is not None and mpp > self.limit:
            raise ImageError("too large")
        (mask,), one = discs(self.diameter), np.ones(1, np.float32)
        boxes, points = np.array([[0, 0, 81, 81]], np.int32), np.full((1, 2), 40, np.float32)
        kinds = (NucleusClass("nucleus", (255, 0, 0)),)
        timings = {"total": 1.0 if mpp is None else 2.0}
        return Nuclei((81, 81), points, np.zeros(1, np.int64), one, one, boxes, (mask,), kinds, mpp, timings)


def test_small_nuclei_are_looked_at_again_and_no_resolution_is_claimed():
    asked = Asked(18)
    nuclei, enlarged = at_likely_mpp(asked, 0.25)
    assert asked.mpps == [None, 0.375]
    assert enlarged == 1.5
    assert nuclei.mpp is None
    assert nuclei.timings == {"total": 3.0}


def test_large_nuclei_and_images_that_would_be_too_large_are_looked_at_once():
    for asked, mpps in ((Asked(30), [None]), (Asked(18, limit=0.3), [None, 0.375])):
        nuclei, enlarged = at_likely_mpp(asked, 0.25)
        assert asked.mpps == mpps
        assert enlarged == 1.0
        assert nuclei.timings == {"total": 1.0}


@pytest.mark.parametrize(("mpp", "guess", "mpps", "enlarged"), [
    (0.5, "auto", [0.5], 1.0), (None, "model", [None], 1.0), (None, "auto", [None, 0.375], 1.5)
])  # fmt: skip
def test_a_resolution_is_guessed_only_where_it_is_unknown_and_a_guess_is_asked_for(mpp, guess, mpps, enlarged):
    asked = Asked(18)
    assert seen_at(asked, mpp, guess, 0.25)[1] == enlarged
    assert asked.mpps == mpps
