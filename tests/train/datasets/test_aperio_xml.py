import numpy as np
import pytest

from pnseg_runtime.errors import ImageError
from pnseg_train.datasets.aperio_xml import read_regions
from tests.real_data import real
from tests.train.datasets.made import aperio

TRIANGLE = [(1, 2), (3.25, 4.5), (0.125, 7)]


def test_vertices_keep_their_fractions_and_regions_their_order(tmp_path):
    path = tmp_path / "a.xml"
    path.write_text(aperio([TRIANGLE, TRIANGLE[::-1]]))
    regions = read_regions(path)
    np.testing.assert_array_equal(regions[0], TRIANGLE)
    np.testing.assert_array_equal(regions[1], TRIANGLE[::-1])


def test_a_point_and_a_line_are_no_nuclei(tmp_path):
    path = tmp_path / "a.xml"
    path.write_text(aperio([[(1, 1)], TRIANGLE, [(1, 1), (2, 2)], []]))
    assert len(read_regions(path)) == 1


BOMB = '<!DOCTYPE a [<!ENTITY x "1"><!ENTITY y "&x;&x;&x;&x;">]>'
OUTSIDE = '<!DOCTYPE a [<!ENTITY x SYSTEM "file:///etc/hostname">]>'


@pytest.mark.parametrize("head", [BOMB, OUTSIDE])
def test_entities_are_refused(head, tmp_path):
    path = tmp_path / "a.xml"
    path.write_text(aperio([TRIANGLE], head).replace('X="1"', 'X="&x;"'))
    with pytest.raises(ImageError, match=r"a\.xml: declares XML entities"):
        read_regions(path)


@pytest.mark.parametrize(
    "content",
    ["", "<Annotations>", aperio([[(1, 2), (3, 4), ("nan", 5)]]), aperio([TRIANGLE]).replace('X="1"', 'X="one"'),
     aperio([TRIANGLE]).replace('X="1"', "")],
    ids=["empty", "cut", "nan", "word", "no X"],
)  # fmt: skip
def test_a_damaged_file_is_named(content, tmp_path):
    path = tmp_path / "a.xml"
    path.write_text(content)
    with pytest.raises(ImageError, match=r"a\.xml"):
        read_regions(path)


def test_a_missing_file_is_named(tmp_path):
    with pytest.raises(ImageError, match="put the annotation there"):
        read_regions(tmp_path / "none.xml")


def test_real_annotations_have_the_published_number_of_nuclei():
    folder = real("loader_samples/monuseg")
    assert len(read_regions(folder / "TCGA-B0-5711-01Z-00-DX1.xml")) == 342
    assert len(read_regions(folder / "TCGA-A7-A13E-01Z-00-DX1.xml")) == 314
