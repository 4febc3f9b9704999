from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from tests.real_data import real
from tests.runtime.slide.local import write_bundle
from tests.runtime.slide.made import sample_mosaic, save_image

pytest.importorskip("openslide", reason='the extra "slide" is not installed')


@pytest.fixture(scope="session")
def bundle(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_bundle(tmp_path_factory.mktemp("bundle"))


@pytest.fixture(scope="session")
def mosaic(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """768×1024 px of real tiles as a PNG."""
    return save_image(tmp_path_factory.mktemp("slides") / "mosaic.png", np.tile(sample_mosaic(), (2, 2, 1)))


@pytest.fixture(scope="session", params=["mosaic", "kumar", "consep"])
def large_image(request: pytest.FixtureRequest, mosaic: Path) -> Path:
    """An image of the project, and 1000×1000 px of two data sets where they are at hand."""
    if request.param == "mosaic":
        return mosaic
    return sorted(real(f"{request.param}/images").glob("*.png"))[0]


def pixels(path: Path) -> np.ndarray:
    return np.asarray(Image.open(path).convert("RGB"))
