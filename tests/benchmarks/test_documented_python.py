"""The Python that docs/predict.md shows runs as it stands, and finds what the command finds."""

from __future__ import annotations

import re
from pathlib import Path

import numpy as np
import pytest
import tifffile
from click.testing import CliRunner

from pnseg_runtime.cli import cli
from pnseg_runtime.images import read_image

ROOT = Path(__file__).parents[2]
#: Of small nuclei, so that it is looked at twice.
SAMPLE = ROOT / "pnseg_runtime" / "samples" / "purple_crowded.png"


@pytest.mark.slow
def test_what_the_page_on_predict_shows_gives_the_results_of_the_command(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    tifffile.imwrite("tile.tif", read_image(SAMPLE).pixels, photometric="rgb", metadata=None)
    assert CliRunner().invoke(cli, ["predict", "tile.tif"]).exit_code == 0
    blocks = re.findall(r"^```python\n(.*?)^```", (ROOT / "docs" / "predict.md").read_text("utf-8"), re.M | re.S)
    said: dict[str, object] = {}
    exec("\n".join(blocks), said)
    assert said["enlarged"] == 1.5
    read = tifffile.imread("pnseg-out/tile.labels.tif")
    assert np.array_equal(read, said["nuclei"].instance_map())
    assert len(said["table"]) == len(said["nuclei"]) == read.max()
