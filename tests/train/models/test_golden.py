"""Published checkpoints load unchanged and give the reference implementation's numbers."""

import numpy as np
import pytest
import torch

from pnseg_runtime.prompts import decode_points, filter_by_region, nearest_negatives, suppress_points
from pnseg_train.models.segmentor import Prompts, Segmentor, full_size
from tests import golden
from tests.published import PROMPTERS, load_prompter, load_segmentor


@pytest.fixture(scope="module", autouse=True)
def _one_thread():
    torch.set_num_threads(2)


@pytest.fixture(scope="module")
def segmentor() -> Segmentor:
    return load_segmentor()


@pytest.mark.parametrize(("name", "i"), PROMPTERS)
@torch.no_grad()
def test_prompter_gives_the_recorded_outputs(name, i):
    recorded = golden.arrays(name)
    output = load_prompter(name)(torch.from_numpy(recorded[f"image_{i}"]))
    np.testing.assert_allclose(output.points, recorded[f"pred_coords_{i}"], atol=1e-4)
    np.testing.assert_allclose(output.class_logits, recorded[f"pred_logits_{i}"], atol=1e-4)
    np.testing.assert_allclose(output.region_logits, recorded[f"pred_masks_{i}"], atol=1e-4)


@pytest.mark.parametrize("filtered", [False, True])
@pytest.mark.parametrize(("name", "i"), PROMPTERS)
@torch.no_grad()
def test_prompter_ends_in_the_recorded_points_and_classes(name, i, filtered):
    recorded = golden.arrays(name)
    image = recorded[f"image_{i}"]
    output = load_prompter(name)(torch.from_numpy(image))
    points = decode_points(output.points[0].numpy(), output.class_logits[0].numpy(), image.shape[2:])
    if filtered:
        points = points.select(filter_by_region(points.coords, output.region_logits[0, 0].numpy()))
    points = points.select(suppress_points(points.coords, points.scores, 12))
    order = np.lexsort(points.coords.T)
    expected = recorded[f"points_{i}_filter{int(filtered)}"]
    expected_order = np.lexsort(expected.T)
    np.testing.assert_allclose(points.coords[order], expected[expected_order], atol=1e-4)
    np.testing.assert_array_equal(points.classes[order], recorded[f"classes_{i}_filter{int(filtered)}"][expected_order])


@torch.no_grad()
def test_segmentor_gives_the_recorded_embeddings_masks_and_ious(segmentor):
    recorded = golden.arrays("segmentor_tiny")
    features = segmentor.encode(torch.from_numpy(recorded["images"]))
    np.testing.assert_allclose(features.embedding, recorded["image_embeddings"], atol=1e-4)
    index = torch.repeat_interleave(torch.arange(2), torch.from_numpy(recorded["prompts_per_image"]))
    prompts = Prompts(
        torch.from_numpy(recorded["prompt_points"]), torch.from_numpy(recorded["prompt_labels"]).float(), index
    )
    output = segmentor.decode(features, prompts)
    np.testing.assert_allclose(output.mask_logits, recorded["low_res_masks"][:, 0], atol=1e-4)
    np.testing.assert_allclose(output.iou, recorded["pred_ious"], atol=1e-4)
    rows = recorded["pred_masks_rows"]
    np.testing.assert_allclose(full_size(output.mask_logits)[rows], recorded["pred_masks"], atol=1e-4)


@pytest.mark.parametrize(("kind", "points"), [("lone", 2), ("pos_only", 1)])
@torch.no_grad()
def test_segmentor_gives_the_recorded_mask_of_a_nucleus_without_neighbours(segmentor, kind, points):
    recorded = golden.arrays("segmentor_tiny")
    prompts = Prompts(
        torch.from_numpy(recorded["lone_points"])[:, :points],
        torch.from_numpy(recorded["lone_labels"])[:, :points].float(),
        torch.zeros(1, dtype=torch.int64),
    )
    output = segmentor(torch.from_numpy(recorded["images"][:1]), prompts)
    np.testing.assert_allclose(full_size(output.mask_logits), recorded[f"{kind}_masks"], atol=1e-4)
    np.testing.assert_allclose(output.iou, recorded[f"{kind}_ious"], atol=1e-4)


@pytest.mark.parametrize("k", [1, 2])
def test_nearest_negatives_are_the_recorded_ones(k):
    recorded = golden.arrays("segmentor_tiny")
    coords, labels = nearest_negatives(recorded[f"knn_in_k{k}"][:, 0], k)
    np.testing.assert_array_equal(coords, recorded[f"knn_points_k{k}"])
    np.testing.assert_array_equal(labels, recorded[f"knn_labels_k{k}"])
