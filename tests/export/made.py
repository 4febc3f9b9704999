"""Small graphs with the parts that matter to precisions and engines, made in a moment."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import onnx
from onnx import TensorProto, helper, numpy_helper

from pnseg_export.files import write_graph
from pnseg_runtime.bundle import GraphFile

INPUTS = {"image": ["batch", 3, 32, 32], "point_coords": ["prompts", 2]}
OUTPUTS = {"votes": ["batch", 8, 32, 32], "tokens": ["prompts", 16]}


def layers(seed: int = 0, gain: float = 1.0) -> onnx.ModelProto:
    """Two convolutions over an image; a norm, an attention and a sine over prompts.

    Args:
        gain: of the first convolution's weights.
    """
    generator = np.random.default_rng(seed)

    def weight(name: str, *shape: int) -> onnx.TensorProto:
        scale = (gain if name == "first.weight" else 1.0) / np.sqrt(np.prod(shape[1:]))
        return numpy_helper.from_array((scale * generator.standard_normal(shape)).astype(np.float32), name)

    weights = [
        weight("first.weight", 8, 3, 3, 3),
        weight("second.weight", 8, 8, 3, 3),
        weight("phase.weight", 2, 8),
        weight("norm.weight", 16),
        weight("norm.bias", 16),
        weight("project.weight", 16, 16),
        weight("out.weight", 16, 16),
    ]
    nodes = [
        helper.make_node("Conv", ["image", "first.weight"], ["c1"], "first/Conv", pads=[1, 1, 1, 1]),
        helper.make_node("Relu", ["c1"], ["r1"], "first/Relu"),
        helper.make_node("Conv", ["r1", "second.weight"], ["votes"], "second/Conv", pads=[1, 1, 1, 1]),
        helper.make_node("MatMul", ["point_coords", "phase.weight"], ["angle"], "phase/MatMul"),
        helper.make_node("Sin", ["angle"], ["sine"], "phase/Sin"),
        helper.make_node("Cos", ["angle"], ["cosine"], "phase/Cos"),
        helper.make_node("Concat", ["sine", "cosine"], ["wave"], "phase/Concat", axis=1),
        helper.make_node("LayerNormalization", ["wave", "norm.weight", "norm.bias"], ["n"], "norm/LayerNormalization"),
        helper.make_node("MatMul", ["n", "project.weight"], ["q"], "project/MatMul"),
        helper.make_node("Softmax", ["q"], ["s"], "project/Softmax", axis=1),
        helper.make_node("MatMul", ["s", "out.weight"], ["tokens"], "out/MatMul"),
    ]

    def values(tensors: dict[str, list[int | str]]) -> list[onnx.ValueInfoProto]:
        return [helper.make_tensor_value_info(name, TensorProto.FLOAT, axes) for name, axes in tensors.items()]

    graph = helper.make_graph(nodes, "made", values(INPUTS), values(OUTPUTS), weights)
    return helper.make_model(graph, opset_imports=[helper.make_opsetid("", 18)], ir_version=10)


def large_before_norm() -> onnx.ModelProto:
    """The same with a norm of values in the thousands behind a product: its squares leave half precision."""
    model = layers()
    nodes = {node.name: node for node in model.graph.node}
    nodes["project/MatMul"].input[0] = "wave"
    nodes["norm/LayerNormalization"].input[0] = "large"
    nodes["project/Softmax"].input[0] = "n"
    scale = helper.make_node("Mul", ["q", "thousand"], ["large"], "scale/Mul")
    order = [
        *list(nodes)[:7],
        "project/MatMul",
        "scale/Mul",
        "norm/LayerNormalization",
        "project/Softmax",
        "out/MatMul",
    ]
    copies = [onnx.NodeProto.FromString((nodes | {scale.name: scale})[name].SerializeToString()) for name in order]
    del model.graph.node[:]
    model.graph.node.extend(copies)
    model.graph.initializer.append(numpy_helper.from_array(np.float32(1000), "thousand"))
    return model


def calls(count: int = 3, seed: int = 0) -> list[dict[str, np.ndarray]]:
    generator = np.random.default_rng(seed)
    return [
        {
            "image": generator.standard_normal((2, 3, 32, 32), np.float32),
            "point_coords": (256 * generator.random((5, 2))).astype(np.float32),
        }
        for _ in range(count)
    ]


def write(model: onnx.ModelProto, path: Path) -> GraphFile:
    return write_graph(model, path, INPUTS, OUTPUTS)
