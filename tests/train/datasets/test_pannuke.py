import pickle
import re

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra import numpy as arrays

from pnseg_runtime.errors import ImageError
from pnseg_train.datasets import SizeMismatchError, layout_of, open_dataset
from pnseg_train.datasets.check import UNREADABLE, check
from pnseg_train.datasets.pannuke import merge_channels
from tests.real_data import real
from tests.train.datasets.made import pannuke_masks, write_fold


def test_nuclei_of_one_id_in_two_classes_stay_two():
    instances, classes = merge_channels(pannuke_masks(1)[0])
    assert sorted(np.unique(instances)) == [0, 1, 2, 3]
    assert instances[2, 2] == 1
    assert instances[2, 6] == 2  # touches the first and is of its class
    assert instances[9, 3] == 3
    assert [classes[2, 2], classes[2, 6], classes[9, 3], classes[0, 0]] == [1, 1, 4, 0]


@given(arrays.arrays(np.float64, (6, 7, 6), elements=st.integers(0, 3).map(float)))
@settings(deadline=None)
def test_every_nucleus_is_of_one_class_and_one_id(masks):
    instances, classes = merge_channels(masks)
    np.testing.assert_array_equal(instances > 0, (masks[..., :5] > 0).any(axis=-1))
    np.testing.assert_array_equal(instances > 0, classes > 0)
    np.testing.assert_array_equal(np.unique(instances[instances > 0]), np.arange(1, instances.max() + 1))
    for label in range(1, instances.max() + 1):
        (kind,) = np.unique(classes[instances == label])
        assert len(np.unique(masks[..., kind - 1][instances == label])) == 1
    # The last class that is there lies on top.
    last = 5 - (masks[..., 4::-1] > 0).argmax(axis=-1)
    np.testing.assert_array_equal(classes, np.where(instances > 0, last, 0))


@pytest.fixture
def folds(tmp_path):
    for number, tissue in ((1, "Breast"), (2, "Bile-duct"), (3, "Colon")):
        write_fold(tmp_path, number, pannuke_masks(number), [tissue] * number)
    return tmp_path


def test_the_three_orders_of_the_folds(folds):
    orders = {
        scheme: "".join(str(len(open_dataset(folds, f"{scheme}:{split}"))) for split in ("train", "val", "test"))
        for scheme in ("123", "213", "321")
    }
    assert orders == {"123": "123", "213": "213", "321": "321"}
    assert len(open_dataset(folds, "val")) == 2
    assert len(open_dataset(folds, "213:train+val")) == 3
    assert len(open_dataset(folds)) == 6
    assert layout_of(folds).splits(folds) == ("train", "val", "test")


def test_a_tile_is_8_bit_with_tissue_and_classes(folds):
    sample = open_dataset(folds, "test")[2]
    assert (sample.image.dtype, sample.instances.dtype, sample.classes.dtype) == (np.uint8, np.int32, np.uint8)
    assert (sample.image == 32).all()
    assert (sample.name, sample.tissue, sample.mpp) == ("fold3_0002", "Colon", 0.25)
    assert sample.instances.max() == 3


@pytest.mark.parametrize(
    ("change", "says"),
    [
        (lambda images: images / 255, "holds float64 from 0.117647 to 0.117647"),
        (lambda images: (images > 0).astype(np.float32), "holds float32 from 1 to 1"),
        (lambda images: images + 0.5, "holds float64 from 30.5 to 30.5"),
        (lambda images: images * 257, "holds float64 from 7710 to 7710"),
        (lambda images: (images * 257).astype(np.uint16), "holds uint16 from 7710 to 7710"),
        (lambda images: images - 99, "holds float64 from -69 to -69"),
        (lambda images: images * np.nan, "holds float64 from nan to nan"),
    ],
)
def test_images_that_are_no_bytes_are_refused_and_found(change, says, folds):
    path = folds / "Fold 3" / "images" / "fold3" / "images.npy"
    np.save(path, change(np.load(path)))
    with pytest.raises(ImageError, match=re.escape(f"{path}: tile 0 {says}, expected whole numbers from 0 to 255")):
        open_dataset(folds, "test")[0]
    report = check(layout_of(folds), folds)
    assert [finding.kind for finding in report.findings if str(path) in finding.detail] == [UNREADABLE] * 3
    assert not report.sound


