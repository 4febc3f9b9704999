"""The least time that this CPU could take for an image: the work of its networks at the rate of one large product.

What is counted are the multiply-accumulates of the calls that a prediction really makes, of graphs without what
nobody reads. The rate is that of a large square product of matrices in float32; no network is all such products.
8-bit instructions (VNNI) do four multiply-accumulates where float32 does one, those of bfloat16 two.
"""

from __future__ import annotations

from collections.abc import Callable
from time import perf_counter
from typing import Any

import numpy as np
import onnx
import onnxruntime
import torch
from numpy.typing import NDArray
from onnx import TensorProto, helper

from pnseg_export.macs import graph_cost
from pnseg_runtime.bundle import PROMPT_INPUTS, Bundle, GraphName
from pnseg_runtime.sessions import Runner, Sessions
from pnseg_runtime.sessions.prune import pruned

#: Multiply-accumulates of a precision where float32 does one.
SPEEDUP = {"float32": 1, "bfloat16": 2, "int8": 4}
SIDE = 2048
# A dynamic axis → the input that has it, and which of its axes it is.
AXES = {
    "batch": ("image", 0),
    "height": ("image", 2),
    "width": ("image", 3),
    "prompts": ("point_coords", 0),
    "points": ("point_coords", 1),
}


def macs_of_calls(
    bundle: Bundle, sessions: Sessions, unread: frozenset[str], call: Callable[[Sessions], object]
) -> int:
    """Multiply-accumulates of all that ``call`` asks of the networks.

    Args:
        bundle: whose float32 graphs are counted.
        sessions: its networks, in any precision.
        unread: outputs that nobody reads.
        call: predicts with the sessions that it is given.
    """
    asked: dict[tuple[GraphName, tuple[tuple[str, int], ...]], int] = {}

    def counting(graph: GraphName, runner: Runner) -> Runner:
        def run(inputs: dict[str, NDArray[Any]]) -> dict[str, NDArray[Any]]:
            sizes = tuple((axis, inputs[name].shape[at]) for axis, (name, at) in AXES.items() if name in inputs)
            if graph == "decoder":
                features = next(array for name, array in inputs.items() if name not in PROMPT_INPUTS)
                sizes = (*sizes, ("batch", len(features)))
            asked[graph, sizes] = asked.get((graph, sizes), 0) + 1
            return runner(inputs)

        return run

    call(
        Sessions(
            prompter=counting("prompter", sessions.prompter),
            encoder=counting("encoder", sessions.encoder),
            decoder=counting("decoder", sessions.decoder),
        )
    )
    models = {
        graph: onnx.load_from_string(pruned(bundle.path(graph).read_bytes(), unread))
        for graph in bundle.manifest.graphs
    }
    return sum(times * graph_cost(models[graph], dict(sizes)).macs for (graph, sizes), times in asked.items())


def macs_a_second(threads: int, tries: int = 5) -> float:
    """Float32 multiply-accumulates a second of a product of two (2048, 2048) matrices, the faster of two libraries."""
    torch.set_num_threads(threads)
    generator = np.random.default_rng(0)
    first, second = (generator.standard_normal((SIDE, SIDE), np.float32) for _ in range(2))
    tensors = torch.from_numpy(first), torch.from_numpy(second)
    session = _product(threads)
    products: list[Callable[[], object]] = [
        lambda: tensors[0] @ tensors[1],
        lambda: session.run(None, {"first": first, "second": second}),
    ]
    taken = []
    for _ in range(tries):
        for product in products:
            started = perf_counter()
            product()
            taken.append(perf_counter() - started)
    return SIDE**3 / min(taken)


def _product(threads: int) -> onnxruntime.InferenceSession:
    matrices = [
        helper.make_tensor_value_info(name, TensorProto.FLOAT, [SIDE, SIDE]) for name in ("first", "second", "product")
    ]
    node = helper.make_node("MatMul", ["first", "second"], ["product"])
    graph = helper.make_graph([node], "product", matrices[:2], matrices[2:])
    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = threads
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 18)], ir_version=9)
    return onnxruntime.InferenceSession(model.SerializeToString(), options, ["CPUExecutionProvider"])
