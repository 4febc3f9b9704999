"""Polygons as well-known binary, which GeoParquet stores; little-endian, two dimensions."""

from __future__ import annotations

import struct
from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray

_POLYGON, _MULTI = 3, 6
_HEADER = struct.Struct("<BII")  # byte order, kind, count
_COUNT = struct.Struct("<I")

Ring = NDArray[np.float64]


def encode(polygons: Sequence[Sequence[NDArray[np.floating]]]) -> bytes:
    """One polygon as a Polygon, several as a MultiPolygon; rings (M, 2) are closed, the outer one first."""
    parts = [_encode_polygon(rings) for rings in polygons]
    return parts[0] if len(parts) == 1 else _HEADER.pack(1, _MULTI, len(parts)) + b"".join(parts)


def _encode_polygon(rings: Sequence[NDArray[np.floating]]) -> bytes:
    parts = [_HEADER.pack(1, _POLYGON, len(rings))]
    for ring in rings:
        parts += [_COUNT.pack(len(ring)), np.ascontiguousarray(ring, "<f8").tobytes()]
    return b"".join(parts)


def decode(data: bytes) -> list[list[Ring]]:
    """What :func:`encode` has made.

    Raises:
        ValueError: anything else.
    """
    order, kind, count = _HEADER.unpack_from(data)
    if order != 1 or kind not in (_POLYGON, _MULTI):
        raise ValueError(f"not a little-endian polygon (byte order {order}, kind {kind})")
    if kind == _POLYGON:
        return [_decode_polygon(data, 0)[0]]
    polygons, offset = [], _HEADER.size
    for _ in range(count):
        rings, offset = _decode_polygon(data, offset)
        polygons.append(rings)
    return polygons


def _decode_polygon(data: bytes, offset: int) -> tuple[list[Ring], int]:
    _, _, count = _HEADER.unpack_from(data, offset)
    offset += _HEADER.size
    rings: list[Ring] = []
    for _ in range(count):
        (length,) = _COUNT.unpack_from(data, offset)
        offset += _COUNT.size
        rings.append(np.frombuffer(data, "<f8", 2 * length, offset).reshape(length, 2))
        offset += 16 * length
    return rings, offset
