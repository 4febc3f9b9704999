"""The ONNX files: the network's numbers, at any size, from operators that every engine has."""

import hashlib
from pathlib import Path

import numpy as np
import onnx
import onnxruntime
import pytest
import torch

from pnseg_export.graphs.decoder import DecoderGraph
from pnseg_export.graphs.encoder import EncoderGraph
from pnseg_export.graphs.rewrites import TARGETS
from pnseg_export.macs import file_cost, torch_macs
from pnseg_export.onnx import OPSET, gelu
from pnseg_runtime.bundle import Bundle
from tests.export.networks import images, network, prompter, prompts

# Operators whose output's shape depends on data, and others that TensorRT builds badly or not at all.
UNWANTED = {"OneHot", "NonZero", "GatherND", "ScatterElements", "ScatterND", "Loop", "If", "Scan", "Where", "Einsum"}
DYNAMIC = {"batch", "height", "width", "anchors", "prompts", "points"}
KINDS = [("nano", target) for target in TARGETS] + [("sam", "cpu")]


def run(path: Path, inputs: dict[str, np.ndarray]) -> dict[str, np.ndarray]:
    session = onnxruntime.InferenceSession(str(path), providers=["CPUExecutionProvider"])
    names = [output.name for output in session.get_outputs()]
    return dict(zip(names, session.run(names, inputs), strict=True))


def decode(folder: Path, count: int, windows: int, points: int) -> tuple[dict[str, np.ndarray], tuple]:
    asked = prompts(count, windows, points)
    tensors = {"point_coords": asked.coords, "point_labels": asked.labels, "image_index": asked.image_index}
    features = run(folder / "encoder.onnx", {"image": images(windows).numpy()})
    return run(folder / "decoder.onnx", features | {k: v.numpy() for k, v in tensors.items()}), asked


def graphs_in(folder: Path) -> list[Path]:
    """The graphs of a folder, the segmentor's at least."""
    found = sorted(folder.glob("*.onnx"))
    assert {"encoder", "decoder"} <= {path.stem for path in found}
    return found


@pytest.mark.slow
@torch.no_grad()
@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize(("count", "windows", "points"), [(1, 1, 1), (9, 3, 2), (2, 1, 4)])
def test_files_give_the_networks_masks_for_any_number_of_windows_prompts_and_points(
    exported, kind, count, windows, points
):
    given, asked = decode(exported(kind), count, windows, points)
    expected = network(kind[0])(images(windows), asked)
    np.testing.assert_allclose(given["mask_logits"], expected.mask_logits, rtol=1e-6, atol=3e-4)
    np.testing.assert_allclose(given["iou"], expected.iou, atol=1e-4)


@pytest.mark.slow
@torch.no_grad()
@pytest.mark.parametrize("shape", [(1, 3, 32, 32), (2, 3, 96, 160), (1, 3, 256, 256)])
def test_the_prompters_file_gives_its_points_for_any_size(exported, shape):
    image = torch.randn(shape, generator=torch.Generator().manual_seed(0))
    given = run(exported(KINDS[0]) / "prompter.onnx", {"image": image.numpy()})
    for name, expected in prompter()(image)._asdict().items():
        np.testing.assert_allclose(given[name], expected, atol=1e-4, err_msg=name)


@pytest.mark.slow
def test_files_are_valid_and_use_no_operator_that_an_engine_lacks(exported):
    for kind in KINDS:
        for path in graphs_in(exported(kind)):
            model = onnx.load(path)
            onnx.checker.check_model(model, full_check=True)
            onnx.shape_inference.infer_shapes(model, check_type=True, strict_mode=True, data_prop=True)
            assert [(opset.domain, opset.version) for opset in model.opset_import] == [("", OPSET)], path
            if "plain" not in kind:
                assert not UNWANTED & {node.op_type for node in model.graph.node}, path


@pytest.mark.slow
def test_only_declared_axes_are_dynamic(exported):
    for kind in KINDS:
        for path in graphs_in(exported(kind)):
            graph = onnx.load(path).graph
            axes = {d.dim_param for v in (*graph.input, *graph.output) for d in v.type.tensor_type.shape.dim}
            assert set() < axes - {""} <= DYNAMIC


@pytest.mark.slow
def test_rewritten_files_resize_no_parameter(exported):
    for part in ("encoder", "decoder"):
        graph = onnx.load(exported(("sam", "cpu")) / f"{part}.onnx").graph
        assert "Resize" not in {node.op_type for node in graph.node}


@pytest.mark.slow
def test_the_same_checkpoints_give_the_same_files_bit_for_bit(bundle_folder, exported_again):
    graphs = Bundle.open(bundle_folder).manifest.graphs
    assert set(exported_again) == set(graphs) == {"prompter", "encoder", "decoder"}
    for name, path in exported_again.items():
        assert hashlib.sha256(path.read_bytes()).hexdigest() == graphs[name].sha256, name


@pytest.mark.slow
def test_onnx_runtime_recognises_the_gelu(exported, tmp_path):
    options = onnxruntime.SessionOptions()
    options.optimized_model_filepath = str(tmp_path / "optimised.onnx")
    onnxruntime.InferenceSession(str(exported(("sam", "cpu")) / "encoder.onnx"), options)
    operators = [node.op_type for node in onnx.load(tmp_path / "optimised.onnx").graph.node]
    assert sum(operator in {"Gelu", "BiasGelu"} for operator in operators) == 2
    assert "Erf" not in operators


def test_an_approximated_gelu_is_refused():
    with pytest.raises(ValueError, match="tanh"):
        gelu(None, approximate="tanh")


@pytest.mark.slow
@torch.no_grad()
@pytest.mark.parametrize("kind", KINDS)
def test_macs_counted_from_files_and_by_pytorch_agree(exported, kind):
    sizes = {"batch": 2, "height": 256, "width": 256, "prompts": 5, "points": 3}
    rewrites = TARGETS[kind[1]]
    encoder, decoder = EncoderGraph(network(kind[0]), rewrites), DecoderGraph(network(kind[0]), rewrites)
    features = encoder(images(2))
    by_torch = {
        "encoder": torch_macs(encoder, images(2)),
        "decoder": torch_macs(decoder, *features, *prompts(5, 2, 3)),
    }
    if (exported(kind) / "prompter.onnx").exists():
        by_torch["prompter"] = torch_macs(prompter(), images(2))
    for part, expected in by_torch.items():
        counted = file_cost(exported(kind) / f"{part}.onnx", sizes).macs
        assert counted == pytest.approx(expected, rel=0.01), part
