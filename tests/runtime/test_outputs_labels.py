from __future__ import annotations

import io

import numpy as np
import pytest
import tifffile

from pnseg_runtime.outputs import Prediction
from pnseg_runtime.outputs.labels import write_labels
from tests.runtime.made import nuclei_of, square_ring_and_pair

WHITE = np.full((30, 40, 3), 255, np.uint8)


def written(prediction: Prediction) -> tifffile.TiffFile:
    stream = io.BytesIO()
    write_labels(prediction, stream)
    stream.seek(0)
    return tifffile.TiffFile(stream)


def test_the_label_map_is_32_bit_deflate_with_label_i_for_row_i() -> None:
    nuclei = square_ring_and_pair()
    with written(Prediction(WHITE, nuclei)) as tif:
        labels = tif.asarray()
        assert tif.pages[0].compression == tifffile.COMPRESSION.ADOBE_DEFLATE
    assert labels.dtype == np.uint32
    np.testing.assert_array_equal(labels, nuclei.instance_map())
    assert np.bincount(labels.ravel())[1:].tolist() == [24, 24, 8]


def test_more_nuclei_than_16_bits_hold_keep_their_labels() -> None:
    count = 66_000
    dots = [(i % 300, i // 300, np.ones((1, 1), bool)) for i in range(count)]
    with written(Prediction(np.zeros((220, 300, 3), np.uint8), nuclei_of(dots, (220, 300)))) as tif:
        assert tif.asarray().max() == count


def test_a_known_pixel_size_stands_in_the_resolution_tags() -> None:
    with written(Prediction(WHITE, square_ring_and_pair(mpp=0.25))) as tif:
        tags = tif.pages[0].tags
        numerator, denominator = tags["XResolution"].value
        assert tags["ResolutionUnit"].value == tifffile.RESUNIT.CENTIMETER
        assert 10_000 / (numerator / denominator) == pytest.approx(0.25)
