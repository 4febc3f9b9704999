"""What a graph costs, counted from its ONNX file: multiply-accumulates, parameters, memory.

Multiply-accumulates are those of matrix products and convolutions, the two products of attention
included, as in the paper's Table 5; norms, softmax, activations, interpolation and sampling are not
counted. :func:`torch_macs` counts the same of a PyTorch module, by PyTorch's own counter.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path

import onnx
from google.protobuf.message import DecodeError
from torch import Tensor, nn
from torch.utils.flop_counter import FlopCounterMode

from pnseg_export.files import read_graph
from pnseg_export.shapes import bytes_of, shape_of, tensor_types
from pnseg_runtime.errors import PnsegError

Shape = tuple[int, ...]
Shapes = Mapping[str, Shape]


@dataclass(frozen=True)
class Cost:
    """Cost of one run of a graph.

    Attributes:
        macs: multiply-accumulates.
        parameters: elements of all weights and tables.
        weight_bytes: memory of these.
        activation_bytes: most memory that tensors need at one moment, when each is let go of after
            its last use and none is computed in place.
    """

    macs: int
    parameters: int
    weight_bytes: int
    activation_bytes: int


def graph_cost(model: onnx.ModelProto, sizes: Mapping[str, int]) -> Cost:
    """Cost of a graph when its dynamic axes have the given sizes.

    Args:
        model: float graph; weights need not be loaded.
        sizes: name of a dynamic axis → its size, e.g. ``{"batch": 1, "prompts": 24, "points": 2}``.

    Raises:
        PnsegError: a dynamic axis without a size, or a shape that depends on data.
    """
    types = tensor_types(model, sizes)
    weights = [types.pop(tensor.name) for tensor in model.graph.initializer]
    shapes = {name: shape_of(kind) for name, kind in types.items()}
    shapes |= {tensor.name: tuple(tensor.dims) for tensor in model.graph.initializer}
    return Cost(
        macs=sum(node_macs(node, shapes) for node in model.graph.node),
        parameters=sum(math.prod(shape_of(kind)) for kind in weights),
        weight_bytes=sum(bytes_of(kind) for kind in weights),
        activation_bytes=_peak(model.graph, {name: bytes_of(kind) for name, kind in types.items()}),
    )


def file_cost(path: Path, sizes: Mapping[str, int]) -> Cost:
    """:func:`graph_cost` of a file.

    Raises:
        PnsegError: not an ONNX file; or see :func:`graph_cost`.
    """
    try:
        model = read_graph(path, weights=False)
    except (OSError, DecodeError) as error:
        raise PnsegError(f"{path}: cannot be read as an ONNX file ({error}); export the bundle again.") from error
    return graph_cost(model, sizes)


def node_macs(node: onnx.NodeProto, shapes: Shapes) -> int:
    """Multiply-accumulates of one node; 0 for operators that are not counted."""
    count = COUNTED.get(node.op_type)
    return 0 if count is None else count(node, shapes)


def _matmul(node: onnx.NodeProto, shapes: Shapes) -> int:
    return math.prod(shapes[node.output[0]]) * shapes[node.input[0]][-1]


def _gemm(node: onnx.NodeProto, shapes: Shapes) -> int:
    transposed = any(a.name == "transA" and a.i for a in node.attribute)
    return math.prod(shapes[node.output[0]]) * shapes[node.input[0]][0 if transposed else 1]


def _conv(node: onnx.NodeProto, shapes: Shapes) -> int:
    # A weight is (outputs, inputs a group, kernel…): every output value sums over the last part.
    return math.prod(shapes[node.output[0]]) * math.prod(shapes[node.input[1]][1:])


def _conv_transpose(node: onnx.NodeProto, shapes: Shapes) -> int:
    # A weight is (inputs, outputs a group, kernel…): every input value is spread over the last part.
    return math.prod(shapes[node.input[0]]) * math.prod(shapes[node.input[1]][1:])


def _einsum(node: onnx.NodeProto, shapes: Shapes) -> int:
    equation = next(a.s.decode() for a in node.attribute if a.name == "equation").replace(" ", "")
    operands = equation.partition("->")[0].split(",")
    sizes = {
        letter: size
        for letters, name in zip(operands, node.input, strict=True)
        for letter, size in zip(letters, shapes[name], strict=True)
    }
    return math.prod(sizes.values()) if len(operands) > 1 else 0


COUNTED: dict[str, Callable[[onnx.NodeProto, Shapes], int]] = {
    "MatMul": _matmul,
    "Gemm": _gemm,
    "Conv": _conv,
    "ConvTranspose": _conv_transpose,
    "Einsum": _einsum,
}


def _peak(graph: onnx.GraphProto, sizes: Mapping[str, int]) -> int:
    last = {name: index for index, node in enumerate(graph.node) for name in node.input}
    last |= {value.name: len(graph.node) for value in graph.output}
    live = sum(sizes.get(value.name, 0) for value in graph.input)
    peak = live
    for index, node in enumerate(graph.node):
        live += sum(sizes.get(name, 0) for name in node.output)
        peak = max(peak, live)
        live -= sum(sizes.get(name, 0) for name in {*node.input, *node.output} if last.get(name, index) == index)
    return peak


def torch_macs(module: nn.Module, *inputs: Tensor) -> int:
    """Multiply-accumulates of one call, by :class:`torch.utils.flop_counter.FlopCounterMode`.

    Weights and inputs may be on PyTorch's device ``meta``, so that nothing is computed.
    """
    with FlopCounterMode(display=False) as counter:
        module(*inputs)
    return int(counter.get_total_flops()) // 2
