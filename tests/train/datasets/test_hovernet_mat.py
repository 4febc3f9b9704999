"""CPM-17 and CoNSeP."""

import shutil

import numpy as np
import pytest

from pnseg_runtime.errors import ImageError
from pnseg_train.datasets import SizeMismatchError, layout_of, open_dataset
from pnseg_train.datasets.hovernet_mat import read_labels
from tests.real_data import real
from tests.train.datasets.made import boxes_map, picture, write_mat, write_png

BOXES = {2: (1, 1, 6, 6), 5: (10, 10, 20, 20), 9: (30, 0, 40, 8)}


def write_pair(folder, part, stem, **content):
    write_png(folder / part / "Images" / f"{stem}.png", picture(seed=int(stem[-1])))
    write_mat(folder / part / "Labels" / f"{stem}.mat", inst_map=boxes_map(BOXES).astype(np.float64), **content)


def type_map(kinds):
    lookup = np.zeros(10, np.int32)
    lookup[list(BOXES)] = kinds
    return lookup[boxes_map(BOXES)]


@pytest.fixture
def cpm17(tmp_path):
    for number in range(7):
        write_pair(tmp_path, "train", f"image_{number:02d}")
    write_pair(tmp_path, "test", "image_00")
    return tmp_path


def write_consep(folder, first, second):
    for number, kinds in ((1, first), (2, first), (5, second)):
        types = np.array(kinds)[:, None].astype(float)
        write_pair(folder, "Train", f"train_{number}", type_map=type_map(kinds), inst_type=types)
    write_pair(folder, "Test", "test_10", type_map=type_map(first), inst_type=np.array(first)[:, None])


def test_cpm17_holds_every_sixth_training_image_out(cpm17):
    assert layout_of(cpm17).name == "cpm17"
    names = {split: [s.name for s in open_dataset(cpm17, split)] for split in ("train", "val", "test")}
    assert names["val"] == ["train_image_05"]
    assert names["train"] == [f"train_image_{number:02d}" for number in (0, 1, 2, 3, 4, 6)]
    assert names["test"] == ["test_image_00"]
    assert len(open_dataset(cpm17, "train+val")) == 7
    assert len(open_dataset(cpm17)) == 8


def test_cpm17_has_one_class_and_the_ids_of_the_file(cpm17):
    sample = open_dataset(cpm17, "val")[0]
    np.testing.assert_array_equal(sample.instances, boxes_map(BOXES))
    np.testing.assert_array_equal(sample.classes, boxes_map(BOXES) > 0)
    assert sample.mpp is None  # tiles of 20× and of 40×


def test_consep_merges_seven_classes_into_four(tmp_path):
    write_consep(tmp_path, (1, 3, 4), (2, 5, 7))
    assert layout_of(tmp_path).name == "consep"
    train, val = open_dataset(tmp_path, "train"), open_dataset(tmp_path, "val")
    assert [s.name for s in train] == ["train_1", "train_2"]
    np.testing.assert_array_equal(train[0].classes, type_map((1, 3, 3)))  # no class above 4 in this very file
    np.testing.assert_array_equal(val[0].classes, type_map((2, 4, 4)))
    assert (val[0].tissue, val[0].mpp) == ("colon", 0.25)


def test_consep_that_is_merged_already_is_left_alone(tmp_path):
    write_consep(tmp_path, (1, 3, 4), (2, 4, 4))
    np.testing.assert_array_equal(open_dataset(tmp_path, "train")[0].classes, type_map((1, 3, 4)))


def test_consep_without_a_list_of_classes_is_merged_all_the_same(tmp_path):
    for number, kinds in ((1, (1, 3, 4)), (2, (2, 5, 6))):
        write_pair(tmp_path, "Train", f"train_{number}", type_map=type_map(kinds))
    np.testing.assert_array_equal(open_dataset(tmp_path, "train")[0].classes, type_map((1, 3, 3)))


def test_one_damaged_label_does_not_turn_consep_into_cpm17(tmp_path):
    write_consep(tmp_path, (1, 3, 4), (2, 5, 7))
    (tmp_path / "Train" / "Labels" / "train_1.mat").write_bytes(b"")
    assert layout_of(tmp_path).name == "consep"
    with pytest.raises(ImageError, match=r"train_1\.mat"):
        open_dataset(tmp_path, "val")


@pytest.mark.parametrize("number", [1, 2])
def test_a_label_without_classes_is_refused_where_others_have_theirs(number, tmp_path):
    write_consep(tmp_path, (1, 3, 4), (2, 5, 7))
    write_mat(tmp_path / "Train" / "Labels" / f"train_{number}.mat", inst_map=boxes_map(BOXES).astype(float))
    assert layout_of(tmp_path).name == "consep"  # even if the first is the one
    samples = open_dataset(tmp_path, "train")
    with pytest.raises(ImageError, match=rf"train_{number}\.mat: has neither type_map nor inst_type, but other"):
        samples[number - 1]
    np.testing.assert_array_equal(samples[2 - number].classes, type_map((1, 3, 3)))


