"""Graphs on disk: weights that are too large for one file, names of layers, the census."""

import numpy as np
import onnx
import pytest
from onnx import helper

from pnseg_export import files
from pnseg_export.files import element_types, read_graph, tensor_census, write_graph, write_scratch
from pnseg_export.layers import SCOPES, layer_of, name_nodes
from pnseg_export.precision.float16 import halve
from pnseg_runtime.sessions.onnxruntime import open_session
from tests.export import made


def written(folder, model):
    folder.mkdir()
    return write_graph(model, folder / "made.onnx", made.INPUTS, made.OUTPUTS)


@pytest.fixture
def tiny_limit(monkeypatch):
    monkeypatch.setattr(files, "LARGEST", 100)
    monkeypatch.setattr(files, "SMALLEST", 64)


def test_large_weights_go_into_a_file_of_their_own_and_are_found_again(tiny_limit, tmp_path):
    entry = written(tmp_path / "a", made.layers())
    assert [data.file for data in entry.data] == ["made.onnx.data"]
    assert entry.data[0].bytes == (tmp_path / "a" / "made.onnx.data").stat().st_size > entry.bytes / 2
    run = open_session(tmp_path / "a" / "made.onnx")
    whole = open_session_of(made.layers(), tmp_path)
    for name, array in whole(made.calls()[0]).items():
        np.testing.assert_array_equal(run(made.calls()[0])[name], array)
    assert all(not tensor.external_data for tensor in read_graph(tmp_path / "a" / "made.onnx").graph.initializer)


def test_only_large_weights_leave_the_graph(tiny_limit, tmp_path, monkeypatch):
    monkeypatch.setattr(files, "SMALLEST", 100)
    written(tmp_path / "a", made.layers())
    sizes = {tensor.name: len(tensor.raw_data) for tensor in made.layers().graph.initializer}
    there = read_graph(tmp_path / "a" / "made.onnx", weights=False).graph.initializer
    assert {tensor.name for tensor in there if tensor.external_data} == {n for n, size in sizes.items() if size >= 100}
    assert min(sizes.values()) < 100


def test_a_graph_that_breaks_the_rules_is_refused(tmp_path):
    model = made.layers()
    model.graph.node[0].op_type = "Nonesuch"
    with pytest.raises(onnx.checker.ValidationError, match="Nonesuch"):
        written(tmp_path / "a", model)


def open_session_of(model, folder):
    onnx.save(model, folder / "whole.onnx")
    return open_session(folder / "whole.onnx")


def test_the_same_graph_gives_the_same_files(tiny_limit, tmp_path):
    first, second = (written(tmp_path / name, made.layers()) for name in "ab")
    assert first == second


def test_small_weights_stay_in_the_graph_and_old_data_goes(tmp_path):
    (tmp_path / "a").mkdir()
    (tmp_path / "a" / "made.onnx.data").write_text("of an earlier export")
    entry = write_graph(made.layers(), tmp_path / "a" / "made.onnx", made.INPUTS, made.OUTPUTS)
    assert entry.data == []
    assert [path.name for path in (tmp_path / "a").iterdir()] == ["made.onnx"]


def test_the_census_counts_every_tensor_by_its_type():
    assert tensor_census(made.layers()) == {"float": 7 + 2 + 11}  # weights, inputs, what nodes give out
    census = tensor_census(halve(made.layers())[0])
    assert set(census) == {"float", "float16"}


def test_types_are_told_of_all_that_comes_in_and_is_given_out():
    model = made.layers()
    names = [value.name for value in model.graph.input] + [name for node in model.graph.node for name in node.output]
    assert set(names) <= set(element_types(model))
    assert {element_types(model)[name] for name in names} == {onnx.TensorProto.FLOAT}
    half = element_types(halve(model)[0])
    assert (half["c1"], half["sine"]) == (onnx.TensorProto.FLOAT16, onnx.TensorProto.FLOAT)


def test_a_graph_of_a_moment_leaves_large_weights_beside_it_and_none_of_an_earlier_one(tmp_path, monkeypatch):
    with monkeypatch.context() as limited:
        limited.setattr(files, "LARGEST", 100)
        write_scratch(made.layers(), tmp_path / "trial.onnx")
    assert (tmp_path / "trial.onnx.data").is_file()
    open_session(tmp_path / "trial.onnx")
    write_scratch(made.layers(), tmp_path / "trial.onnx")
    assert [path.name for path in tmp_path.iterdir()] == ["trial.onnx"]


def test_nodes_are_named_after_their_weights_or_the_module_around_them():
    model = made.layers()
    for node in model.graph.node:
        node.name = "node_1"
        if node.op_type == "Relu":
            node.metadata_props.add(key=SCOPES, value="['', 'encoder', 'encoder.act', 'relu_1']")
    name_nodes(model)
    names = [node.name for node in model.graph.node]
    assert names[:3] == ["first/Conv", "encoder.act/Relu", "second/Conv"]
    assert [layer_of(node) for node in model.graph.node][:3] == ["first", "encoder.act", "second"]
    assert len(set(names)) == len(names)


def test_two_nodes_of_one_layer_have_two_names():
    value = helper.make_tensor_value_info("x", 1, [1])
    nodes = [helper.make_node("Relu", ["x"], ["a"]), helper.make_node("Relu", ["a"], ["b"])]
    model = helper.make_model(helper.make_graph(nodes, "g", [value], []))
    name_nodes(model)
    assert [node.name for node in model.graph.node] == ["Relu", "Relu_2"]
