"""One slide in two files, of which one was compressed again: the shipped model finds the same nuclei."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pyarrow.parquet as pq
import pytest
from click.testing import CliRunner

from pnseg_runtime.cli import cli
from pnseg_runtime.metrics import match_points
from tests.real_data import real

NAMES = ("CMU-1-Small-Region.svs", "CMU-1-Small-Region_pyramid.tif")
RADIUS = 6.0  # px of level 0, 3 µm


def centroids(table: Path) -> np.ndarray:
    columns = pq.read_table(table, columns=["centroid_x", "centroid_y"])
    return np.stack([columns[name].to_numpy() for name in columns.column_names], axis=1)


def agreement(folder: Path, *options: str) -> tuple[float, int]:
    """F1 of the two files' nuclei against each other, and how many the scanner's file holds."""
    files = [str(real(f"wsi/{name}")) for name in NAMES]
    asked = ["slide", *files, "--mpp", "0.499", "--only", "parquet", "--out", str(folder), *options]
    done = CliRunner().invoke(cli, asked, catch_exceptions=False)
    assert done.exit_code == 0, done.output
    first, second = (centroids(folder / f"{Path(name).stem}.parquet") for name in NAMES)
    return match_points(first, second, RADIUS).f1, len(first)


@pytest.mark.slow
def test_the_whole_slide_has_the_same_nuclei_in_both_files(tmp_path: Path) -> None:
    f1, count = agreement(tmp_path)
    assert count > 1500
    assert f1 >= 0.97


def test_a_region_agrees_less_where_its_enlarged_pixels_are_not_softened(tmp_path: Path) -> None:
    roi = ("--roi", "1100,900,500,500")
    soft, _ = agreement(tmp_path / "soft", *roi)
    sharp, _ = agreement(tmp_path / "sharp", *roi, "--enlarged-blur", "0", "0")
    assert soft > sharp
