import cv2
import numpy as np
import pytest

from pnseg_runtime.errors import ImageError
from pnseg_train.datasets import SizeMismatchError, layout_of, open_dataset, read_folder
from tests import golden
from tests.train.datasets.made import boxes_map, picture, write_png
from tests.train.datasets.test_folder import turned

IDS = ("0a1b", "1fff", "2abc", "f00d")
BOXES = {1: (2, 2, 9, 9), 2: (9, 2, 14, 9), 3: (30, 30, 50, 40)}


def write_image(folder, name, pixels, labels):
    write_png(folder / name / "images" / f"{name}.png", pixels)
    (folder / name / "masks").mkdir(exist_ok=True)
    for label in np.unique(labels)[1:]:
        write_png(folder / name / "masks" / f"{label:03d}.png", ((labels == label) * 255).astype(np.uint8))


@pytest.fixture
def bowl(tmp_path):
    for seed, name in enumerate(IDS):
        write_image(tmp_path / "stage1_train", name, picture(seed=seed), boxes_map(BOXES))
    return tmp_path


def test_an_eighth_of_the_ids_is_held_out(bowl):
    assert layout_of(bowl).name == "dsb2018"
    assert [s.name for s in open_dataset(bowl, "val")] == ["0a1b", "1fff"]
    assert [s.name for s in open_dataset(bowl / "stage1_train", "train")] == ["2abc", "f00d"]
    with pytest.raises(ImageError, match="no split 'test'"):
        open_dataset(bowl, "test")


def test_nuclei_that_touch_stay_apart(bowl):
    sample = open_dataset(bowl, "train")[0]
    np.testing.assert_array_equal(sample.instances, boxes_map(BOXES))
    np.testing.assert_array_equal(sample.classes, sample.instances > 0)
    np.testing.assert_array_equal(sample.image, picture(seed=2))


def test_an_image_with_an_alpha_channel_loses_it(bowl):
    path = bowl / "stage1_train" / "2abc" / "images" / "2abc.png"
    opaque = cv2.cvtColor(picture(seed=2), cv2.COLOR_RGB2BGRA)
    cv2.imwrite(str(path), opaque)
    np.testing.assert_array_equal(open_dataset(bowl, "train")[0].image, picture(seed=2))


def test_a_mask_of_another_size_is_refused(bowl):
    write_png(bowl / "stage1_train" / "2abc" / "masks" / "002.png", np.zeros((40, 40), np.uint8))
    with pytest.raises(SizeMismatchError, match=r"002\.png"):
        open_dataset(bowl, "train")[0]


def test_masks_lie_on_the_pixels_as_stored(bowl):
    for part in ("images/2abc.png", "masks/001.png"):
        turned(bowl / "stage1_train" / "2abc" / part, orientation=3)
    sample = open_dataset(bowl, "train")[0]
    np.testing.assert_array_equal(sample.image, picture(seed=2))
    np.testing.assert_array_equal(sample.instances, boxes_map(BOXES))


def test_a_broken_mask_and_a_missing_image_are_named(bowl):
    (bowl / "stage1_train" / "2abc" / "masks" / "002.png").write_bytes(b"no image")
    with pytest.raises(ImageError, match=r"002\.png"):
        open_dataset(bowl, "train")[0]
    (bowl / "stage1_train" / "f00d" / "images" / "f00d.png").unlink()
    with pytest.raises(ImageError, match=r"f00d\.png"):
        open_dataset(bowl, "train")[1]


def test_real_tiles_come_back_from_this_layout_unchanged(tmp_path):
    tiles = read_folder(golden.TILES)
    for tile in tiles:
        write_image(tmp_path, tile.name, tile.image, tile.instances)
    for written, tile in zip(open_dataset(tmp_path), sorted(tiles, key=lambda tile: tile.name), strict=True):
        assert written.name == tile.name
        np.testing.assert_array_equal(written.image, tile.image)
        np.testing.assert_array_equal(
            written.instances, np.unique(tile.instances, return_inverse=True)[1].reshape(tile.instances.shape)
        )
