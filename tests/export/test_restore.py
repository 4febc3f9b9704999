"""The networks that come out of a bundle compute what its graphs compute, and can be trained further."""

import shutil

import cv2
import numpy as np
import pytest
import torch
from click.testing import CliRunner
from torch import nn

from pnseg_export import restore as module
from pnseg_export.bundle import check
from pnseg_export.cli.restore import samples_of
from pnseg_export.restore import renormalise, restore
from pnseg_runtime.bundle import Bundle
from pnseg_runtime.cli import cli
from pnseg_runtime.errors import PnsegError
from pnseg_train.checkpoints import load_checkpoint
from pnseg_train.recipes import read_recipe
from tests.export.tiles import SIDE, write_coarse
from tests.runtime.made import SAMPLES, sample


@pytest.fixture(scope="module")
def data(tmp_path_factory):
    """The sample images as a training set, with labels that nobody looks at."""
    folder = tmp_path_factory.mktemp("data")
    shutil.copytree(SAMPLES, folder / "images")
    (folder / "labels").mkdir()
    rows = ["id,split"]
    for path in (folder / "images").glob("*.png"):
        labels = np.zeros(cv2.imread(str(path)).shape[:2], np.uint16)
        labels[10:30, 10:30] = 1
        cv2.imwrite(str(folder / "labels" / path.name), labels)
        rows.append(f"{path.stem},train")
    (folder / "index.csv").write_text("\n".join(rows))
    return folder


@pytest.fixture(scope="module")
def restored(data, tmp_path_factory):
    out = tmp_path_factory.mktemp("restored")
    result = CliRunner().invoke(cli, ["restore", "nano", "--out", str(out), "--data", str(data)])
    assert result.exit_code == 0, result.output
    assert "largest difference" in result.output
    return out


@pytest.mark.slow
def test_the_restored_networks_are_the_graphs(restored):
    networks = [load_checkpoint(restored / part)[0] for part in ("prompter", "segmentor")]
    found = check(Bundle.open("nano").folder, *networks, [sample("he_pink"), sample("purple_crowded")])
    assert found["pq_against_pytorch"] == 1.0
    assert found["nuclei_pytorch"] == found["nuclei_graphs"] > 50


@pytest.mark.slow
def test_the_card_says_where_they_come_from_and_how_they_predict(restored):
    manifest = Bundle.open("nano").manifest
    for part in ("prompter", "segmentor"):
        card = load_checkpoint(restored / part)[1]
        assert card.network == part
        assert card.imported.startswith("nano ")
        assert card.licences == manifest.provenance.data_licences
        assert card.recipe.inference.sensitivity == manifest.prompting.sensitivity
        assert card.recipe.inference.nms_iou == manifest.masking.nms_iou
        assert card.recipe.inference.nms_overlap == manifest.masking.nms_overlap
        assert card.recipe.inference.iou_threshold == manifest.masking.iou_threshold
        assert card.recipe.inference.colour_blur == manifest.colour_blur


@pytest.mark.slow
def test_a_batch_in_training_is_normalised_about_as_the_graphs_were(restored, data):
    network, card = load_checkpoint(restored / "prompter")
    from pnseg_export.cli.restore import crops_of
    from pnseg_train.datasets import open_dataset

    crops = crops_of(list(open_dataset(data, "train")), card.recipe)
    with torch.no_grad():
        expected = network(crops).class_logits
        for norm in network.modules():
            norm.train(isinstance(norm, nn.BatchNorm2d))  # and not what drops features at random
        trained = network(crops).class_logits
    assert torch.allclose(trained, expected, atol=1e-2), "the norms' statistics are those of these very crops"


@pytest.mark.slow
def test_checkpoints_that_are_there_are_not_replaced_unasked(restored, data):
    result = CliRunner().invoke(cli, ["restore", "nano", "--out", str(restored), "--data", str(data)])
    assert result.exit_code == 1
    assert "holds a checkpoint already" in result.output


def test_norms_see_data_of_another_resolution_at_the_models(tmp_path):
    write_coarse(tmp_path)
    (tmp_path / "index.csv").write_text("id,split,mpp\na,train,0.5\n")
    (seen,) = samples_of([tmp_path], read_recipe("nano"))
    assert seen.mpp == 0.25
    assert seen.image.shape == (SIDE, SIDE, 3)
    assert seen.instances.shape == (SIDE, SIDE)


def test_statistics_change_norms_and_no_output():
    torch.manual_seed(0)
    network = nn.Sequential(nn.Conv2d(3, 4, 3), nn.BatchNorm2d(4), nn.ReLU(), nn.Conv2d(4, 2, 1), nn.BatchNorm2d(2))
    for norm in (network[1], network[4]):
        nn.init.uniform_(norm.weight, 0.5, 2.0)
        nn.init.normal_(norm.bias)
        norm.running_var.uniform_(0.5, 3.0)
    network.eval()
    images = torch.randn(5, 3, 9, 9)
    with torch.no_grad():
        before, inner = network(images), network[0](images)
        renormalise(network, lambda: network(images))
        assert torch.allclose(network(images), before, atol=1e-5)
        assert torch.allclose(network[1].running_mean, inner.mean((0, 2, 3)), atol=1e-6)
        assert torch.allclose(network.train()(images), before, atol=1e-5)


def test_a_sam_cannot_be_restored():
    with pytest.raises(PnsegError, match="positions were resized"):
        restore(Bundle.open("nano"), read_recipe("pannuke-123"))


def test_graphs_of_another_make_are_refused(monkeypatch):
    monkeypatch.setattr(module, "_exported", lambda *_: {("prompter", "another"): np.zeros(3, np.float32)})
    with pytest.raises(PnsegError, match="not those that this version makes"):
        restore(Bundle.open("nano"), read_recipe("nano"))
