"""What a graph costs is counted from its operators and sizes."""

import json

import numpy as np
import onnx
import pytest
import torch
from click.testing import CliRunner
from onnx import TensorProto, helper
from torch import nn

from benchmarks import macs
from benchmarks.macs import module_macs
from pnseg_export.graphs.rewrites import CPU, PLAIN
from pnseg_export.macs import file_cost, graph_cost, torch_macs
from pnseg_export.shapes import bytes_of
from pnseg_runtime.errors import PnsegError


def graph_of(nodes, inputs, outputs, weights=()):
    graph = helper.make_graph(
        nodes,
        "graph",
        [helper.make_tensor_value_info(name, TensorProto.FLOAT, shape) for name, shape in inputs.items()],
        [helper.make_tensor_value_info(name, TensorProto.FLOAT, None) for name in outputs],
        [onnx.numpy_helper.from_array(array, name) for name, array in dict(weights).items()],
    )
    return helper.make_model(graph, opset_imports=[helper.make_opsetid("", 18)])


def weight(*shape):
    return np.zeros(shape, np.float32)


CASES = {
    "MatMul": (
        [helper.make_node("MatMul", ["x", "w"], ["y"])],
        {"x": ["batch", 5, 7]},
        {"w": weight(7, 11)},
        3 * 5 * 7 * 11,
    ),
    "MatMul of two": (
        [helper.make_node("MatMul", ["x", "z"], ["y"])],
        {"x": ["batch", 2, 5, 7], "z": ["batch", 1, 7, 4]},
        {},
        3 * 2 * 5 * 7 * 4,
    ),
    "Gemm": (
        [helper.make_node("Gemm", ["x", "w"], ["y"], transA=1, transB=1)],
        {"x": [7, "batch"]},
        {"w": weight(11, 7)},
        3 * 7 * 11,
    ),
    "Conv by groups": (
        [helper.make_node("Conv", ["x", "w"], ["y"], group=2, pads=[1, 1, 1, 1], strides=[2, 2])],
        {"x": ["batch", 8, 10, 12]},
        {"w": weight(6, 4, 3, 3)},
        3 * 6 * 5 * 6 * 4 * 9,
    ),
    "ConvTranspose": (
        [helper.make_node("ConvTranspose", ["x", "w"], ["y"], strides=[2, 2])],
        {"x": ["batch", 8, 10, 12]},
        {"w": weight(8, 5, 2, 2)},
        3 * 8 * 10 * 12 * 5 * 4,
    ),
    "Einsum": (
        [helper.make_node("Einsum", ["x", "w"], ["y"], equation="bc,cd->bd")],
        {"x": ["batch", 7]},
        {"w": weight(7, 11)},
        3 * 7 * 11,
    ),
}


@pytest.mark.parametrize("name", CASES)
def test_products_and_convolutions_are_counted(name):
    nodes, inputs, weights, expected = CASES[name]
    cost = graph_cost(graph_of(nodes, inputs, ["y"], weights), {"batch": 3})
    assert cost.macs == expected
    assert cost.parameters == sum(array.size for array in weights.values())
    assert cost.weight_bytes == 4 * cost.parameters


def test_shapes_that_are_computed_from_sizes_are_followed():
    nodes = [
        helper.make_node("Shape", ["x"], ["size"], start=0, end=1),
        helper.make_node("Concat", ["size", "rest"], ["shape"], axis=0),
        helper.make_node("Reshape", ["x", "shape"], ["flat"]),
        helper.make_node("MatMul", ["flat", "w"], ["y"]),
    ]
    weights = {"rest": np.array([-1], np.int64), "w": weight(35, 2)}
    model = graph_of(nodes, {"x": ["batch", 5, 7]}, ["y"], weights)
    assert graph_cost(model, {"batch": 4}).macs == 4 * 35 * 2


def test_shapes_are_followed_through_inputs_that_are_left_out():
    nodes = [
        helper.make_node("Shape", ["x"], ["size"], start=0, end=1),
        helper.make_node("Clip", ["size", "", "most"], ["capped"]),
        helper.make_node("Concat", ["capped", "rest"], ["shape"], axis=0),
        helper.make_node("Reshape", ["x", "shape"], ["flat"]),
        helper.make_node("MatMul", ["flat", "w"], ["y"]),
    ]
    weights = {"most": np.array(2, np.int64), "rest": np.array([-1], np.int64), "w": weight(70, 2)}
    model = graph_of(nodes, {"x": ["batch", 5, 7]}, ["y"], weights)
    assert graph_cost(model, {"batch": 4}).macs == 2 * 70 * 2


