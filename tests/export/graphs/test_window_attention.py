"""Attention on real tokens alone, windows apart or together, gives what SAM's padded windows give."""

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from segment_anything.modeling.image_encoder import Block

from pnseg_export.graphs.grid_attention import UNSEEN
from pnseg_export.graphs.vit import ATTENTION, FixedSizeEncoder, UnpaddedBlock
from pnseg_export.graphs.window_attention import log_sum, window_regions
from tests.export.networks import images, randomised, segmentor

either = pytest.mark.parametrize("windows", ATTENTION)


@given(side=st.integers(1, 40), window=st.integers(1, 20))
def test_regions_cover_every_token_once_and_stay_inside_their_window(side, window):
    covered = np.zeros((side, side), int)
    for row in window_regions(side, window):
        for region in row:
            covered[region.top : region.bottom, region.left : region.right] += 1
            assert region.top % window == region.left % window == 0
            assert 0 < region.height <= window
            assert 0 < region.width <= window
    assert (covered == 1).all()


def padded_block(window: int, seed: int) -> Block:
    torch.manual_seed(seed)
    block = Block(24, 3, use_rel_pos=True, window_size=window, input_size=(window, window))
    randomised(block, seed)
    return block


@torch.no_grad()
@either
@settings(max_examples=30, deadline=None)
@given(side=st.integers(1, 9), window=st.integers(2, 6), seed=st.integers(0, 99))
def test_a_block_without_padding_equals_the_padded_one_for_any_grid_and_window(windows, side, window, seed):
    block = padded_block(window, seed)
    tokens = torch.randn(2, side, side, 24, generator=torch.Generator().manual_seed(seed))
    given = UnpaddedBlock(block, side, windows)(tokens.flatten(1, 2))
    torch.testing.assert_close(given, block(tokens).flatten(1, 2), rtol=1e-5, atol=1e-5)


@torch.no_grad()
def test_padding_left_out_altogether_would_show():
    block = padded_block(5, 0)
    tokens = torch.randn(1, 7, 7, 24)
    apart, together = (UnpaddedBlock(block, 7, windows) for windows in ATTENTION)
    apart.attention._padding_logit = lambda *_: None
    together.attention._padding_logit = lambda *_: torch.full((1, 3, 49, 1), UNSEEN)
    for without in (apart, together):
        assert (without(tokens.flatten(1, 2)) - block(tokens).flatten(1, 2)).abs().max() > 1e-2


@torch.no_grad()
def test_windows_that_saw_each_other_would_show():
    block = padded_block(5, 0)
    tokens = torch.randn(1, 7, 7, 24)
    together = UnpaddedBlock(block, 7, "together")
    together.attention.unseen.zero_()
    assert (together(tokens.flatten(1, 2)) - block(tokens).flatten(1, 2)).abs().max() > 1e-2


@torch.no_grad()
@either
def test_large_padded_logits_do_not_overflow(windows):
    block = padded_block(5, 0)
    for table in (block.attn.rel_pos_h, block.attn.rel_pos_w):
        table *= 300
    tokens = torch.randn(1, 7, 7, 24)
    given = UnpaddedBlock(block, 7, windows)(tokens.flatten(1, 2))
    assert given.isfinite().all()
    torch.testing.assert_close(given, block(tokens).flatten(1, 2), rtol=1e-4, atol=1e-4)


def test_log_sum_is_the_logarithm_of_a_sum_of_exponentials():
    x = torch.tensor([[0.0, 1.0, -3.0], [500.0, 500.0, 0.0]])
    torch.testing.assert_close(log_sum(x)[:, 0], x.logsumexp(dim=1))


@torch.no_grad()
@either
@pytest.mark.parametrize("size", ["B", "L", "H"])
def test_the_embedding_of_sam_is_unchanged(size, windows):
    encoder = segmentor(size).image_encoder
    image = images(2)
    expected = encoder(image)
    assert expected.std() > 0.5
    torch.testing.assert_close(FixedSizeEncoder(encoder, 16, windows)(image), expected, rtol=0, atol=1e-4)
