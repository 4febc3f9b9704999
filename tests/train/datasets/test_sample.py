"""A sample at another resolution is the same tissue: image, nuclei and classes stay on each other."""

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from pnseg_train.datasets.sample import Sample


def discs(mpp: float | None = 0.25) -> Sample:
    """Three dark discs of their own ids and classes on white."""
    y, x = np.mgrid[:90, :120]
    instances, classes = np.zeros((90, 120), np.int32), np.zeros((90, 120), np.uint8)
    for label, (cx, cy) in enumerate([(20, 25), (60, 50), (100, 30)], start=1):
        inside = np.hypot(x - cx, y - cy) < 12
        instances[inside], classes[inside] = label, label
    image = np.where(instances[..., None] > 0, 40, 255).astype(np.uint8).repeat(3, axis=2)
    return Sample("discs", image, instances, classes, mpp=mpp)


@given(st.floats(0.1, 1.0))
def test_image_nuclei_and_classes_stay_on_each_other(mpp):
    sample = discs().at_mpp(mpp)
    assert sample.image.shape[:2] == sample.instances.shape == sample.classes.shape
    dark = sample.image[..., 0] < 147
    assert (dark != (sample.instances > 0)).mean() < 0.02
    for label in (1, 2, 3):
        assert set(np.unique(sample.classes[sample.instances == label])) == {label}


@pytest.mark.parametrize(("mpp", "diameter"), [(0.125, 48), (0.5, 12)])
def test_nuclei_have_the_size_that_the_resolution_gives_them(mpp, diameter):
    sample = discs().at_mpp(mpp)
    assert sample.mpp == mpp
    assert sample.median_diameter() == pytest.approx(diameter, rel=0.06)


@pytest.mark.parametrize(("own", "wanted"), [(None, 0.5), (0.25, 0.25), (0.25, 0.26)])
def test_a_sample_that_fits_or_of_which_nothing_is_known_stays_as_it_is(own, wanted):
    sample = discs(own)
    assert sample.at_mpp(wanted) is sample
