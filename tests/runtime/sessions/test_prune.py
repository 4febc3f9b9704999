import numpy as np
import pytest

from pnseg_runtime.bundle import Bundle
from pnseg_runtime.sessions import open_sessions
from pnseg_runtime.sessions.prune import pruned

onnx = pytest.importorskip("onnx")


@pytest.fixture(scope="module")
def prompter():
    return Bundle.open("nano").path("prompter").read_bytes()


def test_what_only_left_out_outputs_need_is_gone(prompter):
    model, whole = (
        onnx.load_from_string(pruned(prompter, frozenset({"region_logits"}))),
        onnx.load_from_string(prompter),
    )
    onnx.checker.check_model(model)
    assert [output.name for output in model.graph.output] == ["points", "class_logits"]
    assert len(model.graph.node) < len(whole.graph.node)
    read = {name for node in model.graph.node for name in node.input} | {"points", "class_logits"}
    assert all(read & set(node.output) for node in model.graph.node)


def test_without_anything_to_leave_out_the_model_stays_as_it_is(prompter):
    assert onnx.load_from_string(pruned(prompter, frozenset())) == onnx.load_from_string(prompter)


def test_the_other_outputs_keep_their_values():
    bundle, image = Bundle.open("nano"), {"image": np.random.default_rng(0).random((1, 3, 64, 96), np.float32)}
    whole = open_sessions(bundle, threads=1).prompter(image)
    part = open_sessions(bundle, threads=1, leave_out=frozenset({"region_logits"})).prompter(image)
    assert set(part) == {"points", "class_logits"}
    for name, values in part.items():
        np.testing.assert_allclose(values, whole[name], atol=1e-5)


def test_a_model_with_control_flow_is_left_alone():
    helper, types = onnx.helper, onnx.TensorProto
    value = helper.make_tensor_value_info
    branch = helper.make_graph([helper.make_node("Add", ["x", "x"], ["b"])], "b", [], [value("b", types.FLOAT, [1])])
    nodes = [helper.make_node("If", ["c"], ["y"], then_branch=branch, else_branch=branch)]
    inputs = [value("c", types.BOOL, []), value("x", types.FLOAT, [1])]
    model = helper.make_model(helper.make_graph(nodes, "g", inputs, [value("y", types.FLOAT, [1])]))
    content = model.SerializeToString()
    assert pruned(content, frozenset({"y"})) == content


@pytest.mark.parametrize("content", [b"", b"\x3a\xff", b"\xff" * 20, b"\x0f"])
def test_what_is_no_model_is_refused(content):
    with pytest.raises(ValueError, match=r"no graph|middle of a field|no end|unknown kind"):
        pruned(content, frozenset({"y"}))
