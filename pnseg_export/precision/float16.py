"""A float32 graph becomes a strongly typed half-precision one: every tensor's type stands in the graph.

Inputs and outputs stay float32. Products and convolutions compute in half precision, and what lies
between them follows, but for

* operators whose sums or exponents need float32 (:data:`FLOAT_OPERATORS`): norms, softmax, sampling;
* coordinates: all that comes from point prompts or anchors up to the next product, and all that
  leads to a graph's outputs, to places of sampling, or into a sine behind the last one. Half precision
  has steps of 0.125 px from 128 px on;
* products that scale coordinates into phases, and nano's vote product, whose terms cancel;
* layers whose values came near the largest half-precision number on real or extreme tiles.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import get_args

import numpy as np
import onnx
from onnx import TensorProto, numpy_helper

from pnseg_export.files import element_types, read_graph, write_graph
from pnseg_export.layers import layer_of
from pnseg_export.precision.feeds import Feeds, record, stress_tiles
from pnseg_export.precision.int8 import phases
from pnseg_export.precision.overflow import LARGEST_HALF, peaks
from pnseg_runtime.bundle import Bundle, GraphFile, GraphName

FLOAT, HALF = TensorProto.FLOAT, TensorProto.FLOAT16

#: Operators that compute in half precision if nothing speaks against it.
PRODUCTS = {"Conv", "ConvTranspose", "Gemm", "MatMul"}

#: Operator → why it computes in float32.
FLOAT_OPERATORS = {
    "LayerNormalization": "its statistics sum many squares",
    "InstanceNormalization": "its statistics sum many squares",
    "Softmax": "its sum of exponentials loses small weights",
    "Exp": "half precision ends at exp(11.1)",
    "Log": "it undoes an exponential",
    "Sin": "its argument is a coordinate",
    "Cos": "its argument is a coordinate",
    "GridSample": "its places are coordinates",
    "ReduceSum": "it adds up many values",
    "ReduceMean": "it adds up many values",
    "Pow": "squares leave the range of half precision first",
    "Sigmoid": "it leads to a sum over a mask",
}

#: Inputs of these names are coordinates, or differ by little where it matters.
PRECISE_INPUTS = {"point_coords", "point_labels", "votes", "vote_features"}
CANCELS = "its terms are many times larger than their sum"

#: A layer computes in float32 when its values come closer to the largest half than this factor.
MARGIN = 4.0

#: Inputs of an operator that are float32 by its definition.
OWN_FLOATS = {"Resize": {1, 2}}


def halve(model: onnx.ModelProto, pinned: Mapping[str, str] | None = None) -> tuple[onnx.ModelProto, dict[str, str]]:
    """A half-precision copy of a float32 graph, and what of it stayed in float32.

    Args:
        model: with weights; stays as it is.
        pinned: names of nodes that must compute in float32 → the reason.

    Returns:
        the copy, and layer or operator → why it computes in float32.
    """
    graph = model.graph
    floats = _float_tensors(model)
    kept = {**phases(model), **_cancelling(model), **(pinned or {})}
    single = _single_nodes(graph, floats, set(kept))
    copy = onnx.ModelProto()
    copy.CopyFrom(model)
    _retype(copy.graph, floats, single)
    del copy.graph.value_info[:]
    operators = Counter(node.op_type for node in graph.node)
    reasons = {f"every {name}": reason for name, reason in FLOAT_OPERATORS.items() if operators[name]}
    if any(node.op_type == "Resize" and _interpolates(node) for node in graph.node):
        reasons["every bilinear Resize"] = "it leads to masks, whose border is where logits are small"
    names = {node.name: node for node in graph.node}
    return copy, reasons | {layer_of(names[name]): reason for name, reason in kept.items()}


def halve_graphs(
    bundle: Bundle, folder: Path, feeds: Feeds, advance: Callable[[str, int, int], None] = lambda *_: None
) -> tuple[dict[GraphName, GraphFile], dict[str, dict[str, float]]]:
    """Write ``….float16.onnx`` of the three graphs into ``folder``.

    Args:
        bundle: with float32 graphs.
        folder: where to.
        feeds: real inputs of the graphs; extreme tiles are added to them.
        advance: called with (graph, 1, 1) behind every graph.

    Returns:
        the graphs' entries, and for each graph the layers with the largest values and these.
    """
    extreme = record(bundle, stress_tiles(bundle.manifest.masking.window))
    made: dict[GraphName, GraphFile] = {}
    highest: dict[str, dict[str, float]] = {}
    for name in get_args(GraphName):
        path, entry = bundle.path(name), bundle.graph(name)
        largest = peaks(path, [*feeds.of(name), *extreme.of(name)])
        model = read_graph(path)
        half, kept = halve(model, near_overflow(model, largest))
        made[name] = write_graph(half, folder / f"{name}.float16.onnx", entry.inputs, entry.outputs, "float16", kept)
        highest[name] = _highest_layers(model, largest)
        advance(name, 1, 1)
    return made, highest


def _highest_layers(model: onnx.ModelProto, largest: Mapping[str, float], count: int = 3) -> dict[str, float]:
    layers: dict[str, float] = {}
    for node in model.graph.node:
        value = max((largest.get(name, 0.0) for name in node.output), default=0.0)
        layers[layer_of(node)] = max(layers.get(layer_of(node), 0.0), round(value, 3))
    return dict(sorted(layers.items(), key=lambda item: -item[1])[:count])


def near_overflow(model: onnx.ModelProto, largest: Mapping[str, float]) -> dict[str, str]:
    """Nodes that read or give out values near the largest half-precision number → how large.

    Args:
        model: float32 graph.
        largest: tensor → largest absolute value that was seen.
    """
    weights = (tensor for tensor in model.graph.initializer if tensor.data_type == FLOAT)
    seen = {tensor.name: float(np.abs(numpy_helper.to_array(tensor)).max(initial=0.0)) for tensor in weights}
    seen |= largest
    found = {}
    for node in model.graph.node:
        value = max((seen.get(name, 0.0) for name in (*node.input, *node.output)), default=0.0)
        if value > LARGEST_HALF / MARGIN:
            found[node.name] = f"its values reach {value:,.0f} where half precision ends at {LARGEST_HALF:,.0f}"
    return found


def _float_tensors(model: onnx.ModelProto) -> set[str]:
    found = {name for name, kind in element_types(model).items() if kind == FLOAT}
    return found | {tensor.name for tensor in model.graph.initializer if tensor.data_type == FLOAT}


def _cancelling(model: onnx.ModelProto) -> dict[str, str]:
    # nano's vote product, found by the input that it multiplies.
    tensors, found = {"vote_features"}, {}
    for node in model.graph.node:
        if tensors & set(node.input):
            if node.op_type in PRODUCTS:
                found[node.name] = CANCELS
            elif node.op_type in {"Reshape", "Cast"}:
                tensors |= set(node.output)
    return found


def _interpolates(node: onnx.NodeProto) -> bool:
    mode = next((attribute.s for attribute in node.attribute if attribute.name == "mode"), b"nearest")
    return bool(mode != b"nearest")


def _single_nodes(graph: onnx.GraphProto, floats: set[str], kept: set[str]) -> set[str]:
    """Outputs of the nodes that compute in float32, each node known by its first output."""

    def follows(node: onnx.NodeProto) -> bool:
        return not (
            node.op_type in PRODUCTS
            or node.op_type in FLOAT_OPERATORS
            or (node.op_type == "Resize" and _interpolates(node))
        )

    initial = {tensor.name for tensor in graph.initializer}
    single: set[str] = set()
    precise = set(PRECISE_INPUTS)  # tensors that hold coordinates, forwards from where they come in
    for node in graph.node:
        if not any(name in floats for name in node.output):
            continue
        from_integers = node.op_type == "Cast" or (node.op_type == "Range")
        if follows(node):
            if from_integers or precise & set(node.input) or node.name in kept:
                single.add(node.output[0])
                precise |= set(node.output)
        elif node.op_type not in PRODUCTS or node.name in kept:
            single.add(node.output[0])
            if node.op_type in {"Sin", "Cos"} or node.name in kept:
                precise |= set(node.output)
    wanted = {value.name for value in graph.output}  # backwards from where precision is asked for
    for node in reversed(graph.node):
        if follows(node) and wanted & set(node.output):
            single.add(node.output[0])
            wanted |= {name for name in node.input if name in floats and name not in initial}
        if node.op_type in {"Sin", "Cos", "Exp", "Log", "ReduceSum"}:
            wanted.add(node.input[0])
        elif node.op_type == "GridSample":
            wanted.add(node.input[1])
    return single


def _retype(graph: onnx.GraphProto, floats: set[str], single: set[str]) -> None:
    """Give weights their types, and put casts where a tensor's type is not its reader's."""
    weights = {tensor.name: tensor for tensor in graph.initializer if tensor.data_type == FLOAT}
    kinds = {value.name: FLOAT for value in graph.input}
    wanted_outputs = {value.name for value in graph.output}
    nodes: list[onnx.NodeProto] = []
    casts: dict[tuple[str, int], str] = {}
    made: dict[tuple[str, int], str] = {}
    used: list[onnx.TensorProto] = []

    def read(name: str, kind: int) -> str:
        if name in weights:
            if (name, kind) not in made:
                made[name, kind] = name if (name, HALF + FLOAT - kind) not in made else f"{name}.{_label(kind)}"
                used.append(_as_type(weights[name], kind, made[name, kind]))
            return made[name, kind]
        if kinds.get(name, kind) == kind:
            return name
        if (name, kind) not in casts:
            casts[name, kind] = f"{name}.{_label(kind)}"
            nodes.append(
                onnx.helper.make_node("Cast", [name], [casts[name, kind]], f"{name}/Cast.{_label(kind)}", to=kind)
            )
        return casts[name, kind]

    for node in graph.node:
        kind = FLOAT if node.output[0] in single else HALF
        own = OWN_FLOATS.get(node.op_type, set())
        touches = any(name in floats for name in (*node.input, *node.output))
        if touches:
            for index, name in enumerate(node.input):
                if name in floats:
                    node.input[index] = read(name, FLOAT if index in own else kind)
            if node.op_type == "Cast":
                for attribute in node.attribute:
                    if attribute.name == "to" and attribute.i == FLOAT:
                        attribute.i = kind
        nodes.append(node)
        for index, name in enumerate(node.output):
            if name not in floats:
                continue
            kinds[name] = kind
            if name in wanted_outputs and kind == HALF:
                node.output[index] = f"{name}.half"
                kinds[node.output[index]] = HALF
                kinds[name] = FLOAT
                nodes.append(onnx.helper.make_node("Cast", [node.output[index]], [name], f"{name}/Cast", to=FLOAT))
    others = [tensor for tensor in graph.initializer if tensor.name not in weights]
    copies = [onnx.NodeProto.FromString(node.SerializeToString()) for node in nodes]
    del graph.node[:]
    graph.node.extend(copies)
    del graph.initializer[:]
    graph.initializer.extend([*others, *used])


def _label(kind: int) -> str:
    return "half" if kind == HALF else "single"


def _as_type(tensor: onnx.TensorProto, kind: int, name: str) -> onnx.TensorProto:
    array = numpy_helper.to_array(tensor)
    if kind == HALF:
        with np.errstate(over="raise"):
            array = array.astype(np.float16)
    return numpy_helper.from_array(np.ascontiguousarray(array), name)