@pytest.mark.parametrize(("kind", "size"), [("FLOAT16", 2), ("FLOAT", 4), ("INT64", 8), ("BOOL", 1)])
def test_elements_take_the_memory_of_their_type(kind, size):
    assert bytes_of(helper.make_tensor_type_proto(TensorProto.DataType.Value(kind), [2, 3])) == 6 * size


def test_memory_is_that_of_the_tensors_alive_together():
    nodes = [helper.make_node("Relu", ["x"], ["a"]), helper.make_node("Relu", ["a"], ["b"])]
    nodes += [helper.make_node("Relu", ["b"], ["c"]), helper.make_node("Concat", ["a", "c"], ["y"], axis=0)]
    cost = graph_cost(graph_of(nodes, {"x": ["batch", 25]}, ["y"]), {"batch": 10})
    assert cost.macs == 0
    assert cost.activation_bytes == 1000 * (1 + 1 + 2)  # a, c and what joins them


def test_weights_in_a_file_of_their_own_are_counted_and_not_read(tmp_path):
    nodes = [helper.make_node("MatMul", ["x", "w"], ["m"]), helper.make_node("Add", ["m", "b"], ["y"])]
    model = graph_of(nodes, {"x": ["batch", 600]}, ["y"], {"w": weight(600, 600), "b": weight(600)})
    inline = graph_cost(model, {"batch": 2})
    onnx.save(model, tmp_path / "large.onnx", save_as_external_data=True, location="large.onnx.data")
    (tmp_path / "large.onnx.data").unlink()
    assert file_cost(tmp_path / "large.onnx", {"batch": 2}) == inline


def test_an_axis_without_a_size_is_named():
    model = graph_of([helper.make_node("Relu", ["x"], ["y"])], {"x": ["batch"]}, ["y"])
    with pytest.raises(PnsegError, match="batch"):
        graph_cost(model, {})


def test_a_shape_that_depends_on_data_is_refused():
    model = graph_of([helper.make_node("NonZero", ["x"], ["y"])], {"x": ["batch"]}, ["y"])
    with pytest.raises(PnsegError, match="NonZero"):
        graph_cost(model, {"batch": 2})


def test_a_file_that_is_no_graph_is_refused_by_name(tmp_path):
    (tmp_path / "broken.onnx").write_bytes(b"\xff\xff nothing of the kind")
    with pytest.raises(PnsegError, match=r"broken\.onnx"):
        file_cost(tmp_path / "broken.onnx", {})


def test_pytorchs_counter_needs_no_weights():
    with torch.device("meta"):
        assert torch_macs(nn.Linear(7, 11), torch.empty(3, 7)) == 3 * 7 * 11


def test_benchmark_counts_what_is_exported(monkeypatch):
    monkeypatch.setattr(macs, "exported_macs", lambda *_: {"prompter": 10**9, "encoder": 2 * 10**9, "decoder": 0})
    result = CliRunner().invoke(macs.macs, ["--size", "nano", "--nuclei", "24", "--json"])
    document = json.loads(result.output)
    assert document["total_gmacs"] == 3
    assert set(document["graphs"]) == {"prompter", "encoder", "decoder"}
    plain = sum(graph["plain_gmacs"] for graph in document["graphs"].values())
    assert document["reference_gmacs"] == pytest.approx(plain)


def test_plain_networks_need_what_the_reference_implementation_needs():
    plain = {graph: count / 1e9 for graph, count in module_macs("B", 24, 1, PLAIN).items()}
    assert plain["prompter"] == pytest.approx(21.74, abs=0.01)
    assert plain["encoder"] == pytest.approx(34.51, abs=0.01)
    assert sum(plain.values()) == pytest.approx(59.53, abs=0.05)


@pytest.mark.parametrize("size", ["B", "L", "H"])
def test_rewrites_save_a_fifth_of_the_work(size):
    before, after = (sum(module_macs(size, 24, 1, form).values()) for form in (PLAIN, CPU))
    assert after < 0.8 * before
