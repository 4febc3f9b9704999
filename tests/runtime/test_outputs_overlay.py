from __future__ import annotations

import io

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from PIL import Image
from scipy import ndimage

from pnseg_runtime.outputs import Prediction
from pnseg_runtime.outputs.overlay import draw_outlines, smooth, write_overlay
from tests.runtime.made import CLASSES, dark_spots, nuclei_of, sample

IMAGE = sample()


def test_the_overlay_is_a_png_of_the_images_size() -> None:
    stream = io.BytesIO()
    write_overlay(Prediction(IMAGE, dark_spots(IMAGE)), stream)
    with Image.open(stream) as overlay:
        assert (overlay.format, overlay.mode, overlay.size) == ("PNG", "RGB", (320, 256))


def test_without_nuclei_the_image_is_unchanged() -> None:
    np.testing.assert_array_equal(draw_outlines(Prediction(IMAGE, nuclei_of([], (256, 320)))), IMAGE)


def test_lines_follow_the_border_and_leave_the_inside_visible() -> None:
    nuclei = dark_spots(IMAGE)
    pixels = IMAGE.copy()
    changed = (draw_outlines(Prediction(pixels, nuclei)) != IMAGE).any(axis=2)
    inside = nuclei.instance_map() > 0
    reach = ndimage.iterate_structure(ndimage.generate_binary_structure(2, 2), 2)
    near_border = ndimage.binary_dilation(inside, reach) & ~ndimage.binary_erosion(inside, reach)
    assert not (changed & ~near_border).any()
    assert changed[ndimage.binary_dilation(inside) & ~inside].mean() > 0.5
    np.testing.assert_array_equal(pixels, IMAGE)


def test_a_nucleus_is_drawn_in_the_colour_of_its_class() -> None:
    white = np.full((40, 80, 3), 255, np.uint8)
    block = np.ones((20, 20), bool)
    drawn = draw_outlines(Prediction(white, nuclei_of([(10, 10, block), (50, 10, block)], (40, 80))))
    for half, kind in ((drawn[:, :40], CLASSES[0]), (drawn[:, 40:], CLASSES[1])):
        strongest = half.reshape(-1, 3)[half.reshape(-1, 3).astype(int).sum(axis=1).argmin()]
        absent = np.array(kind.color) == 0
        assert strongest[absent].max() < 160
        assert strongest[~absent].min() > strongest[absent].max()


def test_lines_lie_around_the_middle_of_their_nucleus() -> None:
    white = np.full((40, 50, 3), 255, np.uint8)
    drawn = draw_outlines(Prediction(white, nuclei_of([(10, 5, np.ones((20, 30), bool))], (40, 50))))
    assert ndimage.center_of_mass(255.0 - drawn.mean(axis=2)) == pytest.approx((14.5, 24.5), abs=0.15)


@given(st.integers(1, 60), st.integers(1, 60))
def test_smoothing_moves_no_point_of_an_outline_by_more_than_a_pixel_and_a_half(width: int, height: int) -> None:
    ring = np.array([(0, 0), (width, 0), (width, height), (0, height), (0, 0)], np.float32)
    curve = smooth(ring)
    assert len(curve) == 2 * (width + height)
    to_edges = np.min([curve[:, 0], width - curve[:, 0], curve[:, 1], height - curve[:, 1]], axis=0)
    assert to_edges.min() > -1e-9
    assert to_edges.max() <= 1.5
