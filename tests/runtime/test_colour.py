"""Samples of other depths and colours as 8-bit RGB."""

from __future__ import annotations

import numpy as np
from hypothesis import given
from hypothesis import strategies as st

from pnseg_runtime.colour import cmyk_to_rgb, premultiplied_on_white, rgba_on_white, to_8_bit


@given(st.integers(1, 16), st.data())
def test_scaling_keeps_the_ends_and_the_order(bits: int, data: st.DataObject) -> None:
    peak = 2**bits - 1
    values = np.array([*sorted(data.draw(st.lists(st.integers(0, peak), min_size=1))), peak], np.uint16)
    scaled = to_8_bit(np.concatenate([[np.uint16(0)], values]), peak)
    assert scaled[0] == 0
    assert scaled[-1] == 255
    assert (np.diff(scaled.astype(int)) >= 0).all()
    np.testing.assert_allclose(scaled[1:], values / peak * 255, atol=0.5 + 1e-9)


@given(st.lists(st.integers(0, 255), min_size=4, max_size=4))
def test_alpha_and_ink_match_their_formula_to_the_nearest_level(sample_: list[int]) -> None:
    pixel = np.array(sample_, np.uint8).reshape(1, 1, 4)
    color, fourth = pixel[0, 0, :3] / 255, sample_[3] / 255
    np.testing.assert_allclose(rgba_on_white(pixel)[0, 0], 255 * (color * fourth + 1 - fourth), atol=0.5 + 1e-9)
    np.testing.assert_allclose(cmyk_to_rgb(pixel)[0, 0], 255 * (1 - color) * (1 - fourth), atol=0.5 + 1e-9)


@given(st.lists(st.integers(0, 255), min_size=3, max_size=3), st.integers(0, 255))
def test_premultiplied_alpha_agrees_with_straight_alpha(color: list[int], alpha: int) -> None:
    straight = np.array([*color, alpha], np.uint8).reshape(1, 1, 4)
    multiplied = straight.copy()
    multiplied[..., :3] = (straight[..., :3].astype(int) * alpha + 127) // 255
    difference = premultiplied_on_white(multiplied).astype(int) - rgba_on_white(straight)
    assert np.abs(difference).max() <= 1


def test_colours_brighter_than_their_alpha_allows_are_white() -> None:
    assert premultiplied_on_white(np.array([[[255, 9, 0, 0]]], np.uint8)).tolist() == [[[255, 255, 255]]]
