"""What ONNX Runtime does with 8 bits is what the graph says, whatever the CPU has."""

import numpy as np
import onnx
from onnx import TensorProto, helper, numpy_helper

from pnseg_runtime.sessions.onnxruntime import open_session

DEPTH, WIDTH = 64, 16


def test_sums_of_8_bit_products_do_not_saturate(tmp_path):
    # Without VNNI, pairs of the largest products go beyond 16 bits.
    constants = {
        "one": np.float32(1),
        "zero": np.uint8(0),
        "weight": np.full((DEPTH, WIDTH), 127, np.int8),
        "middle": np.int8(0),
    }
    nodes = [
        helper.make_node("QuantizeLinear", ["x", "one", "zero"], ["q"]),
        helper.make_node("DequantizeLinear", ["q", "one", "zero"], ["activations"]),
        helper.make_node("DequantizeLinear", ["weight", "one", "middle"], ["weights"]),
        helper.make_node("MatMul", ["activations", "weights"], ["y"]),
    ]
    graph = helper.make_graph(
        nodes,
        "products",
        [helper.make_tensor_value_info("x", TensorProto.FLOAT, [16, DEPTH])],
        [helper.make_tensor_value_info("y", TensorProto.FLOAT, [16, WIDTH])],
        [numpy_helper.from_array(np.asarray(value), name) for name, value in constants.items()],
    )
    onnx.save(helper.make_model(graph, opset_imports=[helper.make_opsetid("", 18)], ir_version=10), tmp_path / "g.onnx")
    found = open_session(tmp_path / "g.onnx")({"x": np.full((16, DEPTH), 255, np.float32)})["y"]
    assert np.array_equal(found, np.full((16, WIDTH), 255 * 127 * DEPTH, np.float32))
