"""A torch module becomes an ONNX file."""

from __future__ import annotations

import logging
import warnings
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any, Protocol, cast

import onnx
import torch
from onnxscript import opset18 as op
from torch import Tensor, nn

from pnseg_export.files import write_graph
from pnseg_export.graphs.axes import Tensors, dynamic_shapes
from pnseg_export.layers import name_nodes
from pnseg_export.simplify import simplify
from pnseg_runtime.bundle import GraphFile

# GridSample gives wrong results in TensorRT from opset 20 on.
OPSET = 18


def gelu(x: Any, approximate: str = "none") -> Any:
    """GELU by the error function, its factors in the order that engines fuse into one kernel.

    Raises:
        ValueError: an approximated GELU, which none of the networks has.
    """
    if approximate != "none":
        raise ValueError(f"GELU is to be exported by the error function, but is approximated by {approximate}.")
    constants: list[Any] = [op.Constant(value_float=value) for value in (2.0**0.5, 1.0, 0.5)]
    root, one, half = (op.CastLike(constant, x) for constant in constants)
    return op.Mul(op.Mul(x, op.Add(op.Erf(op.Div(x, root)), one)), half)


# What the exporter's own translation would write in another form.
TRANSLATIONS: dict[Callable[..., Any], Callable[..., Any]] = {torch.ops.aten.gelu.default: gelu}


class Graph(Protocol):
    """A module that names its tensors and their axes."""

    inputs: Tensors
    outputs: Tensors


def export_graph(graph: Graph, example: Sequence[Tensor], path: Path) -> GraphFile:
    """Export ``graph`` and check the file.

    Args:
        example: one tensor an input; no dynamic axis may be 1.
        path: the ``.onnx`` file to write.

    Returns:
        the file's entry for a manifest.
    """
    module = cast(nn.Module, graph).eval()
    shapes = dynamic_shapes(graph.inputs)
    with warnings.catch_warnings(), torch.no_grad(), _out_of_place(module):
        warnings.simplefilter("ignore")
        logging.getLogger("torch.onnx").setLevel(logging.ERROR)
        program = torch.onnx.export(
            module,
            tuple(example),
            input_names=list(graph.inputs),
            output_names=list(graph.outputs),
            dynamic_shapes=(shapes,) if _variadic(module) else shapes,
            opset_version=OPSET,
            custom_translation_table=TRANSLATIONS,
            dynamo=True,
            external_data=False,
            optimize=False,
            verbose=False,
        )
    assert program is not None  # None is what the exporter gives when it writes the file itself
    simplify(program.model)
    model = program.model_proto
    name_nodes(model)
    _strip_notes(model)
    for values, tensors in ((model.graph.input, graph.inputs), (model.graph.output, graph.outputs)):
        for value in values:
            _name_axes(value, tensors[value.name])
    return write_graph(model, path, graph.inputs, graph.outputs)


@contextmanager
def _out_of_place(module: nn.Module) -> Iterator[None]:
    """Let activations write to new memory: the graph is the same, and exporting nano takes three quarters of the time.

    The exporter has no translation for in-place forms; it takes them apart and reasons about every size on the way.
    """
    in_place: list[Any] = [part for part in module.modules() if getattr(part, "inplace", False) is True]
    for part in in_place:
        part.inplace = False
    try:
        yield
    finally:
        for part in in_place:
            part.inplace = True


def _name_axes(value: onnx.ValueInfoProto, axes: list[int | str]) -> None:
    # Give dynamic axes our names; a static axis must be the one that was declared.
    for dim, axis in zip(value.type.tensor_type.shape.dim, axes, strict=True):
        if isinstance(axis, str):
            if not dim.dim_param:
                raise ValueError(f"{value.name}: axis {axis} was exported with the fixed size {dim.dim_value}.")
            dim.dim_param = axis
        elif dim.dim_value != axis:
            raise ValueError(
                f"{value.name}: exported with an axis of {dim.dim_param or dim.dim_value} where {axis} was declared."
            )


def _variadic(module: nn.Module) -> bool:
    code = type(module).forward.__code__
    return bool(code.co_flags & 0x04)  # inspect.CO_VARARGS


def _strip_notes(model: onnx.ModelProto) -> None:
    # The exporter notes source lines and stack traces on every node: dead weight, and paths of the machine.
    del model.metadata_props[:]
    del model.graph.metadata_props[:]
    for node in model.graph.node:
        del node.metadata_props[:]
        node.doc_string = ""
    for value in (*model.graph.value_info, *model.graph.input, *model.graph.output, *model.graph.initializer):
        del value.metadata_props[:]
        value.doc_string = ""
