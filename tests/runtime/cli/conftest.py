"""A model made by hand in the place of a bundle, and a good image."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
from PIL import Image

from tests.runtime.cli.bad_input import RGB
from tests.runtime.made import DarkSpotModel


@pytest.fixture
def loaded(monkeypatch: pytest.MonkeyPatch) -> dict[str, Any]:
    """Put a model made by hand in the place of a bundle; returns what it was loaded with."""
    seen: dict[str, Any] = {"model": DarkSpotModel()}

    def load(bundle: str, **options: Any) -> DarkSpotModel:
        seen.update(bundle=bundle, options=options)
        return seen["model"]

    monkeypatch.setattr("pnseg_runtime.cli.predict.load", load)
    return seen


@pytest.fixture
def model(monkeypatch: pytest.MonkeyPatch) -> DarkSpotModel:
    model = DarkSpotModel()
    monkeypatch.setattr("pnseg_runtime.cli.predict.load", lambda *_, **__: model)
    return model


@pytest.fixture
def good(tmp_path: Path) -> Path:
    Image.fromarray(RGB).save(tmp_path / "good.png")
    return tmp_path / "good.png"
