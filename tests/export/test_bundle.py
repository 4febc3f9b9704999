"""From two checkpoints to a bundle that predicts, and nothing kept when the graphs are wrong."""

import json
import shutil
from pathlib import Path

import numpy as np
import onnx
import pytest
from onnx import helper, numpy_helper

from pnseg_export import bundle as exporting
from pnseg_export.bundle import describe_pair, export_bundle
from pnseg_runtime.bundle import Bundle, file_entry
from pnseg_runtime.errors import PnsegError
from pnseg_runtime.metrics import panoptic_quality
from pnseg_runtime.segmenter import Segmenter
from pnseg_train.checkpoints import Card, build_pair, save_checkpoint
from pnseg_train.inference import open_checkpoints
from pnseg_train.models import sizes
from pnseg_train.recipes import read_recipe

pytestmark = pytest.mark.slow


def test_manifest_says_what_was_exported_and_how_well(bundle_folder, checkpoints):
    manifest = Bundle.open(bundle_folder).manifest
    assert set(manifest.graphs) == {"prompter", "encoder", "decoder"}
    assert manifest.prompting.anchor_spacing == 8
    assert manifest.provenance.data_licences == ["CC0-1.0"]
    assert set(manifest.provenance.checkpoints) == {"prompter", "segmentor"}
    assert manifest.parity["tiles"] == 2
    assert set(manifest.parity["largest_difference"]) == set(exporting.TOLERANCE)
    assert manifest.graphs["prompter"].inputs == {"image": ["batch", 3, "height", "width"]}
    assert manifest.graphs["decoder"].outputs["iou"] == ["prompts"]


def test_bundle_and_checkpoints_find_the_same_nuclei(bundle_folder, checkpoints, tiles):
    by_graphs, by_torch = Segmenter(Bundle.open(bundle_folder)), open_checkpoints(*checkpoints)
    for tile in tiles:
        expected, given = by_torch.predict(tile), by_graphs.predict(tile)
        assert len(given) == len(expected) > 0
        # Random weights give near ties in predicted IoU, so the order may differ.
        distance = np.linalg.norm(given.points[:, None] - expected.points, axis=2)
        assert distance.min(axis=1).max() < 1e-2
        assert len(set(distance.argmin(axis=1))) == len(expected)
        assert panoptic_quality(expected.instance_map(), given.instance_map())["pq"] > 0.99


def test_files_hold_no_path_of_the_machine_that_made_them(bundle_folder):
    for path in bundle_folder.iterdir():
        content = path.read_bytes()
        assert str(Path.cwd()).encode() not in content
        assert b"site-packages" not in content


def test_an_existing_bundle_is_not_overwritten_unasked(bundle_folder, checkpoints, tiles):
    before = (bundle_folder / "manifest.json").read_bytes()
    with pytest.raises(PnsegError, match="exists already"):
        export_bundle(*describe_pair(*checkpoints), bundle_folder, tiles)
    assert (bundle_folder / "manifest.json").read_bytes() == before


def move_points(graph: onnx.GraphProto) -> None:
    """By half a pixel."""
    bias = next(tensor for tensor in graph.initializer if tensor.name == "prompter.reg_head.layers.3.bias")
    bias.CopyFrom(numpy_helper.from_array(numpy_helper.to_array(bias) + np.float32([0.5, 0.0]), bias.name))


def wipe_masks_behind_the_first_window(graph: onnx.GraphProto) -> None:
    """Those of prompts whose ``image_index`` is not 0."""
    for node in graph.node:
        node.output[:] = ["masks" if name == "mask_logits" else name for name in node.output]
    constants = {"zero": np.int64([0]), "wiped": np.float32([-50.0]), "axes": np.int64([1, 2])}
    graph.initializer.extend(numpy_helper.from_array(array, name) for name, array in constants.items())
    graph.node.extend(
        [
            helper.make_node("Equal", ["image_index", "zero"], ["first"]),
            helper.make_node("Unsqueeze", ["first", "axes"], ["of_first"]),
            helper.make_node("Where", ["of_first", "masks", "wiped"], ["mask_logits"]),
        ]
    )


@pytest.mark.parametrize(
    ("name", "plant", "says"),
    [("prompter", move_points, "points"), ("decoder", wipe_masks_behind_the_first_window, "mask_logits")],
)
def test_a_graph_that_differs_from_its_network_is_not_kept(
    name, plant, says, bundle_folder, checkpoints, tiles, tmp_path, monkeypatch
):
    prompter, segmentor, manifest = describe_pair(*checkpoints)

    def with_a_fault(first, second, folder, *rest):
        graphs = Bundle.open(bundle_folder).manifest.graphs
        for entry in graphs.values():
            shutil.copy(bundle_folder / entry.file, folder)
        model = onnx.load(folder / f"{name}.onnx")
        plant(model.graph)
        onnx.save(model, folder / f"{name}.onnx")  # in the graph alone
        changed = file_entry(folder / f"{name}.onnx", folder).model_dump()
        return graphs | {name: graphs[name].model_copy(update=changed)}

    monkeypatch.setattr(exporting, "export_graphs", with_a_fault)
    with pytest.raises(PnsegError, match=says):
        export_bundle(prompter, segmentor, manifest, tmp_path / "wrong", tiles)
    assert not list(tmp_path.iterdir())


@pytest.mark.parametrize(("size", "exported"), [("nano", True), ("B", False)])
def test_a_prompter_over_the_image_encoder_of_a_sam_is_refused_in_a_sentence(size, exported, tmp_path, monkeypatch):
    monkeypatch.setitem(sizes.SEGMENTOR_SIZES, "B", sizes.VitSize(64, 2, 2, (1,)))
    changes = {"size": size, "shared_encoder": True, "inference.pad_multiple": 32}
    card = Card(network="shared", recipe=read_recipe("nano", changes))
    save_checkpoint(tmp_path, build_pair(card), card)
    if exported:
        assert describe_pair(tmp_path / "prompter", tmp_path / "segmentor")[2].model == size
    else:
        with pytest.raises(PnsegError, match="prompter: reads the image encoder of a segmentor of size B, which has"):
            describe_pair(tmp_path / "prompter", tmp_path / "segmentor")


def test_checkpoints_in_the_wrong_order_are_refused(checkpoints):
    with pytest.raises(PnsegError, match="prompter's checkpoint first"):
        describe_pair(*reversed(checkpoints))


def test_a_changed_byte_is_refused(bundle_folder, tmp_path):
    copy = tmp_path / "copy"
    shutil.copytree(bundle_folder, copy)
    content = bytearray((copy / "decoder.onnx").read_bytes())
    content[len(content) // 2] ^= 1
    (copy / "decoder.onnx").write_bytes(content)
    with pytest.raises(PnsegError, match=r"decoder\.onnx"):
        Bundle.open(copy)


def test_a_newer_manifest_is_refused(bundle_folder, tmp_path):
    copy = tmp_path / "copy"
    shutil.copytree(bundle_folder, copy)
    document = json.loads((copy / "manifest.json").read_text())
    (copy / "manifest.json").write_text(json.dumps(document | {"format_version": 99, "new_field": 1}))
    with pytest.raises(PnsegError, match="newer pnseg"):
        Bundle.open(copy)
