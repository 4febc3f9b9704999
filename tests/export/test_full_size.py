"""PromptNucSeg-B whole, with random weights, as it is exported."""

from pathlib import Path

import numpy as np
import pytest
import torch

from benchmarks.networks import random_pair
from pnseg_export.bundle import export_graphs
from pnseg_export.macs import file_cost
from pnseg_runtime.sessions.onnxruntime import open_session
from pnseg_train.models.prompter import Prompter
from pnseg_train.models.segmentor import Segmentor
from tests.export.networks import images, prompts, randomised

pytestmark = pytest.mark.slow


@pytest.fixture(scope="module")
def networks() -> tuple[Prompter, Segmentor]:
    prompter, segmentor = random_pair("B")
    randomised(segmentor)
    return prompter, segmentor


@pytest.fixture(scope="module")
def folder(networks, tmp_path_factory) -> Path:
    folder = tmp_path_factory.mktemp("B")
    export_graphs(*networks, folder)
    return folder


def test_it_needs_at_most_47_6_gmacs_for_24_nuclei(folder):
    sizes = {"batch": 1, "height": 256, "width": 256, "prompts": 24, "points": 2}
    gmacs = {path.stem: file_cost(path, sizes).macs / 1e9 for path in folder.glob("*.onnx")}
    assert set(gmacs) == {"prompter", "encoder", "decoder"}
    assert sum(gmacs.values()) == pytest.approx(46.77, abs=0.01)


@torch.no_grad()
def test_onnx_runtime_gives_the_networks_points_and_masks(networks, folder):
    prompter, segmentor = networks
    image, asked = images(1), prompts(3, windows=1)
    run = {part: open_session(folder / f"{part}.onnx") for part in ("prompter", "encoder", "decoder")}
    points = run["prompter"]({"image": image.numpy()})
    for name, expected in prompter(image)._asdict().items():
        np.testing.assert_allclose(points[name], expected, atol=1e-4, err_msg=name)
    features = run["encoder"]({"image": image.numpy()})
    tensors = {"point_coords": asked.coords, "point_labels": asked.labels, "image_index": asked.image_index}
    masks = run["decoder"](features | {name: tensor.numpy() for name, tensor in tensors.items()})
    expected = segmentor(image, asked)
    np.testing.assert_allclose(masks["mask_logits"], expected.mask_logits, atol=1e-4)
    np.testing.assert_allclose(masks["iou"], expected.iou, atol=1e-4)
