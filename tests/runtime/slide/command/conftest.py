"""The command, with the formula's networks in place of a model."""

from __future__ import annotations

from pathlib import Path

import pytest
from click.testing import CliRunner, Result

from pnseg_runtime.cli import cli
from pnseg_runtime.slide import networks
from tests.runtime.slide.local import local_segmenter
from tests.runtime.slide.made import sample_mosaic, save_image


@pytest.fixture
def run(bundle: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr(networks, "Segmenter", lambda *_: local_segmenter(bundle))

    def run_(*arguments: str | Path) -> Result:
        given = ["slide", *map(str, arguments), "--bundle", str(bundle), "--out", str(tmp_path / "out")]
        return CliRunner().invoke(cli, given)

    return run_


@pytest.fixture
def slide(tmp_path: Path) -> Path:
    return save_image(tmp_path / "slide.png", sample_mosaic())
