"""B's networks with random weights among which a few are planted, so that masks are discs around their prompts.

A random decoder's masks cover half a window: all of them would be dropped at the windows' borders, and
whether a reduced precision keeps them would mean nothing. Here fourteen channels of the segmentor carry
the position: the encoder's absolute positions put cos and sin of a few spatial frequencies into
them, every layer leaves them alone, and the mask token gets those of its prompt by attending to it.
The product of both is largest where the pixel is the prompt; less a constant it is a disc of about the
radius of a nucleus. A random projection of all other channels bends its outline, so it depends on
everything that the networks compute. No layer is added, removed or made smaller.
"""

from __future__ import annotations

from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn

from benchmarks.networks import random_pair
from pnseg_runtime.bundle import Normalisation
from pnseg_runtime.pixels import normalise
from pnseg_train.models.prompter import Prompter
from pnseg_train.models.segmentor import WINDOW, Prompts, Segmentor

FREQUENCIES = 7  # of the position, each a cosine and a sine
PLACES = 2 * FREQUENCIES  # channels of the embedding that carry the position
FLAG = 127  # channel of the point embedding that marks the positive prompt
LEVEL = 0.75  # of its largest value, where the disc's border is
BEND = 0.03  # standard deviation of the random part, of that value
SPREAD = 2.4  # of the frequencies, periods over half a window: a disc's radius is about 13.6 px / SPREAD
PREDICTED_IOU = 0.8


def planted_pair(size: str, pixels: NDArray[np.uint8]) -> tuple[Prompter, Segmentor]:
    """Both networks of a size with SAM's ViT, the same weights every time.

    Args:
        size: B, L or H.
        pixels: (256, 256, 3) uint8, a tile on which the discs' border is adjusted.
    """
    prompter, segmentor = random_pair(size)
    with torch.no_grad():
        frequencies = chosen_frequencies()
        _plant_encoder(segmentor, frequencies)
        _plant_tokens(segmentor, frequencies)
        _plant_upscaling(segmentor, frequencies)
        _adjust(segmentor, torch.from_numpy(normalise(pixels[None], Normalisation())))
    return prompter, segmentor


def chosen_frequencies(tries: int = 400) -> Tensor:
    """(2, 7) frequencies (x, y) whose common wave repeats least within a window."""
    generator = np.random.default_rng(0)
    steps = np.linspace(-2, 2, 81)  # differences of two places, of half a window
    dx, dy = np.meshgrid(steps, steps)
    far = np.hypot(dx, dy) > 0.45
    best: tuple[float, NDArray[Any]] = (np.inf, np.empty(0))
    for _ in range(tries):
        found = generator.normal(0, SPREAD, (2, FREQUENCIES))
        wave = np.cos(2 * np.pi * (dx[..., None] * found[0] + dy[..., None] * found[1])).mean(axis=-1)
        best = min(best, (float(wave[far].max()), found), key=lambda entry: entry[0])
    return torch.from_numpy(best[1]).float()


def waves(places: Tensor, frequencies: Tensor) -> Tensor:
    """(…, 14) cosines, then sines, at places (…, 2), px."""
    angles = 2 * torch.pi * ((2 * places / WINDOW - 1) @ frequencies)
    return torch.cat([angles.cos(), angles.sin()], dim=-1)


def turned(offset: tuple[float, float], frequencies: Tensor) -> Tensor:
    """(14, 14) matrix that turns the waves of a place into those of the place ``offset`` px from it."""
    angles = 2 * torch.pi * (2 * torch.tensor(offset) / WINDOW @ frequencies)
    cos, sin = angles.cos().diag(), angles.sin().diag()
    return torch.cat([torch.cat([cos, -sin], dim=1), torch.cat([sin, cos], dim=1)])


def _plant_encoder(segmentor: Segmentor, frequencies: Tensor) -> None:
    encoder: Any = segmentor.image_encoder
    positions = encoder.pos_embed
    side = positions.shape[1]
    centres = (torch.arange(side) + 0.5) * (WINDOW / side)
    grid = torch.stack(torch.meshgrid(centres, centres, indexing="xy"), dim=-1)
    positions.normal_(std=0.02)
    positions[0, :, :, :PLACES] = waves(grid, frequencies)
    left_alone = [encoder.patch_embed.proj]
    for block in encoder.blocks:
        left_alone += [block.attn.proj, block.mlp.lin2]
        block.attn.rel_pos_h.normal_(std=0.02)
        block.attn.rel_pos_w.normal_(std=0.02)
    for layer in left_alone:
        _leave_alone(layer, range(PLACES))
    for convolution in (encoder.neck[0], encoder.neck[2]):
        middle = convolution.kernel_size[0] // 2
        convolution.weight[:PLACES] = 0
        convolution.weight[range(PLACES), range(PLACES), middle, middle] = 1