def test_a_class_consep_does_not_have_is_refused(tmp_path):
    write_consep(tmp_path, (1, 3, 4), (2, 5, 8))
    with pytest.raises(ImageError, match=r"train_5\.mat: class 8"):
        open_dataset(tmp_path, "val")[0]


def test_classes_by_nucleus_do_for_classes_by_pixel(tmp_path):
    write_mat(tmp_path / "a.mat", inst_map=boxes_map(BOXES), inst_type=np.array([[3], [1], [2]]))
    np.testing.assert_array_equal(read_labels(tmp_path / "a.mat").classes, type_map((3, 1, 2)))
    write_mat(tmp_path / "b.mat", inst_map=boxes_map(BOXES), inst_type=np.array([[3], [1]]))
    with pytest.raises(ImageError, match=r"b\.mat: 2 values of inst_type for 3 nuclei"):
        read_labels(tmp_path / "b.mat")


def test_nuclei_that_inst_uid_leaves_out_have_no_class(tmp_path):
    # As HoVer-Net writes it: nuclei whose outline has under three points have no row.
    for name, uid, kinds in (("a", [[2], [9]], [[3], [1]]), ("b", [[9], [2], [7]], [[1], [3], [4]])):
        path = tmp_path / f"{name}.mat"
        write_mat(path, inst_map=boxes_map(BOXES), inst_uid=np.array(uid, float), inst_type=np.array(kinds))
        np.testing.assert_array_equal(read_labels(path).classes, type_map((3, 0, 1)))
    write_mat(tmp_path / "c.mat", inst_map=boxes_map(BOXES), inst_uid=np.array([2, 9]), inst_type=np.array([1, 1, 1]))
    with pytest.raises(ImageError, match=r"c\.mat: 3 values of inst_type for 2 of inst_uid"):
        read_labels(tmp_path / "c.mat")


def test_a_file_without_nuclei_has_no_classes_to_look_up(tmp_path):
    none = np.zeros((0, 1))
    write_mat(tmp_path / "a.mat", inst_map=np.zeros((4, 5)), inst_uid=none, inst_type=none)
    write_mat(tmp_path / "b.mat", inst_map=np.zeros((4, 5)), inst_type=none)
    for name in "ab":
        np.testing.assert_array_equal(read_labels(tmp_path / f"{name}.mat").classes, np.zeros((4, 5)))


def test_a_label_without_background_keeps_its_classes(tmp_path):
    write_mat(tmp_path / "a.mat", inst_map=np.array([[1, 1, 4]]), inst_type=np.array([[2], [3]]))
    np.testing.assert_array_equal(read_labels(tmp_path / "a.mat").classes, [[2, 2, 3]])


def test_a_label_of_another_size_is_refused(cpm17):
    write_mat(cpm17 / "test" / "Labels" / "image_00.mat", inst_map=np.ones((40, 49)))
    with pytest.raises(SizeMismatchError, match=r"image_00\.mat: 49 × 40 px, but its image has 50 × 40 px"):
        open_dataset(cpm17, "test")[0]


@pytest.mark.parametrize("fault", ["empty", "truncated", "other", "version 7.3"])
def test_a_damaged_label_is_named(fault, cpm17):
    path = cpm17 / "test" / "Labels" / "image_00.mat"
    if fault == "other":
        write_mat(path, centroids=np.zeros(3))
    elif fault == "version 7.3":
        path.write_bytes(b"MATLAB 7.3 MAT-file".ljust(124) + b"\x00\x02IM" + b"\x89HDF\r\n\x1a\n")
    else:
        path.write_bytes(path.read_bytes()[: 200 if fault == "truncated" else 0])
    with pytest.raises(ImageError, match=r"image_00\.mat"):
        open_dataset(cpm17, "test")[0]


def test_real_labels_of_hovernet_are_read():
    folder = real("loader_samples/hovernet_mat")
    instances, classes = read_labels(folder / "patch1.mat")
    assert instances.shape == (256, 256)
    assert len(np.unique(instances)) == 20 + 1
    assert np.unique(classes).tolist() == [0, 2, 3, 5]
    # It is the first tile of PanNuke, with the ids of its channels.
    tile = open_dataset(real("loader_samples/pannuke"), "train")[0]
    np.testing.assert_array_equal(tile.classes, classes)


def test_real_consep_in_its_own_layout(tmp_path):
    data = real("consep")
    for part, file in (("Images", "images/train_5.png"), ("Labels", "mat/train_5.mat"),
                       ("Images", "images/train_2.png"), ("Labels", "mat/train_2.mat")):  # fmt: skip
        (tmp_path / "Train" / part).mkdir(parents=True, exist_ok=True)
        shutil.copy(data / file, tmp_path / "Train" / part)
    (train,) = open_dataset(tmp_path, "train")
    (plain,) = (s for s in open_dataset(data, "train") if s.name == "train_2")
    assert train.name == "train_2"
    np.testing.assert_array_equal(train.instances, plain.instances)
    np.testing.assert_array_equal(train.image, plain.image)
    assert len(np.unique(train.instances)) == 293 + 1
    assert set(np.unique(train.classes)) <= {0, 1, 2, 3, 4}
    assert [s.name for s in open_dataset(tmp_path, "val")] == ["train_5"]
