import numpy as np
import pytest

from pnseg_runtime.errors import ImageError
from pnseg_runtime.pixels import check_image, normalise, padded_shape
from tests.fakes import fake_bundle


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


def test_the_prompter_sees_whole_multiples_and_at_least_one_cell_of_its_coarsest_features():
    assert padded_shape((5, 41), 8) == (32, 48)
    assert padded_shape((64, 65), 32) == (64, 96)
