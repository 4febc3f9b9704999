"""Graphs of published checkpoints give the reference implementation's numbers, whatever they were exported for."""

from pathlib import Path

import numpy as np
import pytest

from pnseg_export.bundle import export_prompter, export_segmentor
from pnseg_export.graphs.rewrites import TARGETS
from pnseg_runtime.sessions import Runner
from pnseg_runtime.sessions.onnxruntime import open_session
from tests import golden
from tests.published import PROMPTERS, load_prompter, load_segmentor

pytestmark = pytest.mark.slow


@pytest.fixture(scope="module", params=TARGETS)
def segmentor(request, tmp_path_factory) -> tuple[Runner, Runner]:
    folder: Path = tmp_path_factory.mktemp(request.param)
    export_segmentor(load_segmentor(), folder, TARGETS[request.param])
    return open_session(folder / "encoder.onnx"), open_session(folder / "decoder.onnx")


def test_the_segmentors_graphs_give_the_recorded_masks_and_ious(segmentor):
    encoder, decoder = segmentor
    recorded = golden.arrays("segmentor_tiny")
    prompts = {
        "point_coords": recorded["prompt_points"].astype(np.float32),
        "point_labels": recorded["prompt_labels"].astype(np.float32),
        "image_index": np.repeat(np.arange(2), recorded["prompts_per_image"]),
    }
    output = decoder(encoder({"image": recorded["images"]}) | prompts)
    np.testing.assert_allclose(output["mask_logits"], recorded["low_res_masks"][:, 0], atol=1e-4)
    np.testing.assert_allclose(output["iou"], recorded["pred_ious"], atol=1e-4)


@pytest.mark.parametrize(("kind", "points"), [("lone", 2), ("pos_only", 1)])
def test_they_give_the_recorded_iou_of_a_nucleus_without_neighbours(segmentor, kind, points):
    encoder, decoder = segmentor
    recorded = golden.arrays("segmentor_tiny")
    prompts = {
        "point_coords": recorded["lone_points"][:, :points].astype(np.float32),
        "point_labels": recorded["lone_labels"][:, :points].astype(np.float32),
        "image_index": np.zeros(1, np.int64),
    }
    output = decoder(encoder({"image": recorded["images"][:1]}) | prompts)
    np.testing.assert_allclose(output["iou"], recorded[f"{kind}_ious"], atol=1e-4)


#: The graph takes sides that are multiples of λ, to which the runtime pads; one golden image is 250×251.
PADDED = [
    (name, i) for name, i in PROMPTERS if not any(side % 8 for side in golden.arrays(name)[f"image_{i}"].shape[2:])
]


@pytest.fixture(scope="module")
def prompters(tmp_path_factory) -> dict[str, Runner]:
    runners = {}
    for name in dict(PROMPTERS):
        folder = tmp_path_factory.mktemp(name)
        export_prompter(load_prompter(name), folder)
        runners[name] = open_session(folder / "prompter.onnx")
    return runners


@pytest.mark.parametrize(("name", "i"), PADDED)
def test_the_prompters_graph_gives_the_recorded_outputs(prompters, name, i):
    recorded = golden.arrays(name)
    output = prompters[name]({"image": recorded[f"image_{i}"]})
    np.testing.assert_allclose(output["points"], recorded[f"pred_coords_{i}"], atol=1e-4)
    np.testing.assert_allclose(output["class_logits"], recorded[f"pred_logits_{i}"], atol=1e-4)
    np.testing.assert_allclose(output["region_logits"], recorded[f"pred_masks_{i}"], atol=1e-4)
