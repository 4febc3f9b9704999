"""Half precision where it is safe, float32 where it is not, and the types say which."""

import numpy as np
import onnx
import pytest

from pnseg_export.files import tensor_census
from pnseg_export.precision.feeds import stress_tiles
from pnseg_export.precision.float16 import FLOAT_OPERATORS, halve, near_overflow
from pnseg_export.precision.overflow import LARGEST_HALF, peaks
from pnseg_export.precision.rounded import rounded
from pnseg_runtime.bundle import SHIPPED
from pnseg_runtime.sessions.onnxruntime import open_session
from tests.export import made

FLOAT, HALF = onnx.TensorProto.FLOAT, onnx.TensorProto.FLOAT16


def types(model: onnx.ModelProto) -> dict[str, int]:
    inferred = onnx.shape_inference.infer_shapes(model, check_type=True, strict_mode=True, data_prop=True).graph
    values = (*inferred.input, *inferred.output, *inferred.value_info)
    found = {value.name: value.type.tensor_type.elem_type for value in values}
    return found | {tensor.name: tensor.data_type for tensor in model.graph.initializer}


def test_products_are_half_and_inputs_and_outputs_float():
    half, _ = halve(made.layers())
    onnx.checker.check_model(half, full_check=True)
    kinds = types(half)
    for node in half.graph.node:
        if node.name in {"first/Conv", "second/Conv", "project/MatMul", "out/MatMul"}:
            assert {kinds[name] for name in (*node.input, *node.output)} == {HALF}, node.name
    assert all(kinds[value.name] == FLOAT for value in (*half.graph.input, *half.graph.output))


def test_norms_softmax_and_coordinates_stay_in_float():
    half, kept = halve(made.layers())
    kinds = types(half)
    for node in half.graph.node:
        if node.op_type in {"LayerNormalization", "Softmax", "Sin", "Cos"} or node.name == "phase/MatMul":
            assert {kinds[name] for name in (*node.input, *node.output)} == {FLOAT}, node.name
    assert kept["every LayerNormalization"] == FLOAT_OPERATORS["LayerNormalization"]
    assert "phase" in kept


def test_it_computes_what_the_float_graph_computes(tmp_path):
    made.write(made.layers(), tmp_path / "float.onnx")
    onnx.save(rounded(halve(made.layers())[0]), tmp_path / "half.onnx")
    before, after = open_session(tmp_path / "float.onnx"), open_session(tmp_path / "half.onnx")
    for call in made.calls():
        expected, given = before(call), after(call)
        for name in expected:
            np.testing.assert_allclose(given[name], expected[name], atol=5e-3, err_msg=name)


def test_a_layer_near_the_end_of_half_precision_is_named_with_its_value_and_kept(tmp_path):
    model = made.layers(gain=20_000.0)
    made.write(model, tmp_path / "large.onnx")
    largest = peaks(tmp_path / "large.onnx", made.calls())
    assert largest["c1"] > LARGEST_HALF / 4
    found = near_overflow(model, largest)
    assert "first/Conv" in found
    assert "65,504" in found["first/Conv"]
    half, kept = halve(model, found)
    assert types(half)["c1"] == FLOAT
    assert kept["first"] == found["first/Conv"]
    onnx.save(rounded(half), tmp_path / "half.onnx")
    assert all(np.isfinite(array).all() for array in open_session(tmp_path / "half.onnx")(made.calls()[0]).values())


def test_without_the_hunt_the_same_layer_overflows(tmp_path):
    half, _ = halve(made.layers(gain=20_000.0))
    onnx.save(rounded(half), tmp_path / "rounded.onnx")
    assert not np.isfinite(open_session(tmp_path / "rounded.onnx")(made.calls()[0])["votes"]).all()


def test_the_twin_rounds_behind_every_half_precision_operator(tmp_path):
    half, _ = halve(made.layers())
    model = rounded(half)
    onnx.checker.check_model(model, full_check=True)
    for name in ("c1", "r1", "q"):
        model.graph.output.append(onnx.helper.make_tensor_value_info(name, FLOAT, None))
    onnx.save(model, tmp_path / "rounded.onnx")
    found = open_session(tmp_path / "rounded.onnx")(made.calls()[0])
    for name in ("c1", "r1", "q"):
        assert (found[name] == found[name].astype(np.float16)).all(), name


def test_peaks_are_the_largest_absolute_values(tmp_path):
    made.write(made.layers(), tmp_path / "made.onnx")
    run, largest = open_session(tmp_path / "made.onnx"), peaks(tmp_path / "made.onnx", made.calls())
    expected = max(float(np.abs(run(call)["votes"]).max()) for call in made.calls())
    assert largest["votes"] == pytest.approx(expected)


def test_stress_tiles_hold_the_extremes():
    tiles = stress_tiles(64)
    assert {tile.shape for tile in tiles} == {(64, 64, 3)}
    assert any((tile == 255).all() for tile in tiles)
    assert any((tile == 0).all() for tile in tiles)


@pytest.mark.parametrize("graph", ["prompter", "encoder", "decoder"])
def test_most_of_the_shipped_graphs_becomes_half(graph):
    half, kept = halve(onnx.load(SHIPPED / "nano" / f"{graph}.onnx"))
    onnx.checker.check_model(half, full_check=True)
    census = tensor_census(half)
    assert census["float16"] > census["float"]
    products = [node for node in half.graph.node if node.op_type in {"Conv", "MatMul", "Gemm"}]
    kinds = types(half)
    in_float = [node.name for node in products if kinds[node.output[0]] == FLOAT]
    assert len(in_float) <= 2, in_float  # phases of points, and nano's votes
    assert len(kept) >= 1
