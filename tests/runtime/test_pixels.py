import cv2
import numpy as np
import pytest

from pnseg_runtime import load
from pnseg_runtime.errors import ImageError
from pnseg_runtime.pixels import check_image, colour_reach, normalise, soften_colour
from tests.fakes import fake_bundle
from tests.runtime.made import sample


@pytest.mark.parametrize(
    ("image", "says"),
    [
        (np.zeros((4, 4), np.uint8), "shape"),
        (np.zeros((4, 4, 4), np.uint8), "RGB"),
        (np.zeros((0, 4, 3), np.uint8), "no pixels"),
        (np.zeros((4, 4, 3), np.float32), "uint8"),
        (np.zeros((4, 4, 3), np.uint16), "uint8"),
        (np.full((4, 4, 3), np.nan), "finite"),
        ([[[0, 0, 0]]], "NumPy"),
    ],
)
def test_arrays_that_are_no_rgb_image_are_refused_with_a_sentence(image, says):
    with pytest.raises(ImageError, match=says):
        check_image(image)


def test_normalised_images_have_the_documented_values():
    manifest = fake_bundle().manifest
    rgb = np.array([[[[0, 128, 255]]]], np.uint8)
    expected = (np.array([0, 128, 255]) / 255 - manifest.normalisation.mean) / manifest.normalisation.std
    result = normalise(rgb, manifest.normalisation)
    assert result.shape == (1, 3, 1, 1)
    assert result.dtype == np.float32
    np.testing.assert_allclose(result[0, :, 0, 0], expected, rtol=1e-6)


def coarse_in_colour(rgb):
    """An image as a JPEG file has it that keeps colour at half the resolution, and losslessly."""
    ycc = cv2.cvtColor(rgb, cv2.COLOR_RGB2YCrCb)
    height, width = rgb.shape[:2]
    half = cv2.resize(ycc[..., 1:], (width // 2, height // 2), interpolation=cv2.INTER_AREA)
    ycc[..., 1:] = cv2.resize(half, (width, height), interpolation=cv2.INTER_LINEAR)
    return cv2.cvtColor(ycc, cv2.COLOR_YCrCb2RGB)


def test_brightness_stays_where_colour_is_softened():
    rgb = sample("he_pink")
    before, after = (cv2.cvtColor(image, cv2.COLOR_RGB2YCrCb).astype(int) for image in (rgb, soften_colour(rgb, 2.0)))
    assert np.abs(after - before)[..., 0].mean() < 0.5  # RGB ends at 0 and 255
    for channel in (1, 2):
        assert np.diff(after[..., channel], 2).std() < 0.6 * np.diff(before[..., channel], 2).std()


def test_images_that_differ_in_the_detail_of_colour_alone_are_nearly_the_same_when_it_is_softened():
    rgb = sample("he_pink")
    differences = [
        np.abs(soften_colour(rgb, blur).astype(int) - soften_colour(coarse_in_colour(rgb), blur)).mean()
        for blur in (0.0, 2.0, 4.0)
    ]
    assert differences[1] < differences[0] / 3
    assert differences[2] < differences[1]


@pytest.mark.parametrize("blur", [0.5, 2.0, 3.7])
def test_what_is_softened_does_not_depend_on_where_an_image_is_cut(blur):
    rgb, reach = sample("purple_crowded"), colour_reach(blur)
    whole = soften_colour(rgb, blur)
    for x, y, side in ((20, 30, 90), (41, 52, 77), (100, 60, 61)):
        part = soften_colour(np.ascontiguousarray(rgb[y : y + side, x : x + side]), blur)
        inner = np.s_[reach : side - reach, reach : side - reach]
        np.testing.assert_array_equal(part[inner], whole[y : y + side, x : x + side][inner])


@pytest.mark.parametrize("shape", [(1, 1), (1, 9), (3, 2)])
def test_images_smaller_than_the_blur_are_softened_too(shape):
    rgb = np.random.default_rng(0).integers(0, 256, (*shape, 3), dtype=np.uint8)
    assert soften_colour(rgb, 2.0).shape == rgb.shape


def test_no_blur_leaves_the_image_as_it_is():
    rgb = sample("he_pink")
    assert soften_colour(rgb, 0.0) is rgb


def test_the_networks_see_what_is_softened():
    rgb = sample("he_pink")
    plain, soft = load("nano", threads=1, colour_blur=0.0), load("nano", threads=1, colour_blur=3.0)
    expected = plain.predict(soften_colour(rgb, 3.0)).instance_map()
    np.testing.assert_array_equal(soft.predict(rgb).instance_map(), expected)
    assert not np.array_equal(plain.predict(rgb).instance_map(), expected)
