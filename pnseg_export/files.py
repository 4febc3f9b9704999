"""Graphs on disk: one file, or two where the weights are larger than protobuf allows."""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping
from pathlib import Path

import onnx
from onnx.external_data_helper import convert_model_to_external_data

from pnseg_export.graphs.axes import Tensors
from pnseg_runtime.bundle import GraphFile, Precision, file_entry

#: Weights above this many bytes go into a file of their own; a protobuf message ends at 2 GiB.
LARGEST = 1 << 30
#: Tensors below this many bytes stay in the graph: engines read shapes and the like from there.
SMALLEST = 1 << 10


def write_graph(
    model: onnx.ModelProto,
    path: Path,
    inputs: Tensors,
    outputs: Tensors,
    precision: Precision = "float32",
    kept: Mapping[str, str] | None = None,
) -> GraphFile:
    """Check a graph and write it; the same graph gives the same bytes.

    Args:
        model: the graph; where its weights are too large for one file, they are moved out of it.
        path: the ``.onnx`` file; weights go beside it, into ``….onnx.data``.
        inputs: names and axes.
        outputs: names and axes.
        precision: of most of its arithmetic.
        kept: layer → why it computes in float32.

    Returns:
        the graph's entry for a manifest.
    """
    census = tensor_census(model)
    data = path.with_name(f"{path.name}.data")
    for old in (path, data):
        old.unlink(missing_ok=True)
    if _weight(model) > LARGEST:
        convert_model_to_external_data(model, location=data.name, size_threshold=SMALLEST)
        onnx.external_data_helper.write_external_data_tensors(model, str(path.parent))
    path.write_bytes(model.SerializeToString(deterministic=True))
    onnx.checker.check_model(str(path), full_check=True)
    return GraphFile(
        **file_entry(path, path.parent).model_dump(),
        precision=precision,
        inputs=inputs,
        outputs=outputs,
        data=[file_entry(data, path.parent)] if data.exists() else [],
        census=census,
        kept=dict(kept or {}),
    )


def read_graph(path: Path, weights: bool = True) -> onnx.ModelProto:
    """Read a graph with its weights, or without those that are in a file of their own."""
    return onnx.load(path, load_external_data=weights)


def write_scratch(model: onnx.ModelProto, path: Path) -> None:
    """Write a graph that is needed for a moment only; weights too large for one file go beside it."""
    data = path.with_name(f"{path.name}.data")
    data.unlink(missing_ok=True)
    onnx.save(model, path, save_as_external_data=_weight(model) > LARGEST, location=data.name)


def tensor_census(model: onnx.ModelProto) -> dict[str, int]:
    """Element type → number of tensors in a graph: inputs, weights and what nodes give out."""
    try:
        kinds = element_types(model)
    except onnx.shape_inference.InferenceError:
        kinds = _told_types(model)
    kinds |= {tensor.name: tensor.data_type for tensor in model.graph.initializer}
    names = {name: onnx.TensorProto.DataType.Name(kind).lower() for name, kind in kinds.items()}
    return dict(sorted(Counter(names.values()).items()))


def element_types(model: onnx.ModelProto) -> dict[str, int]:
    """Tensor → its ONNX element type, as far as it can be inferred: inputs, outputs and what nodes give out."""
    return _told_types(inferred(model))


def inferred(model: onnx.ModelProto) -> onnx.ModelProto:
    """A copy without large weights in which types and shapes stand for all tensors that tell theirs.

    Raises:
        onnx.shape_inference.InferenceError: they contradict each other.
    """
    return onnx.shape_inference.infer_shapes(without_weights(model), data_prop=True)


def _told_types(model: onnx.ModelProto) -> dict[str, int]:
    graph = model.graph
    return {value.name: value.type.tensor_type.elem_type for value in (*graph.value_info, *graph.input, *graph.output)}


def without_weights(model: onnx.ModelProto) -> onnx.ModelProto:
    """A copy in which large weights have their shape and type and no values."""
    copy = onnx.ModelProto()
    copy.ir_version = model.ir_version
    copy.opset_import.extend(model.opset_import)
    graph = copy.graph
    graph.name = model.graph.name
    for field in ("node", "input", "output", "value_info"):
        getattr(graph, field).extend(getattr(model.graph, field))
    for tensor in model.graph.initializer:
        if len(tensor.raw_data) < SMALLEST and not tensor.external_data:
            graph.initializer.append(tensor)
        else:
            graph.input.append(onnx.helper.make_tensor_value_info(tensor.name, tensor.data_type, tensor.dims))
    return copy


def _weight(model: onnx.ModelProto) -> int:
    return sum(len(tensor.raw_data) for tensor in model.graph.initializer)
