"""ConvNeXt on rows of tokens gives timm's features."""

import pytest
import torch

from pnseg_export.graphs.convnext import TokenConvNeXt, as_map, as_tokens
from pnseg_export.graphs.prompter import OnTokens, PrompterGraph
from pnseg_export.graphs.rewrites import PLAIN
from tests.published import load_prompter


@torch.no_grad()
@pytest.mark.parametrize(("height", "width"), [(64, 96), (40, 32), (72, 136)])
def test_the_features_are_unchanged_for_images_of_any_shape(height, width):
    prompter = load_prompter("prompter_pannuke")
    backbone = prompter.backbone.backbone
    for stage in backbone.stages:
        for block in stage.blocks:
            torch.nn.init.normal_(block.gamma, std=0.5, generator=torch.Generator().manual_seed(0))
    image = torch.randn(2, 3, height, width, generator=torch.Generator().manual_seed(0))
    for given, expected in zip(TokenConvNeXt(backbone)(image), backbone(image), strict=True):
        assert expected.std() > 0.1
        torch.testing.assert_close(given, expected, rtol=1e-4, atol=1e-5)


def test_a_map_is_read_row_by_row():
    features = torch.arange(2 * 3 * 4 * 5).reshape(2, 3, 4, 5)
    tokens = as_tokens(features)
    assert tokens[1, 2 * 5 + 3].tolist() == features[1, :, 2, 3].tolist()
    assert (as_map(tokens, 4, 5) == features).all()


def test_the_plain_graph_keeps_timms_maps():
    prompter = load_prompter("prompter_pannuke")
    assert PrompterGraph(prompter, PLAIN).prompter is prompter
    assert isinstance(PrompterGraph(prompter).prompter, OnTokens)
