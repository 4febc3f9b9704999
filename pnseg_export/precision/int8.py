"""Static quantisation: a float32 graph with its layers between QuantizeLinear and DequantizeLinear.

Layers are convolutions and products with constant weights. Weights are quantised per channel,
activations per tensor with the ranges seen on real tiles. What an activation's 8 bits are depends on
where the graph is to run (:data:`SCHEMES`).

Which layers stay in float32 is measured: each layer is quantised alone, and what that does to the
graph's outputs on real inputs is its error.
"""

from __future__ import annotations

import logging
import tempfile
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np
import onnx
from onnxruntime.quantization import CalibrationDataReader, CalibrationMethod, QuantType
from onnxruntime.quantization.calibrate import TensorsData, create_calibrator
from onnxruntime.quantization.qdq_quantizer import QDQQuantizer
from onnxruntime.quantization.quant_utils import add_infer_metadata

from pnseg_export.files import inferred, read_graph, write_scratch
from pnseg_export.precision.feeds import Arrays
from pnseg_runtime.bundle import GraphName
from pnseg_runtime.sessions.onnxruntime import open_session

LAYERS = ("Conv", "Gemm", "MatMul")
PHASE = "it turns coordinates into phases of many periods, which few bits cannot tell apart"
MATRICES = "it has a matrix for each row or head, each so small that 8 bits only cost time"
NO_FASTER = "its products are so small that on a CPU it takes longer in 8 bits"
#: An error on the first input that is off the tolerance by this factor is not measured on the others.
CLEAR = 2.0


@dataclass(frozen=True)
class Scheme:
    """What 8-bit activations are.

    Attributes:
        activations: their type.
        symmetric: zero is in the middle of the range, whatever the range.
        results: operators whose results are quantised behind them too, not only what they read.
        biases: whether a convolution's bias is quantised, to 32 bits.
        kept: graphs that stay in float32 as a whole → why.
    """

    activations: QuantType
    symmetric: bool
    results: frozenset[str]
    biases: bool
    kept: Mapping[GraphName, str] = field(default_factory=dict)


#: ``cpu``: kernels for VNNI multiply unsigned by signed, and a ReLU's zero is the range's end, so all
#: 8 bits count; ONNX Runtime has 8-bit kernels for layers whose results are quantised as well. ``gpu``: TensorRT takes
#: signed symmetric activations and no 32-bit biases, and joins bias and activation to layers that give out floats.
SCHEMES = {
    "cpu": Scheme(
        QuantType.QUInt8, symmetric=False, results=frozenset({"Conv"}), biases=True, kept={"decoder": NO_FASTER}
    ),
    "gpu": Scheme(QuantType.QInt8, symmetric=True, results=frozenset(), biases=False),
}


def layers(model: onnx.ModelProto) -> list[str]:
    """Names of the nodes that can be quantised: those with constant weights."""
    weights = {tensor.name for tensor in model.graph.initializer}
    return [node.name for node in model.graph.node if node.op_type in LAYERS and node.input[1] in weights]


def phases(model: onnx.ModelProto) -> dict[str, str]:
    """Layers that feed a sine or cosine, however scaled on the way → why they stay in float."""
    producers = {name: node for node in model.graph.node for name in node.output}
    found = {}
    for wave in (node for node in model.graph.node if node.op_type in {"Sin", "Cos"}):
        node = producers.get(wave.input[0])
        while node is not None and node.op_type in {"Mul", "Add", "Sub", "Div", "Reshape", "Cast"}:
            node = next((producers[name] for name in node.input if name in producers), None)
        if node is not None and node.op_type in LAYERS:
            found[node.name] = PHASE
    return found


def unfit(model: onnx.ModelProto) -> dict[str, str]:
    """Layers that stay in float whatever their error → why."""
    several = {tensor.name for tensor in model.graph.initializer if len(tensor.dims) == 3}
    small = (node for node in model.graph.node if node.op_type in LAYERS and several.intersection(node.input))
    return {node.name: MATRICES for node in small} | phases(model)


class _Reader(CalibrationDataReader):
    def __init__(self, calls: Iterable[Arrays]):
        self.calls = iter(calls)

    def get_next(self) -> Arrays | None:
        return next(self.calls, None)


def activation_ranges(path: Path, calls: Sequence[Arrays]) -> TensorsData:
    """Smallest and largest value of every tensor of the graph in ``path`` over the calls."""
    large = path.with_name(f"{path.name}.data").exists()
    with tempfile.TemporaryDirectory() as scratch, _quiet():
        calibrator = create_calibrator(
            path,
            list(LAYERS),
            augmented_model_path=str(Path(scratch) / "augmented.onnx"),
            calibrate_method=CalibrationMethod.MinMax,
            use_external_data_format=large,
        )
        for call in calls:  # its ranges are merged with those before, so one call's tensors are in memory
            calibrator.collect_data(_Reader([call]))
        return calibrator.compute_data()


