"""Nuclei that no tissue has mean that the microns per pixel are wrong, and the user is told."""

import re

import numpy as np
import pytest
from click.testing import CliRunner
from hypothesis import given
from hypothesis import strategies as st

from pnseg_runtime.cli import cli
from pnseg_runtime.plausible import LEAST, Diameters
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


def test_without_nuclei_there_is_no_median_and_no_doubt():
    assert Diameters().median is None
    assert Diameters().doubt(0.25) is None


@pytest.mark.parametrize(("diameter", "number", "doubted"), [
    (2.2, 871, True), (2.2, LEAST - 1, False), (5.0, 871, False), (12.0, 871, False), (25.0, 871, True)
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
