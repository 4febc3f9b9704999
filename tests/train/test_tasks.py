"""Validation while a network is trained: it sees images as the runtime does."""

import numpy as np
import torch
from torch import nn

from pnseg_runtime.softening import Blurs, see
from pnseg_train.inference import points_pipeline
from pnseg_train.models.prompter import PrompterOutput, anchor_grid
from pnseg_train.recipes import read_recipe
from pnseg_train.tasks import find_points
from tests.runtime.made import sample

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