def _plant_tokens(segmentor: Segmentor, frequencies: Tensor) -> None:
    """The mask token becomes its positive prompt's embedding, and keeps the waves of it."""
    prompts, decoder = segmentor.prompt_encoder, segmentor.mask_decoder
    gaussian = prompts.pe_layer.positional_encoding_gaussian_matrix
    gaussian.mul_(30)  # the other waves so cancel in a norm's mean, wherever the prompt is
    gaussian[:, :FREQUENCIES] = frequencies
    gaussian[:, FLAG] = 0
    others = (prompts.not_a_point_embed, decoder.iou_token, decoder.mask_tokens, *prompts.point_embeddings)
    for embedding in others:
        embedding.weight.mul_(0.1)
        embedding.weight[:, FLAG] = 0
    prompts.point_embeddings[1].weight[:, FLAG] = 5
    kept = _kept(gaussian.shape[1])
    transformer = decoder.transformer
    for block in transformer.layers:
        for layer in (block.self_attn.out_proj, block.cross_attn_token_to_image.out_proj, block.mlp.lin2):
            _leave_alone(layer, kept)
        _leave_alone(block.cross_attn_image_to_token.out_proj, range(PLACES))
    _leave_alone(transformer.final_attn_token_to_image.out_proj, kept)
    first = transformer.layers[0].self_attn
    head = first.internal_dim // first.num_heads
    for projection in (first.q_proj, first.k_proj):
        projection.weight.zero_()
        projection.bias.zero_()
    first.q_proj.bias[::head] = 20
    first.k_proj.weight[::head, FLAG] = 1
    for projection in (first.v_proj, first.out_proj):
        nn.init.eye_(projection.weight)
        nn.init.zeros_(projection.bias)


def _plant_upscaling(segmentor: Segmentor, frequencies: Tensor) -> None:
    """The waves at each of the 4×4 pixels of a token. x = GELU(x) − GELU(−x), so every channel has its opposite."""
    decoder = segmentor.mask_decoder
    first, _, _, second, _ = decoder.output_upscaling
    half, quarter = first.out_channels // 2, second.out_channels // 2
    amplitude = (FREQUENCIES / half) ** -0.5  # of a wave behind the norm
    first.weight[:, :half] *= 0.2
    first.bias.zero_()
    second.weight.mul_(0.2)
    second.bias.zero_()
    for y in (0, 1):
        for x in (0, 1):
            first.weight[:, :PLACES, y, x] = 0
            first.weight[:PLACES, :PLACES, y, x] = turned((8 * x - 4, 8 * y - 4), frequencies).T
            second.weight[:PLACES, :quarter, y, x] = 0
            second.weight[:PLACES, :PLACES, y, x] = turned((4 * x - 2, 4 * y - 2), frequencies).T / amplitude
            second.weight[PLACES:half, :PLACES, y, x] = 0
            second.weight[:half, PLACES, y, x] = 0  # a constant: its bias
    second.bias[PLACES], second.bias[quarter + PLACES] = 1, -1
    first.weight[:, half:] = -first.weight[:, :half]
    second.weight[half:, :quarter] = -second.weight[:half, :quarter]
    second.weight[:, quarter:] = -second.weight[:, :quarter]
    network = decoder.output_hypernetworks_mlps[0].layers
    kept = _kept(segmentor.prompt_encoder.pe_layer.positional_encoding_gaussian_matrix.shape[1])
    for layer in network:
        layer.bias.zero_()
    network[0].weight[: 2 * PLACES] = 0
    network[0].weight[range(PLACES), kept] = 1
    network[0].weight[range(PLACES, 2 * PLACES), kept] = -1
    network[1].weight[: 2 * PLACES] = 0
    network[1].weight[range(2 * PLACES), range(2 * PLACES)] = 1
    # Waves first, then the constant, then the random part.
    network[2].weight[:quarter] = 0
    network[2].weight[range(PLACES), range(PLACES)] = 1
    network[2].weight[range(PLACES), range(PLACES, 2 * PLACES)] = -1
    network[2].weight[quarter:] = -network[2].weight[:quarter]
    rating = decoder.iou_prediction_head.layers[-1]
    rating.bias.fill_(PREDICTED_IOU)


def _adjust(segmentor: Segmentor, image: Tensor) -> None:
    """Set the constant and the random part by the masks of a grid of prompts on one window."""
    last = segmentor.mask_decoder.output_hypernetworks_mlps[0].layers[2]
    quarter = last.out_features // 2
    places = torch.arange(34.0, WINDOW - 32, 24)
    coords = torch.stack(torch.meshgrid(places, places, indexing="xy"), dim=-1).reshape(-1, 1, 2)
    count = len(coords)
    asked = Prompts(coords, torch.ones(count, 1), torch.zeros(count, dtype=torch.int64))

    def bias(channel: int, value: float) -> None:
        last.bias[channel], last.bias[quarter + channel] = value, -value

    def logits() -> Tensor:
        return segmentor(image, asked).mask_logits

    waves_alone = logits()
    bias(PLACES + 1, 1.0)
    bend = (logits() - waves_alone).std()
    cells = (coords[:, 0] / 4).long()
    largest = waves_alone[range(count), cells[:, 1], cells[:, 0]].mean()
    bias(PLACES + 1, float(BEND * largest / bend))
    bias(PLACES, float(-LEVEL * largest))


def _kept(count: int) -> list[int]:
    """Channels of a point embedding that carry the waves: cosines, then sines."""
    return [*range(count, count + FREQUENCIES), *range(FREQUENCIES)]


def _leave_alone(layer: nn.Module, channels: Any) -> None:
    """Nothing is written into these channels."""
    for parameter in layer.parameters():
        parameter[list(channels)] = 0
