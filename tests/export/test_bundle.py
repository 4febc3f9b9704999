"""From two checkpoints to a bundle that predicts, and nothing kept when the graphs are wrong."""

import json
import shutil
from pathlib import Path

import numpy as np
import pytest
import torch

from pnseg_export import bundle as exporting
from pnseg_export.bundle import describe_pair, export_bundle
from pnseg_runtime.bundle import Bundle
from pnseg_runtime.errors import PnsegError
from pnseg_runtime.images import read_image
from pnseg_runtime.metrics import panoptic_quality
from pnseg_runtime.segmenter import Segmenter
from pnseg_train.checkpoints import Card, build, save_checkpoint
from pnseg_train.inference import open_checkpoints
from pnseg_train.recipes import read_recipe
from tests import golden

pytestmark = pytest.mark.slow


@pytest.fixture(scope="module")
def tiles() -> list[np.ndarray]:
    return [read_image(path).pixels for path in sorted((golden.TILES / "images").iterdir())[:2]]


@pytest.fixture(scope="module")
def checkpoints(tmp_path_factory) -> tuple[Path, Path]:
    """nano with random weights, but for a class head that proposes some points."""
    torch.manual_seed(0)
    folders = tmp_path_factory.mktemp("prompter"), tmp_path_factory.mktemp("segmentor")
    for folder in folders:
        card = Card(
            network="prompter" if folder is folders[0] else "segmentor",
            recipe=read_recipe("nano", {"inference.region_filter": False}),
            licences=["CC0-1.0"],
        )
        network = build(card, pretrained=True)
        save_checkpoint(folder, network, card)
    return folders


@pytest.fixture(scope="module")
def exported(checkpoints, tiles, tmp_path_factory) -> Path:
    out = tmp_path_factory.mktemp("bundles") / "random"
    export_bundle(*describe_pair(*checkpoints), out, tiles)
    return out


def test_manifest_says_what_was_exported_and_how_well(exported, checkpoints):
    manifest = Bundle.open(exported).manifest
    assert set(manifest.graphs) == {"prompter", "encoder", "decoder"}
    assert manifest.prompting.anchor_spacing == 8
    assert manifest.provenance.data_licences == ["CC0-1.0"]
    assert set(manifest.provenance.checkpoints) == {"prompter", "segmentor"}
    assert manifest.parity["tiles"] == 2
    assert set(manifest.parity["largest_difference"]) == set(exporting.TOLERANCE)
    assert manifest.graphs["prompter"].inputs == {"image": ["batch", 3, "height", "width"]}
    assert manifest.graphs["decoder"].outputs["iou"] == ["prompts"]


def test_bundle_and_checkpoints_find_the_same_nuclei(exported, checkpoints, tiles):
    by_graphs, by_torch = Segmenter(Bundle.open(exported)), open_checkpoints(*checkpoints)
    for tile in tiles:
        expected, given = by_torch.predict(tile), by_graphs.predict(tile)
        assert len(given) == len(expected) > 0
        # Random weights give near ties in predicted IoU, so the order may differ.
        distance = np.linalg.norm(given.points[:, None] - expected.points, axis=2)
        assert distance.min(axis=1).max() < 1e-2
        assert len(set(distance.argmin(axis=1))) == len(expected)
        assert panoptic_quality(expected.instance_map(), given.instance_map())["pq"] > 0.99


def test_files_hold_no_path_of_the_machine_that_made_them(exported):
    for path in exported.iterdir():
        content = path.read_bytes()
        assert str(Path.cwd()).encode() not in content
        assert b"site-packages" not in content


def test_an_existing_bundle_is_not_overwritten_unasked(exported, checkpoints, tiles):
    before = (exported / "manifest.json").read_bytes()
    with pytest.raises(PnsegError, match="exists already"):
        export_bundle(*describe_pair(*checkpoints), exported, tiles)
    assert (exported / "manifest.json").read_bytes() == before


def test_a_graph_that_differs_from_its_network_is_not_kept(checkpoints, tiles, tmp_path, monkeypatch):
    prompter, segmentor, manifest = describe_pair(*checkpoints)
    export_graphs = exporting.export_graphs

    def with_a_fault(first, *rest):
        with torch.no_grad():
            first.reg_head.layers[3].bias[0] += 0.5  # half a pixel, in the graph alone
            graphs = export_graphs(first, *rest)
            first.reg_head.layers[3].bias[0] -= 0.5
        return graphs

    monkeypatch.setattr(exporting, "export_graphs", with_a_fault)
    with pytest.raises(PnsegError, match="points"):
        export_bundle(prompter, segmentor, manifest, tmp_path / "wrong", tiles)
    assert not list(tmp_path.iterdir())


def test_checkpoints_in_the_wrong_order_are_refused(checkpoints):
    with pytest.raises(PnsegError, match="prompter's checkpoint first"):
        describe_pair(*reversed(checkpoints))


def test_a_changed_byte_is_refused(exported, tmp_path):
    copy = tmp_path / "copy"
    shutil.copytree(exported, copy)
    content = bytearray((copy / "decoder.onnx").read_bytes())
    content[len(content) // 2] ^= 1
    (copy / "decoder.onnx").write_bytes(content)
    with pytest.raises(PnsegError, match=r"decoder\.onnx"):
        Bundle.open(copy)


def test_a_newer_manifest_is_refused(exported, tmp_path):
    copy = tmp_path / "copy"
    shutil.copytree(exported, copy)
    document = json.loads((copy / "manifest.json").read_text())
    (copy / "manifest.json").write_text(json.dumps(document | {"format_version": 99, "new_field": 1}))
    with pytest.raises(PnsegError, match="newer pnseg"):
        Bundle.open(copy)
