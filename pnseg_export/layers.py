"""Names of a graph's layers: the modules that its nodes come from."""

from __future__ import annotations

import ast
from collections import Counter

import onnx

SCOPES = "pkg.torch.onnx.name_scopes"  # where PyTorch's exporter notes the modules around a node
WEIGHT = ".weight"


def name_nodes(model: onnx.ModelProto) -> None:
    """Name every node after its layer and operator, e.g. ``blocks.3.mlp.lin1/MatMul``.

    The exporter's own names are numbers that change with every rewrite. Call this while the
    exporter's notes are still on the nodes.
    """
    weights = {tensor.name for tensor in model.graph.initializer if tensor.name.endswith(WEIGHT)}
    seen: Counter[str] = Counter()
    for node in model.graph.node:
        layer = _layer(node, weights)
        name = f"{layer}/{node.op_type}" if layer else node.op_type
        seen[name] += 1
        node.name = name if seen[name] == 1 else f"{name}_{seen[name]}"


def layer_of(node: onnx.NodeProto) -> str:
    """The layer that a node named by :func:`name_nodes` belongs to."""
    return str(node.name).rpartition("/")[0] or str(node.name)


def _layer(node: onnx.NodeProto, weights: set[str]) -> str:
    for name in node.input:
        if name in weights:  # a norm that was folded into a convolution must not name it
            return str(name).removesuffix(WEIGHT)
    noted = next((entry.value for entry in node.metadata_props if entry.key == SCOPES), "[]")
    scopes: list[str] = ast.literal_eval(noted)
    return scopes[-2] if len(scopes) > 1 else ""