@pytest.mark.parametrize("kind", [np.uint8, np.uint16, np.int64, np.float32])
def test_bytes_are_the_same_in_whichever_type_they_are_stored(kind, folds):
    path = folds / "Fold 3" / "images" / "fold3" / "images.npy"
    np.save(path, np.load(path).astype(kind))
    sample = open_dataset(folds, "test")[2]
    assert sample.image.dtype == np.uint8
    assert (sample.image == 32).all()


def test_nothing_is_read_before_a_tile_is_asked_for(folds):
    samples = open_dataset(folds, "train")
    masks = folds / "Fold 1" / "masks" / "fold1" / "masks.npy"
    changed = pannuke_masks(1)
    changed[..., 0] = 0
    np.save(masks, changed)
    assert samples[0].instances.max() == 1


def test_samples_are_handed_to_another_process_without_their_pixels(folds):
    samples = open_dataset(folds, "test")
    stored = pickle.dumps(samples)
    assert len(stored) < 3000
    np.testing.assert_array_equal(pickle.loads(stored)[1].instances, samples[1].instances)


def test_slices_and_negative_places_are_those_of_a_list(folds):
    samples = open_dataset(folds, "test")
    assert [sample.name for sample in samples[1:]] == ["fold3_0001", "fold3_0002"]
    assert samples[-1].name == "fold3_0002"
    with pytest.raises(IndexError):
        samples[3]


def test_one_fold_alone_can_be_opened(folds):
    assert len(open_dataset(folds / "Fold 2", "213:train")) == 2
    with pytest.raises(ImageError, match="fold 3"):
        open_dataset(folds / "Fold 2", "test")


def test_an_order_that_is_not_the_papers_is_refused(folds):
    with pytest.raises(ImageError, match="no split '312:train'"):
        open_dataset(folds, "312:train")


def test_arrays_that_do_not_belong_together_are_refused(folds):
    np.save(folds / "Fold 2" / "masks" / "fold2" / "masks.npy", pannuke_masks(5))
    with pytest.raises(SizeMismatchError, match=r"masks\.npy"):
        open_dataset(folds, "val")


@pytest.mark.parametrize("fault", ["pickled", "truncated", "missing"])
def test_a_damaged_array_is_named_and_never_unpickled(fault, folds):
    types = folds / "Fold 1" / "images" / "fold1" / "types.npy"
    if fault == "pickled":
        np.save(types, np.array(["Breast"], object))
    elif fault == "truncated":
        types.write_bytes(types.read_bytes()[:90])
    else:
        types.unlink()
    with pytest.raises(ImageError, match=r"types\.npy"):
        open_dataset(folds, "train")


def test_real_tiles_have_the_nuclei_of_every_channel():
    folder = real("loader_samples/pannuke")
    masks = np.load(folder / "Fold 1" / "masks" / "fold1" / "masks.npy", mmap_mode="r")
    samples = open_dataset(folder, "123:train")
    assert len(samples) == 3
    for sample, mask in zip(samples, masks, strict=True):
        assert sample.image.shape == (256, 256, 3)
        in_channels = [len(np.unique(mask[..., channel])) - 1 for channel in range(5)]
        assert sample.instances.max() == sum(in_channels)
        assert [len(np.unique(sample.instances[sample.classes == c + 1])) for c in range(5)] == in_channels
        np.testing.assert_array_equal(sample.instances == 0, mask[..., 5] == 1)
        # Nuclei are darker than what is about them.
        assert sample.image[sample.instances > 0].mean() < sample.image[sample.instances == 0].mean() - 20
