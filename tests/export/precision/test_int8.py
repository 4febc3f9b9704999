"""Static quantisation: which layers, how, and which are left alone."""

from dataclasses import replace

import numpy as np
import onnx
import pytest
from onnx import TensorProto, numpy_helper

from pnseg_export.files import read_graph, write_scratch
from pnseg_export.graphs.encoder import EncoderGraph
from pnseg_export.graphs.rewrites import CPU, GPU
from pnseg_export.onnx import export_graph
from pnseg_export.precision.int8 import (
    LAYERS,
    MATRICES,
    SCHEMES,
    activation_ranges,
    layer_errors,
    layers,
    output_error,
    phases,
    quantised,
    too_sensitive,
    unfit,
)
from pnseg_runtime.sessions.onnxruntime import open_session
from tests.export import made
from tests.export.networks import images, segmentor

CONSTANT = ["first/Conv", "second/Conv", "phase/MatMul", "project/MatMul", "out/MatMul"]


@pytest.fixture
def path(tmp_path):
    made.write(made.layers(), tmp_path / "float.onnx")
    return tmp_path / "float.onnx"


def run(model, folder) -> list[dict[str, np.ndarray]]:
    onnx.save(model, folder / "made.onnx")
    session = open_session(folder / "made.onnx")
    return [session(call) for call in made.calls()]


def test_layers_are_products_and_convolutions_with_constant_weights():
    assert layers(made.layers()) == CONSTANT


def test_what_feeds_a_sine_is_not_quantised():
    assert list(phases(made.layers())) == ["phase/MatMul"]


@pytest.mark.parametrize("name", SCHEMES)
def test_weights_are_quantised_by_channel_and_activations_as_the_scheme_says(path, name):
    scheme = SCHEMES[name]
    model = quantised(made.layers(), activation_ranges(path, made.calls()), ["first/Conv", "project/MatMul"], scheme)
    onnx.checker.check_model(model, full_check=True)
    assert {opset.domain for opset in model.opset_import} == {""}
    tensors = {tensor.name: numpy_helper.to_array(tensor) for tensor in model.graph.initializer}
    scales = [array for key, array in tensors.items() if key.startswith("first.weight") and key.endswith("scale")]
    assert [scale.shape for scale in scales] == [(8,)]
    columns = [array for key, array in tensors.items() if key.startswith("project.weight") and key.endswith("scale")]
    assert [scale.shape for scale in columns] == [(16,)]
    zeros = [array for key, array in tensors.items() if key == "image_zero_point"]
    assert [zero.dtype for zero in zeros] == [np.int8 if scheme.symmetric else np.uint8]
    if scheme.symmetric:  # TensorRT takes no other zero
        assert not any(array.any() for key, array in tensors.items() if key.endswith("zero_point"))


@pytest.mark.parametrize("name", SCHEMES)
def test_it_computes_nearly_what_the_float_graph_computes(path, tmp_path, name):
    nodes = [node for node in CONSTANT if node != "phase/MatMul"]
    model = quantised(made.layers(), activation_ranges(path, made.calls()), nodes, SCHEMES[name])
    expected = [open_session(path)(call) for call in made.calls()]
    assert 0 < output_error(expected, run(model, tmp_path)) < 0.05


def test_the_layer_that_costs_most_is_found_and_named_with_its_error(path):
    ranges = activation_ranges(path, made.calls())
    scheme = replace(SCHEMES["cpu"], results=frozenset(LAYERS))
    errors = layer_errors(path, ranges, made.calls(), scheme, CONSTANT, tolerance=0.02)
    assert max(errors, key=errors.__getitem__) == "phase/MatMul"  # planted: coordinates up to 256 in 8 bits
    kept = too_sensitive(errors, tolerance=0.1)
    assert set(kept) == {"phase/MatMul"}
    assert "% of its standard deviation" in kept["phase/MatMul"]


