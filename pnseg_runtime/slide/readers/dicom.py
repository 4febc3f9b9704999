"""The series that a DICOM file is one of, read from its header alone (PS3.5, sections 7 and 10)."""

from __future__ import annotations

import struct
from functools import lru_cache
from pathlib import Path

_HEADER = 1 << 20  # bytes; the series stands before everything that is large
_SERIES, _SYNTAX = (0x0020, 0x000E), (0x0002, 0x0010)
_ITEM, _ITEM_END, _SEQUENCE_END = (0xFFFE, 0xE000), (0xFFFE, 0xE00D), (0xFFFE, 0xE0DD)
_META = 0x0002  # the group that says how the others are written, and is itself always explicit
_IMPLICIT = b"1.2.840.10008.1.2"
_LONG = {b"OB", b"OD", b"OF", b"OL", b"OV", b"OW", b"SQ", b"SV", b"UC", b"UN", b"UR", b"UT", b"UV"}
_UNDEFINED = 0xFFFFFFFF


def series_of(path: Path) -> str | None:
    """The SeriesInstanceUID of a file; None if it is no DICOM or names none. Files are read once, until they change."""
    try:
        about = path.stat()
        return _series_in_file(path, about.st_size, about.st_mtime_ns)
    except OSError:
        return None


@lru_cache(maxsize=1 << 16)
def _series_in_file(path: Path, size: int, modified: int) -> str | None:  # noqa: ARG001 - what tells a file from another
    with path.open("rb") as stream:
        head = stream.read(132)
        return series_in(head + stream.read(_HEADER)) if head[128:] == b"DICM" else None


def series_in(header: bytes) -> str | None:
    """The SeriesInstanceUID of a file that begins with these bytes, little endian with or without explicit types.

    Sequences of the header may name series of other files; those are passed over.
    """
    place, implicit = 132, False
    within: list[bool] = []  # of each sequence or item that is open: whether what follows it is without types
    try:
        while True:
            tag = group, _ = struct.unpack_from("<HH", header, place)
            if tag > _SERIES and not within:
                return None
            untyped = group != _META and (within[-1] if within else implicit)
            kind, length, place = _element(header, place, untyped or group == _ITEM[0])
            value = header[place : place + length].rstrip(b"\0 ") if length != _UNDEFINED else b""
            if tag == _SYNTAX:
                implicit = value == _IMPLICIT
            if tag == _SERIES and not within:
                return value.decode("ascii") or None
            if tag in (_ITEM_END, _SEQUENCE_END):
                within.pop()
            elif length == _UNDEFINED:
                within.append(untyped or kind == b"UN")
            else:
                place += length
    except (struct.error, UnicodeDecodeError, IndexError):  # it ends early, or is none
        return None


def _element(header: bytes, place: int, untyped: bool) -> tuple[bytes, int, int]:
    """(type, length of the value, where it begins) of the element at a place."""
    if untyped:
        return b"", struct.unpack_from("<L", header, place + 4)[0], place + 8
    kind = header[place + 4 : place + 6]
    if kind in _LONG:
        return kind, struct.unpack_from("<L", header, place + 8)[0], place + 12
    return kind, struct.unpack_from("<H", header, place + 6)[0], place + 8