def quantised(model: onnx.ModelProto, ranges: TensorsData, nodes: Sequence[str], scheme: Scheme) -> onnx.ModelProto:
    """A copy of the graph in which ``nodes`` are quantised.

    Args:
        model: float32 graph with its weights; stays as it is.
        ranges: of its activations.
        nodes: names out of :func:`layers`.
        scheme: of the activations.
    """
    copy = onnx.ModelProto()
    copy.CopyFrom(model)
    del copy.graph.value_info[:]
    copy.graph.value_info.extend(inferred(model).graph.value_info)
    add_infer_metadata(copy)  # or the quantiser writes and reads the whole graph to infer shapes once more
    with _quiet():
        quantizer = QDQQuantizer(
            copy,
            per_channel=True,
            reduce_range=False,
            weight_qType=QuantType.QInt8,
            activation_qType=scheme.activations,
            tensors_range=_ranges_at(copy, ranges, nodes),
            nodes_to_quantize=list(nodes),
            nodes_to_exclude=[],
            op_types_to_quantize=list(LAYERS),
            extra_options={
                "ActivationSymmetric": scheme.symmetric,
                "OpTypesToExcludeOutputQuantization": [kind for kind in LAYERS if kind not in scheme.results],
                "QuantizeBias": scheme.biases,
                "WeightSymmetric": True,
                "QDQOpTypePerChannelSupportToAxis": {"MatMul": 1},
            },
        )
        quantizer.quantize_model()
        quantizer.model.topological_sort()
    result: onnx.ModelProto = quantizer.model.model
    del result.graph.value_info[:]
    del result.metadata_props[:]
    result.metadata_props.extend(model.metadata_props)
    domains = {node.domain for node in result.graph.node}
    kept = [opset for opset in result.opset_import if opset.domain in domains]
    del result.opset_import[:]
    result.opset_import.extend(kept)
    return result


def _ranges_at(model: onnx.ModelProto, ranges: TensorsData, nodes: Sequence[str]) -> TensorsData:
    # Those of what the nodes read and give: the quantiser works out scales for all that it is told.
    chosen = set(nodes)
    near = {name for node in model.graph.node if node.name in chosen for name in (*node.input, *node.output)}
    found = {name: ranges[name] for name in ranges if name in near}
    return TensorsData(ranges.calibration_method, found)


def layer_errors(
    path: Path,
    ranges: TensorsData,
    calls: Sequence[Arrays],
    scheme: Scheme,
    names: Sequence[str],
    tolerance: float,
    advance: Callable[[int, int], None] = lambda *_: None,
) -> dict[str, float]:
    """Each layer quantised alone → what that changes in the graph's outputs.

    The error of an output is its mean absolute change, as a share of the output's standard
    deviation; the largest of all outputs counts. A layer whose error on the first input is far from the
    tolerance is not measured on the others.

    Args:
        path: float32 graph.
        ranges: of its activations.
        calls: real inputs.
        scheme: of the activations.
        names: layers to measure.
        tolerance: what the errors are to be compared with.
        advance: called with (layers measured, layers in all).
    """
    model, run = read_graph(path), open_session(path)
    expected = [run(call) for call in calls]
    errors = {}
    with tempfile.TemporaryDirectory() as scratch:
        trial = Path(scratch) / "trial.onnx"
        for done, name in enumerate(names, start=1):
            write_scratch(quantised(model, ranges, [name], scheme), trial)
            quantised_run = open_session(trial)
            first = output_error(expected[:1], [quantised_run(calls[0])])
            clear = not tolerance / CLEAR < first < tolerance * CLEAR
            errors[name] = first if clear else output_error(expected, [quantised_run(call) for call in calls])
            advance(done, len(names))
    return errors


def output_error(expected: Sequence[Arrays], given: Sequence[Arrays]) -> float:
    """Largest, over outputs, mean absolute difference as a share of the expected values' standard deviation."""
    shares = {
        name: np.mean(
            [np.abs(b[name] - a[name]).mean() / (a[name].std() + 1e-12) for a, b in zip(expected, given, strict=True)]
        )
        for name in expected[0]
    }
    return float(np.max(list(shares.values())))


def too_sensitive(errors: Mapping[str, float], tolerance: float) -> dict[str, str]:
    """Layers whose error alone is over the tolerance → the reason, with the figure."""
    return {
        name: f"quantised alone it moves an output by {error:.1%} of its standard deviation"
        for name, error in errors.items()
        if not error <= tolerance  # nor is NaN
    }


class _quiet:  # noqa: N801 - reads as a verb
    """ONNX Runtime's quantiser warns of every tensor that it leaves alone."""

    def __enter__(self) -> None:
        self.before = logging.root.manager.disable
        logging.disable(logging.WARNING)

    def __exit__(self, *_: object) -> None:
        logging.disable(self.before)
