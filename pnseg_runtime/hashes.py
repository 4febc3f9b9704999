"""SHA-256 of files, read in blocks."""

from __future__ import annotations

import hashlib
from pathlib import Path
from typing import Protocol

_BLOCK = 1 << 22  # bytes


class Digest(Protocol):
    """One of :mod:`hashlib`'s."""

    def update(self, data: bytes, /) -> None:
        """Take more bytes in."""


def sha256_of(path: Path) -> str:
    """Hex SHA-256 of a file.

    Raises:
        OSError: it cannot be read.
    """
    digest = hashlib.sha256()
    take_in(digest, path)
    return digest.hexdigest()


def take_in(digest: Digest, path: Path) -> None:
    """Add a file's bytes to a digest.

    Raises:
        OSError: it cannot be read.
    """
    with path.open("rb") as stream:
        while block := stream.read(_BLOCK):
            digest.update(block)
