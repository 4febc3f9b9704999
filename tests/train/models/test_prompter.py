"""Where a prompter reads its features: on a fixed grid, or stretched over the image as published weights expect."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor, nn

from pnseg_train.models.prompter import Prompter, PrompterOutput, sample_at

SPACING = 8
FROM, CUT = 64, 192  # px: where a part of an image begins, and what of it no padding reaches


class BlindBackbone(nn.Module):
    """Features at four strides, each of the pixels under it and of no others."""

    channels = (4, 4, 4, 4)

    def forward(self, image: Tensor) -> list[Tensor]:
        pooled = [nn.functional.avg_pool2d(image, stride) for stride in (4, 8, 16, 32)]
        return [torch.cat([features, features.prod(dim=1, keepdim=True)], dim=1) for features in pooled]


def prompter(fixed_grid: bool) -> Prompter:
    torch.manual_seed(0)
    network = Prompter(BlindBackbone(), 8, 3, SPACING, 1, fixed_grid=fixed_grid)
    for module in network.modules():
        if isinstance(module, nn.Conv2d | nn.Linear):
            nn.init.normal_(module.weight, std=0.3)
    return network.eval()


@torch.no_grad()
def farthest_difference(network: Prompter) -> dict[str, float]:
    """How much each output changes where it is far from where an image is cut in two, at most."""
    torch.manual_seed(1)
    image = torch.rand(1, 3, 256, 512)
    whole, part = as_maps(network(image), 256, 512), as_maps(network(image[..., FROM:]), 256, 512 - FROM)
    part["points"][..., 0] += FROM
    differences = {}
    for name, values in whole.items():
        scale = values.shape[2] / 512
        kept = slice(round((FROM + CUT) * scale), None), slice(round(CUT * scale), None)
        differences[name] = float((values[:, :, kept[0]] - part[name][:, :, kept[1]]).abs().max())
    return differences


def as_maps(output: PrompterOutput, height: int, width: int) -> dict[str, Tensor]:
    anchors = (1, height // SPACING, width // SPACING, -1)
    return {
        "points": output.points.reshape(anchors),
        "class_logits": output.class_logits.reshape(anchors),
        "region_logits": output.region_logits[:, 0, :, :, None],
    }


def test_on_a_fixed_grid_an_image_cut_in_two_has_the_points_that_it_has_in_one_piece():
    assert max(farthest_difference(prompter(fixed_grid=True)).values()) < 1e-3


@pytest.mark.parametrize("output", ["points", "class_logits", "region_logits"])
def test_features_stretched_over_the_image_make_every_output_depend_on_its_size(output):
    assert farthest_difference(prompter(fixed_grid=False))[output] > 0.02


@pytest.mark.parametrize("width", [8, 16])
def test_on_a_fixed_grid_a_feature_is_read_at_the_centre_of_its_pixels(width):
    features = torch.arange(float(width)).expand(1, 1, 4, width)
    points = torch.tensor([[[[2.0, 8.0], [6.0, 8.0], [14.0, 8.0], [16.0, 8.0]]]])
    torch.testing.assert_close(sample_at(features, points, 4, fixed=True).flatten(), torch.tensor([0.0, 1.0, 3.0, 3.5]))


def test_stretched_a_feature_is_read_at_a_place_that_the_width_decides():
    places = [
        sample_at(torch.arange(float(width)).expand(1, 1, 4, width), torch.tensor([[[[16.0, 8.0]]]]), 4).item()
        for width in (8, 16)
    ]
    assert places == pytest.approx([4 * 7 / 8, 4 * 15 / 16])
