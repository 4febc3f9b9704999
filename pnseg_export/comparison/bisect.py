"""Which layer is it? Two graphs of one network, tensor by tensor, in the order in which they compute.

A tensor departs when its error exceeds a tolerance while those it was made from are still within it.
Names of tensors must be the same in both graphs, as they are in all precisions of a bundle and in two
exports of a checkpoint.
"""

from __future__ import annotations

import tempfile
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import onnx
from numpy.typing import NDArray

from pnseg_export.files import element_types, write_scratch
from pnseg_export.layers import layer_of
from pnseg_export.precision.feeds import Arrays
from pnseg_runtime.sessions.onnxruntime import open_session

#: Precision → error, as a share of a tensor's spread, that its rounding alone stays below in a sound graph.
TOLERANCE = {"float32": 1e-3, "float16": 0.02, "int8": 0.25}


@dataclass(frozen=True)
class Departure:
    """Where two graphs part.

    Attributes:
        layer: the module.
        node: the node's name.
        operator: its kind.
        tensor: what it gives out.
        error: of that, a share of its spread.
        before: the largest error of the tensors that it was made from.
    """

    layer: str
    node: str
    operator: str
    tensor: str
    error: float
    before: float

    def __str__(self) -> str:
        return (
            f"{self.layer}: the first that departs ({self.operator} {self.node}); its output is off by "
            f"{self.error:.2%} of its spread, its inputs by {self.before:.2%}"
        )


def bisect(
    reference: onnx.ModelProto, candidate: onnx.ModelProto, calls: Sequence[Arrays], tolerance: float
) -> Departure | None:
    """The first layer whose output departs, None if all agree.

    Args:
        reference: float32 graph.
        candidate: a graph that computes in float32 on this machine: another export, an 8-bit graph, or the
            twin (:func:`pnseg_export.precision.rounded.rounded`) of one in half precision.
        calls: inputs of both.
        tolerance: a share of a tensor's spread, see :data:`TOLERANCE`.
    """
    errors = tensor_errors(reference, candidate, calls)
    made_from: dict[str, float] = {}
    for node in reference.graph.node:
        before = max((made_from.get(name, 0.0) for name in node.input), default=0.0)
        for name in node.output:
            error = errors.get(name, before)  # a tensor that one graph lacks hands on what it was made from
            made_from[name] = error
            if name in errors and not error <= tolerance:
                return Departure(layer_of(node), node.name, node.op_type, name, error, before)
    return None


def tensor_errors(reference: onnx.ModelProto, candidate: onnx.ModelProto, calls: Sequence[Arrays]) -> dict[str, float]:
    """Tensor → mean absolute difference as a share of its spread, the largest over calls; infinite where not finite."""
    shared = [name for name in _floats(reference) if name in set(_floats(candidate))]
    errors = dict.fromkeys(shared, 0.0)
    with tempfile.TemporaryDirectory() as scratch:
        runs = []
        for index, model in enumerate((reference, candidate)):
            path = Path(scratch) / f"{index}.onnx"
            write_scratch(_exposing(model, shared), path)
            runs.append(open_session(path))
        for call in calls:
            expected, given = (run({name: call[name] for name in _inputs(reference)}) for run in runs)
            for name in shared:
                errors[name] = max(errors[name], _error(expected[name], given[name]))
    return errors


def _error(expected: NDArray[Any], given: NDArray[Any]) -> float:
    if expected.shape != given.shape or not np.isfinite(given).all():
        return float("inf")
    # A tensor that hardly varies, like a head's bias, is measured by its size as well.
    spread = float(expected.std()) + 0.1 * float(np.sqrt(np.square(expected, dtype=np.float64).mean())) or 1.0
    return float(np.abs(given.astype(np.float64) - expected).mean()) / spread


def _inputs(model: onnx.ModelProto) -> list[str]:
    weights = {tensor.name for tensor in model.graph.initializer}
    return [value.name for value in model.graph.input if value.name not in weights]


def _floats(model: onnx.ModelProto) -> list[str]:
    kinds = element_types(model)
    return [name for node in model.graph.node for name in node.output if kinds.get(name) == onnx.TensorProto.FLOAT]


def _exposing(model: onnx.ModelProto, names: Sequence[str]) -> onnx.ModelProto:
    exposed = onnx.ModelProto()
    exposed.CopyFrom(model)
    del exposed.graph.output[:]
    for name in names:
        exposed.graph.output.append(onnx.helper.make_tensor_value_info(name, onnx.TensorProto.FLOAT, None))
    return exposed
