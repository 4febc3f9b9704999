"""A graph without the outputs that nobody reads, and without what only they need.

ONNX Runtime computes every node of a graph, whichever outputs are asked for. A runtime without the
``onnx`` package so takes the nodes out of the file itself: of ONNX's protocol buffers it has to know
which fields hold the graph, its nodes and outputs, and their names.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

# Field numbers of onnx.proto.
GRAPH = 7  # of a model
NODE, OUTPUT = 1, 12  # of a graph
NODE_INPUT, NODE_OUTPUT, NODE_ATTRIBUTE = 1, 2, 5
VALUE_NAME = 1
SUBGRAPHS = (6, 11)  # of an attribute

_VARINT, _FIXED64, _BYTES, _FIXED32 = 0, 1, 2, 5


@dataclass(frozen=True)
class _Field:
    """One field: its number, all its bytes, and the value's where it is a sequence of bytes."""

    number: int
    whole: memoryview
    value: memoryview


def pruned(model: bytes, leave_out: frozenset[str]) -> bytes:
    """A serialised model without some outputs.

    A model with control flow comes back as it is: nodes inside can read any tensor outside.

    Args:
        model: ONNX, weights inside.
        leave_out: names of outputs.

    Raises:
        ValueError: not a serialised model.
    """
    fields = list(_fields(memoryview(model)))
    graph = next((field for field in fields if field.number == GRAPH), None)
    if graph is None:
        raise ValueError("no graph")
    parts = list(_fields(graph.value))
    nodes = [part for part in parts if part.number == NODE]
    if any(_has_subgraph(node) for node in nodes):
        return model
    dropped = {id(part) for part in parts if part.number == OUTPUT and _strings(part, VALUE_NAME)[0] in leave_out}
    needed = {_strings(part, VALUE_NAME)[0] for part in parts if part.number == OUTPUT and id(part) not in dropped}
    for node in reversed(nodes):  # ONNX demands that they are sorted
        if needed.isdisjoint(_strings(node, NODE_OUTPUT)):
            dropped.add(id(node))
        else:
            needed.update(_strings(node, NODE_INPUT))
    kept = [part.whole for part in parts if id(part) not in dropped]
    inner = b"".join((_varint(GRAPH << 3 | _BYTES), _varint(sum(map(len, kept)))))
    before = [field.whole for field in fields if field is not graph]
    return b"".join((*before, inner, *kept))


def _has_subgraph(node: _Field) -> bool:
    attributes = (part for part in _fields(node.value) if part.number == NODE_ATTRIBUTE)
    return any(part.number in SUBGRAPHS for attribute in attributes for part in _fields(attribute.value))


def _strings(message: _Field, number: int) -> list[str]:
    return [bytes(part.value).decode() for part in _fields(message.value) if part.number == number]


def _fields(message: memoryview) -> Iterator[_Field]:
    """The fields of a message, in order."""
    position = 0
    while position < len(message):
        start = position
        key, position = _read_varint(message, position)
        kind, value = key & 7, message[:0]
        if kind == _VARINT:
            _, position = _read_varint(message, position)
        elif kind == _BYTES:
            length, position = _read_varint(message, position)
            value = message[position : position + length]
            if len(value) < length:
                raise ValueError("ends in the middle of a field")
            position += length
        elif kind in {_FIXED64, _FIXED32}:
            position += 8 if kind == _FIXED64 else 4
        else:
            raise ValueError(f"a field of the unknown kind {kind}")
        yield _Field(key >> 3, message[start:position], value)


def _read_varint(message: memoryview, position: int) -> tuple[int, int]:
    value = shift = 0
    while position < len(message) and shift < 64:
        byte = message[position]
        position += 1
        value |= (byte & 0x7F) << shift
        if byte < 0x80:
            return value, position
        shift += 7
    raise ValueError("a number has no end")


def _varint(value: int) -> bytes:
    out = bytearray()
    while value > 0x7F:
        out.append(value & 0x7F | 0x80)
        value >>= 7
    out.append(value)
    return bytes(out)
