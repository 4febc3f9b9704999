"""A half-precision graph's numbers on a CPU that computes in float32.

ONNX Runtime's CPU kernels for most operators are float32. It puts casts around them and then takes out
each pair of casts between two of them, so that half-precision values are never rounded on the way and
never overflow. A graph is judged by its twin here instead: float32 operators, and behind each that is in
half precision a cast to half and back, which ONNX Runtime leaves alone because it changes values.
Sums inside an operator are float32, as in the products of tensor cores.
"""

from __future__ import annotations

import tempfile
from pathlib import Path
from typing import get_args

import numpy as np
import onnx
from onnx import TensorProto, numpy_helper

from pnseg_export.files import element_types, read_graph, write_scratch
from pnseg_runtime.bundle import Bundle, GraphName
from pnseg_runtime.sessions import Runner, Sessions
from pnseg_runtime.sessions.onnxruntime import open_session

FLOAT, HALF = TensorProto.FLOAT, TensorProto.FLOAT16


def rounded(model: onnx.ModelProto) -> onnx.ModelProto:
    """The float32 twin of a half-precision graph, with the same names of tensors."""
    halves = {name for name, kind in element_types(model).items() if kind == HALF}
    twin = onnx.ModelProto()
    twin.CopyFrom(model)
    halves |= {name for node in twin.graph.node for step in _steps(node, halves)[2:-1] for name in step.output}
    del twin.graph.value_info[:]
    for tensor in twin.graph.initializer:
        if tensor.data_type == HALF:
            tensor.CopyFrom(numpy_helper.from_array(numpy_helper.to_array(tensor).astype(np.float32), tensor.name))
    nodes: list[onnx.NodeProto] = []
    for node in (step for whole in twin.graph.node for step in _steps(whole, halves)):
        if node.op_type == "Cast":
            for attribute in node.attribute:
                if attribute.name == "to" and attribute.i == HALF:
                    attribute.i = FLOAT
        made = [name for name in node.output if name in halves]
        for index, name in enumerate(node.output):
            if name in halves:
                node.output[index] = f"{name}.exact"
        nodes.append(node)
        for name in made:
            nodes.append(onnx.helper.make_node("Cast", [f"{name}.exact"], [f"{name}.rounded"], to=HALF))
            nodes.append(onnx.helper.make_node("Cast", [f"{name}.rounded"], [name], to=FLOAT))
    copies = [onnx.NodeProto.FromString(node.SerializeToString()) for node in nodes]
    del twin.graph.node[:]
    twin.graph.node.extend(copies)
    return twin


def _steps(node: onnx.NodeProto, halves: set[str]) -> list[onnx.NodeProto]:
    # A norm in half precision squares and sums in half precision: its steps, each of which is rounded.
    if node.op_type != "LayerNormalization" or node.output[0] not in halves:
        return [node]
    epsilon = next((attribute.f for attribute in node.attribute if attribute.name == "epsilon"), 1e-5)
    x, scale, *bias = node.input
    own, out = f"{node.output[0]}.norm", node.output[0]
    make = onnx.helper.make_node
    eps = onnx.helper.make_tensor("value", FLOAT, [], [epsilon])
    steps = [
        make("Constant", [], [f"{own}.axis"], value=onnx.helper.make_tensor("value", TensorProto.INT64, [1], [-1])),
        make("Constant", [], [f"{own}.epsilon"], value=eps),
        make("ReduceMean", [x, f"{own}.axis"], [f"{own}.mean"]),
        make("Sub", [x, f"{own}.mean"], [f"{own}.centred"]),
        make("Mul", [f"{own}.centred", f"{own}.centred"], [f"{own}.square"]),
        make("ReduceMean", [f"{own}.square", f"{own}.axis"], [f"{own}.variance"]),
        make("Add", [f"{own}.variance", f"{own}.epsilon"], [f"{own}.raised"]),
        make("Sqrt", [f"{own}.raised"], [f"{own}.deviation"]),
        make("Div", [f"{own}.centred", f"{own}.deviation"], [f"{own}.unit"]),
        make("Mul", [f"{own}.unit", scale], [f"{own}.scaled"] if bias else [out]),
    ]
    return [*steps, make("Add", [f"{own}.scaled", bias[0]], [out])] if bias else steps


def rounded_sessions(bundle: Bundle, threads: int | None = None) -> Sessions:
    """The bundle's half-precision networks as they compute where half precision is real."""
    runners: dict[str, Runner] = {}
    with tempfile.TemporaryDirectory() as scratch:
        for name in get_args(GraphName):
            path = Path(scratch) / f"{name}.onnx"
            write_scratch(rounded(read_graph(bundle.path(name, "float16"))), path)
            runners[name] = open_session(path, threads)
    reason = "half precision is rounded as on a GPU"
    return Sessions(runners["prompter"], runners["encoder"], runners["decoder"], precision="float16", reason=reason)
