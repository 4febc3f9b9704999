"""Positions resized at export are those that SAM would resize at run time."""

import torch
from torch.nn import functional as F

from pnseg_export.graphs.positions import absolute_positions, relative_positions
from tests.export.networks import segmentor


def test_absolute_positions_are_the_bicubic_resize_of_the_parameter():
    encoder = segmentor("B").image_encoder
    given = absolute_positions(encoder, 16)
    channels_first = encoder.pos_embed.detach().permute(0, 3, 1, 2)
    expected = F.interpolate(channels_first, size=(16, 16), mode="bicubic", align_corners=False)
    assert encoder.pos_embed.abs().max() > 0.1
    torch.testing.assert_close(given, expected.permute(0, 2, 3, 1))


def test_absolute_positions_of_the_trained_size_stay_as_they_are():
    encoder = segmentor("B").image_encoder
    torch.testing.assert_close(absolute_positions(encoder, 64), encoder.pos_embed.detach(), rtol=0, atol=0)


def test_relative_positions_count_from_key_to_query():
    table = torch.arange(5.0)[:, None]  # offsets -2 … 2 of three tokens
    expected = torch.tensor([[2.0, 1.0, 0.0], [3.0, 2.0, 1.0], [4.0, 3.0, 2.0]])
    torch.testing.assert_close(relative_positions(table, 3)[..., 0], expected)


def test_relative_positions_of_a_larger_table_are_interpolated():
    table = torch.linspace(-1, 1, 127)[:, None]
    positions = relative_positions(table, 16)
    assert positions.shape == (16, 16, 1)
    resized = F.interpolate(table.T[None], size=31, mode="linear")[0, 0]
    torch.testing.assert_close(positions[0, :, 0], resized[:16].flip(0))
    torch.testing.assert_close(positions[15, :, 0], resized[15:].flip(0))


def test_positions_take_no_part_in_training():
    encoder = segmentor("B").image_encoder
    assert not absolute_positions(encoder, 16).requires_grad
    assert not relative_positions(encoder.blocks[0].attn.rel_pos_h, 14).requires_grad
