import re
import shutil

import cv2
import numpy as np
import pytest
from PIL import Image

from pnseg_runtime.errors import ImageError
from pnseg_runtime.images import read_image
from pnseg_train.datasets import open_dataset, read_folder
from tests import golden
from tests.train.datasets.made import boxes_map, picture, write_plain, write_png


def test_splits_are_read_from_the_index():
    everything = read_folder(golden.TILES)
    assert len(everything) == 6
    by_split = [read_folder(golden.TILES, split) for split in ("train", "val", "test")]
    assert sorted(s.name for part in by_split for s in part) == sorted(s.name for s in everything)


def test_samples_have_colours_in_rgb_order_and_all_nuclei():
    sample = read_folder(golden.TILES, "val")[0]
    assert sample.image.shape == (256, 320, 3)
    assert len(np.unique(sample.instances)) - 1 == 34  # as its index says
    # Purple tissue: less green than red and blue.
    assert sample.image[..., 1].mean() < min(sample.image[..., 0].mean(), sample.image[..., 2].mean())


def test_a_folder_without_an_index_has_no_splits(tmp_path):
    for part in ("images", "labels"):
        shutil.copytree(golden.TILES / part, tmp_path / part)
    assert len(read_folder(tmp_path)) == 6
    with pytest.raises(ImageError, match="val"):
        read_folder(tmp_path, "val")


@pytest.mark.parametrize("fault", ["missing", "truncated", "small"])
def test_a_broken_label_is_named(fault, tmp_path):
    for part in ("images", "labels"):
        shutil.copytree(golden.TILES / part, tmp_path / part)
    label = sorted((tmp_path / "labels").iterdir())[2]
    if fault == "missing":
        label.unlink()
    elif fault == "truncated":
        label.write_bytes(label.read_bytes()[:60])
    else:
        cv2.imwrite(str(label), np.zeros((10, 10), np.uint16))
    with pytest.raises(ImageError, match=label.stem):
        read_folder(tmp_path)


def turned(path, kind="PNG", orientation=6):
    """The file as a camera held sideways writes it: the same pixels, which viewers turn."""
    image = Image.open(path)
    image.load()
    metadata = Image.Exif()
    metadata[0x0112] = orientation
    image.save(path, kind, exif=metadata)


def test_pixels_are_those_that_are_predicted_on(tmp_path):
    labels = boxes_map({1: (1, 1, 9, 9), 2: (20, 20, 30, 30)})
    for name in ("half_transparent", "turned", "turned_jpeg"):
        write_plain(tmp_path, name, picture(), labels)
    opacity = np.linspace(0, 255, 40 * 50).reshape(40, 50).astype(np.uint8)
    path = tmp_path / "images" / "half_transparent.png"
    cv2.imwrite(str(path), np.dstack([picture(), opacity]))
    turned(tmp_path / "images" / "turned.png")
    turned(tmp_path / "labels" / "turned.png")
    turned(tmp_path / "images" / "turned_jpeg.png", "JPEG", 3)
    samples = {sample.name: sample for sample in read_folder(tmp_path)}
    assert len(samples) == 3
    for name, sample in samples.items():
        np.testing.assert_array_equal(sample.image, read_image(tmp_path / "images" / f"{name}.png").pixels)
        np.testing.assert_array_equal(sample.instances, labels)
    np.testing.assert_array_equal(samples["turned"].image, picture())
    assert (samples["half_transparent"].image[0, 0] == 255).all()


def test_an_image_without_a_class_map_is_refused_where_others_have_theirs(tmp_path):
    labels = boxes_map({1: (1, 1, 9, 9), 2: (20, 20, 30, 30)})
    for name in ("a", "b"):
        write_plain(tmp_path, name, picture(), labels)
    np.testing.assert_array_equal(read_folder(tmp_path)[1].classes, labels != 0)  # a set of one class
    write_png(tmp_path / "classes" / "a.png", labels.astype(np.uint8))
    samples = open_dataset(tmp_path)
    np.testing.assert_array_equal(samples[0].classes, labels)
    with pytest.raises(ImageError, match=r"classes/b\.png: missing, but the set tells classes; put it there"):
        samples[1]
    write_png(tmp_path / "labels" / "b.png", np.zeros((40, 50), np.uint16))  # no nucleus, so no class either
    assert not samples[1].classes.any()


def indexed(folder, content, encoding="utf-8"):
    for name in ("a", "b"):
        write_plain(folder, name, picture(), boxes_map({1: (1, 1, 9, 9)}))
    (folder / "index.csv").write_text(content, encoding=encoding)
    return folder


def test_a_byte_order_mark_is_not_part_of_the_first_column(tmp_path):
    folder = indexed(tmp_path, "id,split,mpp\na,train,0.5\nb,val,\n", "utf-8-sig")
    assert [(sample.name, sample.mpp) for sample in read_folder(folder, "train")] == [("a", 0.5)]
    assert [(sample.name, sample.mpp) for sample in read_folder(folder, "val")] == [("b", None)]


def test_empty_fields_beyond_the_last_column_are_no_matter(tmp_path):
    folder = indexed(tmp_path, "id,split\na,train,,\nb,val,\n")
    assert [sample.name for sample in read_folder(folder)] == ["a", "b"]


@pytest.mark.parametrize(
    ("content", "encoding", "says"),
    [
        ("id;split;mpp\na;train;0,25\n", "utf-8", "separated by semicolons; save it with commas"),
        ("id;split\na;train\n", "utf-8-sig", "separated by semicolons"),
        ("name,split\na,train\n", "utf-8", "no column id among name, split"),
        ("", "utf-8", "no column id among none"),
        ('id,split,mpp\na,train,"0,25"\n', "utf-8", "line 2 has the mpp 0,25; write microns per pixel as 0.25"),
        ("id,split,mpp\na,train,0.25\nb,train,0,25\n", "utf-8", "line 3 has more fields than columns"),
        ("id,split,mpp\na,train,0\n", "utf-8", "has the mpp 0;"),
        ("id,split,mpp\na,train,nan\n", "utf-8", "has the mpp nan;"),
        ("id,split\na,train\n", "utf-16", "not UTF-8"),
    ],
)
def test_an_index_that_is_not_understood_is_one_sentence(content, encoding, says, tmp_path):
    with pytest.raises(ImageError, match=re.escape(says)) as raised:
        read_folder(indexed(tmp_path, content, encoding), "train")
    assert str(tmp_path / "index.csv") in str(raised.value)


def test_median_diameter_is_that_of_equal_discs():
    from pnseg_train.datasets import Sample

    ys, xs = np.mgrid[:64, :64]
    instances = ((ys - 32) ** 2 + (xs - 32) ** 2 < 10**2).astype(np.int32)
    blank = np.zeros((64, 64, 3), np.uint8)
    assert Sample("disc", blank, instances, instances.astype(np.uint8)).median_diameter() == pytest.approx(20, abs=0.3)
    assert np.isnan(Sample("none", blank, 0 * instances, instances.astype(np.uint8)).median_diameter())
