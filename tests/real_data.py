"""Published data sets, which are too large or too restricted in licence to come with the project.

``PNSEG_DATA`` names the folder that holds them; tests on them are skipped where it does not.
"""

from __future__ import annotations

import os
from pathlib import Path

import pytest

FOLDER = Path(os.environ.get("PNSEG_DATA", Path(__file__).parents[2] / "shared" / "data"))


def real(place: str) -> Path:
    """A file or folder below ``PNSEG_DATA``, or the end of the test."""
    path = FOLDER / place
    if not path.exists():
        pytest.skip(f"{place} is not in the folder that PNSEG_DATA names")
    return path
