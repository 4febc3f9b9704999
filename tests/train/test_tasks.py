"""Validation while a network is trained: it sees images as the runtime does."""

import numpy as np
import pytest
import torch
from torch import nn

from pnseg_runtime.softening import Blurs, see
from pnseg_train.datasets import Sample
from pnseg_train.inference import points_pipeline
from pnseg_train.models.prompter import PrompterOutput, anchor_grid
from pnseg_train.models.segmentor import SegmentorOutput
from pnseg_train.recipes import read_recipe
from pnseg_train.tasks import SegmentorTask, find_points, judged_windows
from tests.runtime.made import sample
from tests.train.datasets.made import boxes_map, picture

RECIPE = read_recipe("nano", {"inference.colour_blur": 2.0, "inference.nms_radius": 1.0})
SPACING = RECIPE.prompter.spacing


class Everywhere(nn.Module):
    """A prompter for which every anchor is a nucleus, and which notes what it is shown."""

    def __init__(self):
        super().__init__()
        self.one = nn.Parameter(torch.ones(1))
        self.shown = []

    def forward(self, image):
        self.shown.append(image)
        height, width = image.shape[2:]
        points = anchor_grid(height, width, SPACING).flatten(0, 1)[None]
        logits = torch.tensor([9.0, -9.0]).expand(1, points.shape[1], 2)
        return PrompterOutput(points, logits, torch.ones(1, 1, height, width))


class Disc(nn.Module):
    """A segmentor whose every mask is the whole window."""

    def __init__(self):
        super().__init__()
        self.one = nn.Parameter(torch.ones(1))

    def forward(self, image, prompts):
        number = len(prompts.coords)
        return SegmentorOutput(torch.ones(number, 64, 64), torch.ones(number))


@pytest.mark.parametrize(("side", "expected"), [(3, 0.0), (4, 16 / 256**2)])
def test_a_segmentor_that_no_nucleus_judges_has_the_score_zero_and_not_none(side, expected):
    labels = boxes_map({1: (5, 5, 5 + side, 5 + side)}, (256, 256))
    small = Sample("small", picture(256, 256), labels, labels.astype(np.uint8))
    assert len(list(judged_windows(small))) == (side > 3)
    metrics = SegmentorTask(RECIPE).validate(Disc(), [small])
    assert metrics == {"iou": pytest.approx(expected), "oracle_dq": 0.0, "oracle_sq": 0.0}


def test_a_nucleus_in_two_windows_is_judged_in_the_one_that_holds_it_most_centrally():
    labels = boxes_map({1: (100, 190, 120, 210)}, (400, 256))
    (window,) = judged_windows(Sample("one", picture(400, 256), labels, labels.astype(np.uint8)))
    assert window.pixels.area.tolist() == [400]
    np.testing.assert_array_equal(window.image, picture(400, 256)[:256])
    assert (window.instances[190:210, 100:120] == 1).all()


@pytest.mark.parametrize("shape", [(400, 256), (256, 320), (300, 700), (512, 512), (100, 90), (1, 300)])
def test_every_nucleus_is_judged_once(shape):
    height, width = shape
    corners = [(x, y) for y in range(0, height, 20) for x in range(0, width, 20)]
    boxes = {number: (x, y, x + 8, y + 8) for number, (x, y) in enumerate(corners, start=1)}
    labels = boxes_map(boxes, shape)
    seen = list(judged_windows(Sample("many", picture(*shape), labels, (labels > 0).astype(np.uint8))))
    assert all(window.image.shape == (256, 256, 3) and window.instances.shape == (256, 256) for window in seen)
    areas = np.bincount(labels.ravel())[1:]
    assert sum(len(window.pixels.area) for window in seen) == (areas >= 16).sum()


def test_points_of_the_padding_do_not_count_and_colours_are_softened_as_in_the_runtime():
    prompter, image = Everywhere(), sample("he_pink")[:50, :77]
    pipeline = points_pipeline(prompter, RECIPE)
    found = find_points(pipeline, image)
    assert len(found) == -(-50 // SPACING) * -(-77 // SPACING)
    expected = see(image, Blurs.of(pipeline.settings, 1.0)).prompter
    assert not np.array_equal(expected, image)
    mean, std = (
        np.array(v, np.float32) for v in (pipeline.manifest.normalisation.mean, pipeline.manifest.normalisation.std)
    )
    shown = prompter.shown[0][0, :, :50, :77].permute(1, 2, 0).numpy() * std + mean
    np.testing.assert_allclose(shown * 255, expected, atol=0.01)
