"""Shapes of all tensors of a graph whose dynamic axes have been given sizes.

ONNX's own inference follows shape arithmetic only in part; here a graph is walked in order, and
what depends on nothing but sizes and constants is computed on the way.
"""

from __future__ import annotations

import math
from collections.abc import Mapping

import numpy as np
import onnx
from numpy.typing import NDArray
from onnx import numpy_helper, shape_inference
from onnx.reference import ReferenceEvaluator

from pnseg_runtime.errors import PnsegError

#: Name of a tensor → its type, with a shape of numbers only.
Types = dict[str, onnx.TypeProto]

#: Tensors up to this many elements may steer a shape; larger ones are data.
STEERING = 4096


def shape_of(kind: onnx.TypeProto) -> tuple[int, ...]:
    """A tensor type's shape."""
    return tuple(dim.dim_value for dim in kind.tensor_type.shape.dim)


def bytes_of(kind: onnx.TypeProto) -> int:
    """A tensor type's size in memory."""
    itemsize = np.dtype(onnx.helper.tensor_dtype_to_np_dtype(kind.tensor_type.elem_type)).itemsize
    return math.prod(shape_of(kind)) * int(itemsize)


def tensor_types(model: onnx.ModelProto, sizes: Mapping[str, int]) -> Types:
    """The type of every tensor of a graph.

    Args:
        model: the graph; its nodes are in order, as ONNX demands.
        sizes: name of a dynamic axis of the inputs → its size.

    Raises:
        PnsegError: an axis without a size, or a shape that depends on data.
    """
    types, values = _initial(model.graph)
    for value in model.graph.input:
        types[value.name] = _sized(value, sizes)
    opsets = list(model.opset_import)
    for node in model.graph.node:
        if node.op_type == "Shape":
            ends = {attribute.name: attribute.i for attribute in node.attribute}
            shape = shape_of(types[node.input[0]])[ends.get("start") : ends.get("end")]
            values[node.output[0]] = np.array(shape, np.int64)
        elif all(name in values for name in node.input if name):
            values |= _computed(node, values, opsets)
        for name in node.output:
            if name in values:
                types[name] = _type_of(numpy_helper.from_array(values[name]))
        if not all(name in types for name in node.output):
            types |= _inferred(node, types, values, opsets)
    return types


def _initial(graph: onnx.GraphProto) -> tuple[Types, dict[str, NDArray[np.generic]]]:
    types = {tensor.name: _type_of(tensor) for tensor in graph.initializer}
    # What steers shapes is in the graph itself; weights in a file of their own are not read.
    small = (tensor for tensor in graph.initializer if math.prod(tensor.dims) <= STEERING and not tensor.external_data)
    return types, {tensor.name: numpy_helper.to_array(tensor) for tensor in small}


def _sized(value: onnx.ValueInfoProto, sizes: Mapping[str, int]) -> onnx.TypeProto:
    tensor, shape = value.type.tensor_type, []
    for dim in tensor.shape.dim:
        if dim.dim_param and dim.dim_param not in sizes:
            raise PnsegError(f"{value.name}: give its axis {dim.dim_param} a size.")
        shape.append(sizes[dim.dim_param] if dim.dim_param else dim.dim_value)
    return onnx.helper.make_tensor_type_proto(tensor.elem_type, shape)


def _type_of(tensor: onnx.TensorProto) -> onnx.TypeProto:
    return onnx.helper.make_tensor_type_proto(tensor.data_type, list(tensor.dims))


def _computed(
    node: onnx.NodeProto, values: Mapping[str, NDArray[np.generic]], opsets: list[onnx.OperatorSetIdProto]
) -> dict[str, NDArray[np.generic]]:
    known = {name: values[name] for name in node.input if name}
    inputs = [
        onnx.helper.make_tensor_value_info(name, onnx.helper.np_dtype_to_tensor_dtype(array.dtype), array.shape)
        for name, array in known.items()
    ]
    outputs = [onnx.helper.make_empty_tensor_value_info(name) for name in node.output]
    model = onnx.helper.make_model(onnx.helper.make_graph([node], "node", inputs, outputs), opset_imports=opsets)
    arrays = ReferenceEvaluator(model).run(None, known)
    return dict(zip(node.output, (np.asarray(array) for array in arrays), strict=True))


def _inferred(
    node: onnx.NodeProto,
    types: Types,
    values: Mapping[str, NDArray[np.generic]],
    opsets: list[onnx.OperatorSetIdProto],
) -> Types:
    version = next(opset.version for opset in opsets if opset.domain == node.domain)
    found: Types = shape_inference.infer_node_outputs(
        onnx.defs.get_schema(node.op_type, version, node.domain),
        node,
        {name: types[name] for name in node.input if name},
        {name: numpy_helper.from_array(values[name], name) for name in node.input if name in values},
        opset_imports=opsets,
    )
    for name in node.output:
        shape = found[name].tensor_type.shape if name in found else None
        if shape is None or not all(dim.HasField("dim_value") for dim in shape.dim):
            raise PnsegError(f"{name}: its shape depends on data ({node.op_type}).")
    return found
