"""The decoder that shares work between prompts gives what SAM's decoder gives."""

import pytest
import torch
from segment_anything.modeling.transformer import Attention

from pnseg_export.graphs.absorbed_attention import TokensReadImage, softmax_in_steps
from pnseg_export.graphs.decoder import DecoderGraph
from pnseg_export.graphs.encoder import EncoderGraph
from pnseg_export.graphs.mask_head import PixelLinear, raster
from pnseg_export.graphs.rewrites import TARGETS
from pnseg_export.graphs.two_way import IMAGE_READS
from tests.export.networks import SIZES, images, prompts, randomised, segmentor


@pytest.fixture
def attention() -> Attention:
    torch.manual_seed(0)
    network = Attention(32, 4, downsample_rate=2)
    randomised(network)
    return network


@torch.no_grad()
@pytest.mark.parametrize("tokens", [1, 5, 9])
def test_tokens_read_the_image_as_sam_lets_them(attention, tokens):
    queries, placed, image = torch.randn(3, tokens, 32), torch.randn(3, 20, 32), torch.randn(3, 20, 32)
    given = TokensReadImage(attention)(queries, placed, image)
    torch.testing.assert_close(given, attention(queries, placed, image), rtol=1e-5, atol=1e-5)


@torch.no_grad()
@pytest.mark.parametrize("few", IMAGE_READS)
@pytest.mark.parametrize("tokens", [1, 5, 9])
def test_the_image_reads_tokens_as_sam_lets_it(attention, tokens, few):
    placed, keys, values = torch.randn(3, 20, 32), torch.randn(3, tokens, 32), torch.randn(3, tokens, 32)
    given = IMAGE_READS[few](attention)(placed, keys, values)
    torch.testing.assert_close(given, attention(placed, keys, values), rtol=1e-5, atol=1e-5)


def test_a_softmax_in_steps_is_the_softmax_even_of_large_logits():
    logits = 200 * torch.randn(2, 3, 7, 20)
    torch.testing.assert_close(softmax_in_steps(logits), logits.softmax(dim=2))


@torch.no_grad()
def test_two_doublings_channels_last_are_two_transposed_convolutions():
    torch.manual_seed(0)
    first, second = torch.nn.ConvTranspose2d(8, 6, 2, 2), torch.nn.ConvTranspose2d(6, 1, 2, 2)
    image = torch.randn(3, 8, 5, 5)
    tokens = image.flatten(2).transpose(1, 2).flatten(0, 1)
    pixels = PixelLinear(second)(PixelLinear(first)(tokens)).reshape(3, -1)
    torch.testing.assert_close(raster(pixels, 5), second(first(image))[:, 0])


@torch.no_grad()
@pytest.mark.parametrize("target", TARGETS)
@pytest.mark.parametrize("size", SIZES)
def test_masks_and_predicted_iou_of_every_target_are_those_of_the_network(size, target):
    network, rewrites = segmentor(size), TARGETS[target]
    features, plain = EncoderGraph(network, rewrites)(images(2)), network.encode(images(2))
    for points in (1, 2, 4):
        asked = prompts(7, windows=2, points=points)
        expected = network.decode(plain, asked)
        logits, iou = DecoderGraph(network, rewrites)(*features, *asked)
        assert expected.mask_logits.std() > 0.05
        # nano's logits go down to minus thousands far from a nucleus, where float32 has no 1e-4.
        torch.testing.assert_close(logits, expected.mask_logits, rtol=1e-6, atol=1e-4)
        torch.testing.assert_close(iou, expected.iou, rtol=0, atol=1e-4)


@torch.no_grad()
def test_a_prompt_gets_its_own_windows_mask_whatever_shares_its_batch():
    network = segmentor("nano")
    encoder, decoder = EncoderGraph(network), DecoderGraph(network)
    image, asked = images(3), prompts(6, windows=3)
    together, _ = decoder(*encoder(image), *asked)
    for prompt, window in enumerate(asked.image_index):
        part = slice(prompt, prompt + 1)
        alone, _ = decoder(
            *encoder(image[window : window + 1]),
            asked.coords[part],
            asked.labels[part],
            torch.zeros(1, dtype=torch.int64),
        )
        torch.testing.assert_close(alone[0], together[prompt], rtol=1e-5, atol=1e-3)


def test_graphs_name_the_tensors_they_give():
    for size in ("nano", "B"):
        network = segmentor(size)
        for rewrites in TARGETS.values():
            encoder, decoder = EncoderGraph(network, rewrites), DecoderGraph(network, rewrites)
            with torch.no_grad():
                features = encoder(images(2))
            for tensor, axes in zip(features, encoder.outputs.values(), strict=True):
                assert list(tensor.shape[1:]) == axes[1:]
            assert list(decoder.inputs)[: len(features)] == list(encoder.outputs)
