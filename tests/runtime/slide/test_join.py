"""Cut in any way and joined again, an image gives what it gives in one piece."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pyarrow.parquet as pq
import pytest
from numpy.typing import NDArray
from scipy.spatial import cKDTree

from pnseg_runtime import load
from pnseg_runtime.nuclei import Nuclei
from pnseg_runtime.options import Options
from pnseg_runtime.slide import Model, SlideOptions, SlideResult, run_slide
from tests.real_data import real
from tests.runtime.slide.conftest import pixels
from tests.runtime.slide.local import local_segmenter, run_local, telling_decoder, write_bundle
from tests.runtime.slide.made import sample_mosaic, save_image

zarr = pytest.importorskip("zarr", minversion="3")


def points_of(result: SlideResult) -> NDArray[np.float64]:
    table = pq.read_table(result.outputs[".parquet"])
    return np.stack([table["point_x"].to_numpy(), table["point_y"].to_numpy()], axis=1)


def labels_of(result: SlideResult) -> NDArray[np.uint32]:
    return np.asarray(zarr.open_group(result.outputs[".labels.zarr"], mode="r")["0"][:])


def assert_same(result: SlideResult, whole: Nuclei, tolerance: float = 1e-3) -> None:
    """The same points, and of every nucleus the same pixels."""
    found = points_of(result)
    assert len(found) == len(whole) > 20
    distance, partner = cKDTree(found).query(whole.points.astype(np.float64))
    assert distance.max() <= tolerance
    assert len(set(partner.tolist())) == len(whole)
    numbers = np.concatenate([[0], partner + 1])
    np.testing.assert_array_equal(labels_of(result), numbers[whole.instance_map()])


@pytest.mark.parametrize("core", [192, 384, 576, 960])
def test_an_image_done_in_cores_is_the_image_seen_whole(
    large_image: Path, core: int, bundle: Path, tmp_path: Path
) -> None:
    with local_segmenter(bundle) as segmenter:
        whole = segmenter.predict(pixels(large_image))
    options = SlideOptions(mpp=0.25, tissue=False, core=core, margin=192)
    result = run_local(large_image, tmp_path, bundle, ("parquet", "labels"), options)
    assert_same(result, whole)


def test_classes_that_the_segmentor_tells_are_those_of_the_image_seen_whole(
    mosaic: Path, bundle: Path, tmp_path: Path
) -> None:
    with local_segmenter(bundle, decoder=telling_decoder) as segmenter:
        whole = segmenter.predict(pixels(mosaic))
    result = run_local(mosaic, tmp_path, bundle, ("parquet", "labels"), decoder=telling_decoder)
    assert result.cores > 1
    assert_same(result, whole)
    _, partner = cKDTree(points_of(result)).query(whole.points.astype(np.float64))
    told = pq.read_table(result.outputs[".parquet"])["class"].to_pylist()
    names = [whole.class_table[kind].name for kind in whole.classes]
    assert [told[row] for row in partner] == names
    assert set(names) == {"dark", "darker"}
    assert set(result.classes.values()) == {names.count("dark"), names.count("darker")}


def test_cores_smaller_than_the_reach_of_a_mask_are_joined_too(tmp_path: Path) -> None:
    slide = save_image(tmp_path / "slide.png", sample_mosaic())
    bundle = write_bundle(tmp_path / "bundle", masking={"overlap": 192})
    with local_segmenter(bundle) as segmenter:
        whole = segmenter.predict(pixels(slide))
    options = SlideOptions(mpp=0.25, tissue=False, core=64, margin=128)
    assert_same(run_local(slide, tmp_path, bundle, ("parquet", "labels"), options), whole)


@pytest.mark.slow
@pytest.mark.parametrize(("core", "margin"), [(384, 192), (576, 192)])
def test_nano_in_cores_gives_what_it_gives_in_macro_tiles_of_the_same_size(
    large_image: Path, core: int, margin: int, tmp_path: Path
) -> None:
    with load("nano", macro_tile=core + 2 * margin, macro_margin=margin) as segmenter:
        whole = segmenter.predict(pixels(large_image))
    options = SlideOptions(mpp=0.25, tissue=False, core=core, margin=margin)
    result = run_slide(large_image, tmp_path, Model("nano", Options()), options, ("parquet", "labels"))
    assert_same(result, whole, tolerance=2e-3)


def nano_in_cores(image: Path, core: int, folder: Path, margin: int = SlideOptions.margin) -> SlideResult:
    """What nano finds in cores, of which there are several: a small image with a wide margin would be one."""
    options = SlideOptions(mpp=0.25, tissue=False, core=core, margin=margin)
    result = run_slide(image, folder, Model("nano", Options()), options, ("parquet", "labels"))
    assert result.cores > 1
    return result


def nano_in_one_piece(image: Path) -> Nuclei:
    with load("nano") as segmenter:
        return segmenter.predict(pixels(image))


@pytest.mark.slow
def test_nano_in_cores_gives_what_it_gives_in_one_piece(large_image: Path, tmp_path: Path) -> None:
    assert_same(nano_in_cores(large_image, 192, tmp_path), nano_in_one_piece(large_image), tolerance=0.01)


@pytest.fixture(scope="module")
def four_images(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """2000×2000 px: four images of a data set side by side."""
    files = sorted(real("kumar/images").glob("*.png"))[:4]
    rows = [np.hstack([pixels(file) for file in files[at : at + 2]]) for at in (0, 2)]
    return save_image(tmp_path_factory.mktemp("slides") / "four.png", np.vstack(rows))


@pytest.fixture(scope="module")
def four_images_whole(four_images: Path) -> Nuclei:
    """What nano finds in them in one piece; not to be changed."""
    return nano_in_one_piece(four_images)


@pytest.mark.slow
@pytest.mark.parametrize("core", [384, 960])
def test_nano_in_larger_cores_gives_what_it_gives_in_one_piece(
    four_images: Path, four_images_whole: Nuclei, core: int, tmp_path: Path
) -> None:
    """To 0.05 px and but for one pixel in 100,000: views of other sizes are summed up in another order."""
    result, whole = nano_in_cores(four_images, core, tmp_path), four_images_whole
    found = points_of(result)
    distance, partner = cKDTree(found).query(whole.points.astype(np.float64))
    assert len(found) == len(whole) == len(set(partner.tolist())) > 1000
    assert distance.max() < 0.05
    numbers = np.concatenate([[0], partner + 1])
    assert (labels_of(result) != numbers[whole.instance_map()]).mean() < 1e-5


@pytest.mark.slow
def test_a_margin_narrower_than_nano_sees_is_noticed(
    four_images: Path, four_images_whole: Nuclei, tmp_path: Path
) -> None:
    narrow = nano_in_cores(four_images, 384, tmp_path, margin=192)
    with pytest.raises(AssertionError):
        assert_same(narrow, four_images_whole, tolerance=0.01)


def test_a_small_image_is_one_core_and_gives_what_predict_gives(mosaic: Path, bundle: Path, tmp_path: Path) -> None:
    with local_segmenter(bundle) as segmenter:
        whole = segmenter.predict(pixels(mosaic))
    result = run_local(mosaic, tmp_path, bundle, ("parquet", "labels"), SlideOptions(mpp=0.25, tissue=False))
    assert_same(result, whole)
    assert labels_of(result).shape == pixels(mosaic).shape[:2]
