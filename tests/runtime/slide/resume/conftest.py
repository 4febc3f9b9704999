"""A slide, and what a run gives that nothing disturbs."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from pnseg_runtime.slide import SlideResult
from tests.runtime.slide.local import run_local
from tests.runtime.slide.made import sample_mosaic, save_image
from tests.runtime.slide.resume.running import KINDS, OPTIONS

pytest.importorskip("zarr", minversion="3")


@pytest.fixture(scope="session")
def slide(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return save_image(tmp_path_factory.mktemp("slide") / "slide.png", np.tile(sample_mosaic(), (1, 2, 1)))


@pytest.fixture(scope="session")
def undisturbed(slide: Path, bundle: Path, tmp_path_factory: pytest.TempPathFactory) -> SlideResult:
    """Not to be changed."""
    return run_local(slide, tmp_path_factory.mktemp("undisturbed"), bundle, KINDS, OPTIONS)
