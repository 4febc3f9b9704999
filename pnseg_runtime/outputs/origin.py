"""Which image a file that stands under a result's name is of."""

from __future__ import annotations

import os
import re
from enum import Enum
from pathlib import Path

_MARK = "pnseg-image-sha256:"
_MARKED = re.compile(_MARK.encode() + rb"([0-9a-f]{64})")
_REACH = 1 << 16  # bytes from either end: TIFF and PNG have their texts at the beginning, Parquet at the end


class Origin(Enum):
    """What is known of a file."""

    SAME = "a result of the same image"
    OTHER = "a result of another image"
    SOME = "a result, of whichever image"
    UNKNOWN = "nothing that is known for a result"


def mark(content_hash: str) -> str:
    """What files that have room for a text say of their image.

    Args:
        content_hash: :attr:`pnseg_runtime.outputs.Prediction.content_hash`.
    """
    return _MARK + content_hash


def by_mark(path: Path, content_hash: str) -> Origin:
    """Of a file that has, uncompressed, a :func:`mark` near one of its ends."""
    with path.open("rb") as stream:
        ends = stream.read(_REACH)
        stream.seek(max(stream.seek(0, os.SEEK_END) - _REACH, 0))
        ends += stream.read()
    found = _MARKED.search(ends)
    if found is None:
        return Origin.UNKNOWN
    return Origin.SAME if found[1].decode() == content_hash else Origin.OTHER
