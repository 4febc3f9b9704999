import os
from pathlib import Path

import numpy as np
import pytest

from pnseg_runtime.errors import BackendError, BundleError
from pnseg_runtime.sessions.onnxruntime import open_session, physical_cores

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


def test_physical_cores_are_some_of_those_the_process_may_use():
    assert 1 <= physical_cores() <= (os.cpu_count() or 1)


@pytest.mark.skipif(not hasattr(os, "sched_setaffinity"), reason="the system has no processor affinity")
def test_a_process_bound_to_one_processor_counts_one_core():
    allowed = os.sched_getaffinity(0)
    try:
        os.sched_setaffinity(0, {min(allowed)})
        assert physical_cores() == 1
    finally:
        os.sched_setaffinity(0, allowed)
