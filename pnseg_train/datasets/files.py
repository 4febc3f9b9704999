"""Finding files."""

from __future__ import annotations

from pathlib import Path


def find(folder: Path, pattern: str) -> list[Path]:
    """Files that match, by name, but none that begin with a dot.

    Archives packed on a Mac hold such a twin, ``._name``, of each file, which is no image.
    """
    return sorted(path for path in folder.glob(pattern) if not path.name.startswith("."))
