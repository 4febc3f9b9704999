"""Published data sets, which are too large or too restricted in licence to come with the project.

``PNSEG_DATA`` names the folder that holds them; tests on them are skipped where it does not.
"""

from __future__ import annotations

import os
from pathlib import Path

import pytest

FOLDER = os.environ.get("PNSEG_DATA")


def real(place: str) -> Path:
    """A file or folder below ``PNSEG_DATA``, or the end of the test."""
    if FOLDER is None:
        pytest.skip("PNSEG_DATA names no folder of data sets")
    path = Path(FOLDER) / place
    if not path.exists():
        pytest.skip(f"{place} is not in the folder that PNSEG_DATA names")
    return path
