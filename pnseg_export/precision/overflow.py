"""How large a graph's values become: the largest absolute value of every tensor over real inputs."""

from __future__ import annotations

import tempfile
from collections.abc import Sequence
from pathlib import Path

import onnx

from pnseg_export.files import element_types, read_graph, write_scratch
from pnseg_export.precision.feeds import Arrays
from pnseg_runtime.sessions.onnxruntime import open_session

#: Half precision ends here.
LARGEST_HALF = 65504.0


def peaks(path: Path, calls: Sequence[Arrays]) -> dict[str, float]:
    """Largest absolute value of every float tensor that a node of the graph in ``path`` gives out.

    The graph gets two reductions a tensor, so that no tensor itself is kept.
    """
    model = read_graph(path)
    known, float_ = element_types(model), onnx.TensorProto.FLOAT
    names = [name for node in model.graph.node for name in node.output if known.get(name) == float_]
    del model.graph.output[:]
    for name in names:
        for operator in ("ReduceMax", "ReduceMin"):
            output = f"{operator}/{name}"
            model.graph.node.append(onnx.helper.make_node(operator, [name], [output], keepdims=0))
            model.graph.output.append(onnx.helper.make_tensor_value_info(output, float_, []))
    found = dict.fromkeys(names, 0.0)
    with tempfile.TemporaryDirectory() as scratch:
        write_scratch(model, Path(scratch) / "peaks.onnx")
        run = open_session(Path(scratch) / "peaks.onnx")
        for call in calls:
            for output, value in run(call).items():
                name = output.partition("/")[2]
                found[name] = max(found[name], abs(float(value)))
    return found
