from pathlib import Path

import numpy as np
import pytest

from pnseg_runtime.errors import BackendError, BundleError
from pnseg_runtime.sessions.onnxruntime import open_session

onnx = pytest.importorskip("onnx")


@pytest.fixture
def doubling(tmp_path: Path) -> Path:
    """A network ``x (n,)`` → ``y = x + x``."""
    tensor = onnx.helper.make_tensor_value_info
    graph = onnx.helper.make_graph(
        [onnx.helper.make_node("Add", ["x", "x"], ["y"])],
        "doubling",
        [tensor("x", onnx.TensorProto.FLOAT, ["n"])],
        [tensor("y", onnx.TensorProto.FLOAT, ["n"])],
    )
    model = onnx.helper.make_model(graph, opset_imports=[onnx.helper.make_opsetid("", 18)], ir_version=9)
    path = tmp_path / "doubling.onnx"
    onnx.save(model, path)
    return path


@pytest.mark.parametrize("threads", [None, 1])
def test_outputs_come_back_by_name(doubling, threads):
    run = open_session(doubling, threads)
    outputs = run({"x": np.array([1, 2.5], np.float32)})
    assert list(outputs) == ["y"]
    assert outputs["y"].tolist() == [2, 5]


def test_a_missing_file_is_told_in_one_sentence(tmp_path):
    with pytest.raises(BundleError, match=r"none\.onnx.*export the bundle again") as caught:
        open_session(tmp_path / "none.onnx")
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize("content", [b"", b"not a network", bytes(range(256)) * 10])
def test_a_file_that_is_no_network_is_told_in_one_sentence(tmp_path, content):
    path = tmp_path / "broken.onnx"
    path.write_bytes(content)
    with pytest.raises(BundleError, match=r"broken\.onnx") as caught:
        open_session(path)
    assert "\n" not in str(caught.value)


def test_a_run_that_fails_is_told_in_one_sentence(doubling, capfd):
    run = open_session(doubling)
    with pytest.raises(BackendError, match=r"doubling\.onnx"):
        run({"x": np.zeros((2, 2), np.float32)})


def test_opening_a_network_says_nothing(doubling, capfd):
    open_session(doubling)({"x": np.zeros(1, np.float32)})
    assert capfd.readouterr() == ("", "")


@pytest.fixture
def two_outputs(tmp_path: Path) -> Path:
    """A network ``x (n,)`` → ``y = x + x``, and ``z``, which fails if it is computed."""
    helper, types = onnx.helper, onnx.TensorProto
    graph = helper.make_graph(
        [
            helper.make_node("Add", ["x", "x"], ["y"]),
            helper.make_node("Reshape", ["x", "impossible"], ["z"]),
        ],
        "two",
        [helper.make_tensor_value_info("x", types.FLOAT, ["n"])],
        [helper.make_tensor_value_info(name, types.FLOAT, [None]) for name in ("y", "z")],
        [helper.make_tensor("impossible", types.INT64, [1], [1_000_003])],
    )
    path = tmp_path / "two.onnx"
    onnx.save(helper.make_model(graph, opset_imports=[helper.make_opsetid("", 18)], ir_version=9), path)
    return path


def test_what_nobody_reads_is_not_computed(two_outputs):
    x = {"x": np.ones(2, np.float32)}
    assert list(open_session(two_outputs, leave_out=frozenset({"z"}))(x)) == ["y"]
    with pytest.raises(BackendError):
        open_session(two_outputs)(x)


def test_outputs_that_are_let_go_of_give_their_memory_to_the_next_run(doubling):
    run = open_session(doubling)
    x = np.arange(1000, dtype=np.float32)

    def place():
        return run({"x": x})["y"].__array_interface__["data"][0]

    place()  # the first run tells the shapes
    assert len({place() for _ in range(5)}) == 1


def test_outputs_that_are_kept_stay_as_they_are(doubling):
    run = open_session(doubling)
    kept = [run({"x": np.full(1000, value, np.float32)})["y"] for value in range(6)]
    assert [array.tolist() for array in kept] == [[2 * value] * 1000 for value in range(6)]


def test_inputs_of_other_shapes_and_layouts_give_the_same(doubling):
    run = open_session(doubling)
    for size in (3, 1000, 3):
        x = np.arange(2 * size, dtype=np.float32)[::2]
        assert run({"x": x})["y"].tolist() == (2 * x).tolist()