def test_only_a_layer_that_is_near_the_tolerance_is_measured_on_every_input(path):
    calls, scheme, layer = made.calls(), SCHEMES["cpu"], "second/Conv"
    ranges = activation_ranges(path, calls)
    first = layer_errors(path, ranges, calls[:1], scheme, [layer], tolerance=1.0)[layer]
    whole = layer_errors(path, ranges, calls, scheme, [layer], tolerance=first)[layer]
    assert whole != first
    for far in (first / 10, first * 10):
        assert layer_errors(path, ranges, calls, scheme, [layer], tolerance=far)[layer] == first


def test_the_same_graph_and_inputs_give_the_same_file(path):
    first, second = (
        quantised(made.layers(), activation_ranges(path, made.calls()), CONSTANT, SCHEMES["cpu"]) for _ in range(2)
    )
    assert first.SerializeToString(deterministic=True) == second.SerializeToString(deterministic=True)


@pytest.fixture(scope="module")
def encoder(tmp_path_factory):
    """The graph of a ViT of B's width with three blocks, one of them global."""
    path = tmp_path_factory.mktemp("shallow") / "encoder.onnx"
    export_graph(EncoderGraph(segmentor("B"), CPU), (images(2),), path)
    return path


@pytest.mark.parametrize(("name", "results", "biases"), [("cpu", {"Conv"}, True), ("gpu", set(), False)])
def test_what_is_quantised_besides_inputs_and_weights_is_what_the_scheme_says(encoder, name, results, biases):
    model = read_graph(encoder)
    nodes = [node for node in layers(model) if node.endswith(("patch_embed.proj/Conv", "blocks.0.mlp.lin1/MatMul"))]
    assert len(nodes) == 2
    made = quantised(model, activation_ranges(encoder, [{"image": images(1).numpy()}]), nodes, SCHEMES[name])
    kinds = {output: node.op_type for node in made.graph.node for output in node.output}
    behind = {kinds.get(node.input[0]) for node in made.graph.node if node.op_type == "QuantizeLinear"}
    assert behind & set(LAYERS) == results
    types = {tensor.name: tensor.data_type for tensor in made.graph.initializer}
    stored = {types.get(node.input[0]) for node in made.graph.node if node.op_type == "DequantizeLinear"}
    assert (TensorProto.INT32 in stored) == biases


def test_positions_stay_in_float(encoder):
    left = unfit(read_graph(encoder))
    assert set(left.values()) == {MATRICES}
    assert not any("proj" in name or "mlp" in name or "qkv" in name for name in left)


def test_windows_that_attend_together_leave_only_positions_in_float(tmp_path):
    export_graph(EncoderGraph(segmentor("B"), GPU), (images(2),), tmp_path / "encoder.onnx")
    left = unfit(read_graph(tmp_path / "encoder.onnx"))
    assert list(left.values()) == [MATRICES] * 3  # one product a block


@pytest.mark.slow
def test_openvino_compiles_the_quantised_vit_and_computes_what_it_should(encoder, tmp_path):
    openvino = pytest.importorskip("openvino")
    model, calls = read_graph(encoder), [{"image": images(1).numpy()}]
    chosen = [name for name in layers(model) if name not in unfit(model)]
    assert sum("attention.proj" in name for name in chosen) == 3  # of windows too, which it once could not compile
    write_scratch(quantised(model, activation_ranges(encoder, calls), chosen, SCHEMES["cpu"]), tmp_path / "int8.onnx")
    core = openvino.Core()
    core.set_property("CPU", {"INFERENCE_PRECISION_HINT": "f32"})
    run = core.compile_model(core.read_model(tmp_path / "int8.onnx"), "CPU")
    expected, given = next(iter(open_session(encoder)(calls[0]).values())), run(calls[0])[0]
    # Random weights feel 8 bits more than trained ones; an encoder that is wrong would be over 1.
    assert np.abs(given - expected).mean() < 0.3 * expected.std()
