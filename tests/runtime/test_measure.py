import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra.numpy import arrays

from pnseg_runtime.measure import measure, perimeter


def placed(*pairs):
    """Masks and their places from (mask, (x, y)) pairs."""
    return [mask for mask, _ in pairs], np.array([place for _, place in pairs], np.int32).reshape(-1, 2)


def full(height, width):
    return np.ones((height, width), bool)


def disc(radius):
    side = np.arange(-radius, radius + 1)
    return np.hypot(side[:, None], side) <= radius


masks = arrays(np.bool_, st.tuples(st.integers(1, 9), st.integers(1, 9))).filter(lambda mask: mask.any())


def test_a_rectangle_has_the_documented_values():
    values = measure(*placed((full(4, 10), (20, 30))))
    assert values.centroids.tolist() == [[24.5, 31.5]]
    assert values.area.tolist() == [40]
    assert values.perimeter[0] == pytest.approx(2 * (9 + 3) + np.pi)
    # A continuous rectangle has the moments 4²/12 and 10²/12 px².
    assert values.eccentricity[0] == pytest.approx(np.sqrt(1 - 4**2 / 10**2))


def test_values_have_the_documented_types():
    types = {name: values.dtype for name, values in vars(measure(*placed((full(4, 10), (20, 30))))).items()}
    assert types == {"centroids": np.float32, "area": np.int64, "perimeter": np.float32, "eccentricity": np.float32}


def test_a_single_pixel_is_round_and_a_line_is_almost_not():
    values = measure(*placed((full(1, 1), (3, 4)), (full(1, 50), (0, 0))))
    assert values.centroids[0].tolist() == [3, 4]
    assert values.perimeter.tolist() == pytest.approx([np.pi, 2 * 49 + np.pi])
    assert values.eccentricity.tolist() == pytest.approx([0, np.sqrt(1 - 1 / 50**2)])


@pytest.mark.parametrize("radius", [5, 10, 30])
def test_a_disc_has_nearly_the_values_of_a_circle(radius):
    values = measure(*placed((disc(radius), (0, 0))))
    assert values.centroids.tolist() == [[radius, radius]]
    assert values.perimeter[0] == pytest.approx(2 * np.pi * (radius + 0.5), rel=0.06)
    assert values.eccentricity[0] == pytest.approx(0, abs=1e-3)


def test_holes_do_not_lengthen_the_perimeter_but_parts_do():
    ring = full(7, 7)
    ring[3, 3] = False
    assert perimeter(ring) == perimeter(full(7, 7))
    two = np.zeros((3, 9), bool)
    two[:, :3] = two[:, 6:] = True
    assert perimeter(two) == pytest.approx(2 * perimeter(full(3, 3)))


@given(masks, st.integers(0, 50), st.integers(0, 50))
def test_measurements_agree_with_their_definitions_and_do_not_depend_on_the_place(mask, x, y):
    values, moved = measure(*placed((mask, (0, 0)))), measure(*placed((mask, (x, y))))
    rows, columns = np.nonzero(mask)
    assert values.area[0] == len(rows)
    np.testing.assert_allclose(values.centroids[0], [columns.mean(), rows.mean()], atol=1e-5)
    np.testing.assert_allclose(moved.centroids, values.centroids + np.array([x, y]), atol=1e-4)
    moments = np.cov(np.stack([columns, rows]), bias=True) + np.eye(2) / 12
    minor, major = np.linalg.eigvalsh(moments)
    assert values.eccentricity[0] ** 2 == pytest.approx(1 - minor / major, abs=1e-6)
    np.testing.assert_array_equal(moved.eccentricity, values.eccentricity)
    np.testing.assert_array_equal(moved.perimeter, values.perimeter)


@given(masks)
def test_a_turned_mask_measures_the_same(mask):
    values, turned = measure(*placed((mask, (0, 0)))), measure(*placed((np.rot90(mask), (0, 0))))
    assert turned.perimeter[0] == pytest.approx(values.perimeter[0])
    assert turned.eccentricity[0] == pytest.approx(values.eccentricity[0], abs=1e-6)


def test_no_nuclei_have_no_measurements():
    values = measure(*placed())
    assert values.centroids.shape == (0, 2)
    assert len(values.area) == len(values.perimeter) == len(values.eccentricity) == 0
