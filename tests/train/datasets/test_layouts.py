import numpy as np
import pytest

from pnseg_runtime.errors import ImageError
from pnseg_train.datasets import LAYOUTS, Sample, Samples, layout_of, open_dataset, other_classes, read_folder
from pnseg_train.datasets.sample import consecutive
from tests import golden
from tests.train.datasets.made import boxes_map, picture, write_mat, write_plain, write_png


def test_names_of_layouts_are_unique():
    assert len({layout.name for layout in LAYOUTS}) == len(LAYOUTS)


def test_a_plain_folder_is_read_as_before():
    for split in ("train", "val", "test"):
        for lazy, eager in zip(open_dataset(golden.TILES, split), read_folder(golden.TILES, split), strict=True):
            assert (lazy.name, lazy.group, lazy.mpp) == (eager.name, eager.group, eager.mpp)
            np.testing.assert_array_equal(lazy.image, eager.image)
            np.testing.assert_array_equal(lazy.instances, eager.instances)
    assert layout_of(golden.TILES).splits(golden.TILES) == ("train", "test", "val")


def test_a_broken_image_is_met_only_when_it_is_asked_for(tmp_path):
    for name in ("a", "b"):
        write_plain(tmp_path, name, picture(), boxes_map({1: (1, 1, 5, 5)}))
    (tmp_path / "labels" / "a.png").write_bytes(b"")
    samples = open_dataset(tmp_path)
    assert samples[1].name == "b"
    with pytest.raises(ImageError, match=r"a\.png"):
        samples[0]


def test_an_unknown_layout_lists_the_known_ones(tmp_path):
    (tmp_path / "notes.txt").write_text("no images")
    with pytest.raises(ImageError, match="PanNuke, DSB 2018, CoNSeP, CPM-17, MoNuSeg 2018, Kumar"):
        open_dataset(tmp_path)


def test_every_folder_that_is_recognised_is_recognised_once(tmp_path):
    write_png(tmp_path / "train" / "Images" / "image_00.png", picture())
    write_mat(tmp_path / "train" / "Labels" / "image_00.mat", inst_map=boxes_map({1: (0, 0, 4, 4)}))
    assert [layout.name for layout in LAYOUTS if layout.recognises(tmp_path)] == ["cpm17"]
    assert [layout.name for layout in LAYOUTS if layout.recognises(golden.TILES)] == ["folder"]


def consep(folder):
    for number in range(1, 7):
        labels = boxes_map({1: (0, 0, 4, 4), 2: (10, 10, 14, 14)})
        write_png(folder / "Train" / "Images" / f"train_{number}.png", picture())
        write_mat(folder / "Train" / "Labels" / f"train_{number}.mat", inst_map=labels, type_map=labels)
    return folder


def test_classes_are_told_apart_by_their_names_and_order(tmp_path):
    folder = consep(tmp_path)
    assert not other_classes(folder, ["Miscellaneous", "inflammatory", "epithelial", "spindle shaped"])
    assert not other_classes(folder, ["nucleus"])
    assert "has the classes miscellaneous" in other_classes(folder, ["a", "b", "c", "d"])
    assert other_classes(folder, ["inflammatory", "miscellaneous", "epithelial", "spindle-shaped"])
    assert other_classes(folder, ["miscellaneous", "inflammatory", "epithelial", "spindle-shaped", "dead"])


def test_a_plain_folder_has_classes_if_it_has_class_maps(tmp_path):
    write_plain(tmp_path, "a", picture(), boxes_map({1: (1, 1, 5, 5)}))
    assert "no folder classes/" in other_classes(tmp_path, ["a", "b"])
    (tmp_path / "classes").mkdir()
    assert not other_classes(tmp_path, ["a", "b"])


def sample(instances, classes):
    return Sample("s", np.zeros((*instances.shape, 3), np.uint8), instances, classes.astype(np.uint8))


def test_a_model_of_one_class_takes_nuclei_of_any():
    instances = boxes_map({3: (0, 0, 5, 5), 4: (10, 10, 20, 20)})
    np.testing.assert_array_equal(sample(instances, instances * 0).with_classes(1).classes, instances != 0)
    many = sample(instances, instances)
    np.testing.assert_array_equal(many.with_classes(1).classes, instances != 0)
    assert many.with_classes(4) is many


@pytest.mark.parametrize("fault", ["too many", "none"])
def test_classes_the_model_does_not_have_are_refused(fault):
    instances = boxes_map({3: (0, 0, 5, 5), 4: (10, 10, 20, 20)})
    with pytest.raises(ImageError, match="the model has 1 to 3"):
        sample(instances, instances if fault == "too many" else instances * 0).with_classes(3)


def test_consecutive_keeps_order_and_background():
    labels = np.array([[0, 7, 7], [300, 0, 2]])
    np.testing.assert_array_equal(consecutive(labels), [[0, 2, 2], [3, 0, 1]])
    np.testing.assert_array_equal(consecutive(np.array([[5, 5], [9, 9]])), [[1, 1], [2, 2]])


def test_joined_samples_stand_after_each_other():
    whole = open_dataset(golden.TILES)
    joined = Samples.joined([whole[4:], whole[:1]])
    assert [s.name for s in joined] == [whole[4].name, whole[5].name, whole[0].name]
