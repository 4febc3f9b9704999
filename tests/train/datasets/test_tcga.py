"""Kumar and MoNuSeg."""

import cv2
import numpy as np
import pytest
from scipy import ndimage

from pnseg_runtime.errors import ImageError
from pnseg_train.datasets import kumar, layout_of, monuseg, open_dataset, tcga
from tests.real_data import real
from tests.train.datasets.made import write_tile

TRAIN, VAL, TEST = "TCGA-A7-A13E-01Z-00-DX1", "TCGA-AR-A1AS-01Z-00-DX1", "TCGA-E2-A14V-01Z-00-DX1"
MONUSEG_TEST = "TCGA-2Z-A9J9-01A-01-TS1"


@pytest.mark.parametrize("scheme", kumar.SCHEMES.values(), ids=kumar.SCHEMES)
def test_kumar_is_divided_into_12_and_4_and_14(scheme):
    assert [len(scheme[split]) for split in ("train", "val", "test")] == [12, 4, 14]
    assert sorted(patient for part in scheme.values() for patient in part) == sorted(tcga.KUMAR_30)
    assert {tcga.ORGAN[patient] for patient in scheme["val"]} == {"breast", "kidney", "liver", "prostate"}
    # Three organs are seen in the test only.
    test_organs = [tcga.ORGAN[patient] for patient in scheme["test"]]
    assert sorted(test_organs[-6:]) == ["bladder", "bladder", "colon", "colon", "stomach", "stomach"]


def test_the_two_divisions_of_kumar_differ_in_three_images():
    ours, theirs = (set(scheme["test"]) for scheme in kumar.SCHEMES.values())
    assert ours - theirs == {"TCGA-E2-A14V", "TCGA-21-5784", "TCGA-G9-6362"}
    assert theirs - ours == {"TCGA-A7-A13F", "TCGA-49-4488", "TCGA-G9-6336"}


def test_monuseg_is_divided_into_30_and_14():
    scheme = monuseg.SCHEMES[""]
    assert len(scheme["train"]) + len(scheme["val"]) == 30
    assert len(scheme["val"]) == 7  # one of each organ
    assert len(set(scheme["test"])) == 14
    assert set(scheme["test"]).isdisjoint(tcga.KUMAR_30)


@pytest.mark.parametrize(
    ("group", "patient"),
    [
        ("TCGA-A7-A13E", "TCGA-A7-A13E"),
        ("TCGA-A7-A13E-01Z-00-DX1", "TCGA-A7-A13E"),
        ("TCGA-A7-A13E-01A-11-TSA.2E5C", "TCGA-A7-A13E"),
        ("17", "17"),
        ("slide of TCGA-A7-A13E", "slide of TCGA-A7-A13E"),
        ("TCGA-7", "TCGA-7"),
    ],
)
def test_a_barcode_names_its_patient_first(group, patient):
    assert tcga.patient_of(group) == patient


def test_a_tile_and_its_annotation_may_lie_in_different_folders(tmp_path):
    pixels = write_tile(tmp_path / "Tissue Images", TRAIN)
    (tmp_path / "Annotations").mkdir()
    (tmp_path / "Tissue Images" / f"{TRAIN}.xml").rename(tmp_path / "Annotations" / f"{TRAIN}.xml")
    (sample,) = open_dataset(tmp_path, "train")
    np.testing.assert_array_equal(sample.image, pixels)
    assert (sample.name, sample.group, sample.tissue) == (TRAIN, "TCGA-A7-A13E", "breast")


def test_the_twins_that_a_mac_packs_are_no_images(tmp_path):
    write_tile(tmp_path, TRAIN)
    for suffix in (".tif", ".xml"):
        (tmp_path / f"._{TRAIN}{suffix}").write_bytes(b"Mac OS X")
    assert [s.name for s in open_dataset(tmp_path)] == [TRAIN]


def test_overlapping_regions_are_painted_in_the_order_of_the_file(tmp_path):
    write_tile(tmp_path, TRAIN)
    (sample,) = open_dataset(tmp_path, "train")
    assert sample.instances[12, 12] == 2
    assert np.bincount(sample.instances.ravel())[1:].tolist() == [100 - 16, 100]  # 20.2 ends before a centre
    np.testing.assert_array_equal(sample.classes, sample.instances != 0)


def test_the_resolution_of_the_tif_is_not_taken_for_microns(tmp_path):
    write_tile(tmp_path, TRAIN)
    assert open_dataset(tmp_path, "train")[0].mpp == 0.25


def test_a_split_has_the_images_that_the_lists_name(tmp_path):
    for stem in (TRAIN, VAL, TEST):
        write_tile(tmp_path, stem)
    names = {split: [s.name for s in open_dataset(tmp_path, split)] for split in ("train", "val", "test", "train+val")}
    assert names == {"train": [TRAIN], "val": [VAL], "test": [TEST], "train+val": [TRAIN, VAL]}
    assert [s.name for s in open_dataset(tmp_path, "hovernet:train")] == [TRAIN, VAL]
    assert [s.name for s in open_dataset(tmp_path, "hovernet:val")] == [TEST]
    assert layout_of(tmp_path).splits(tmp_path) == ("train", "val", "test")


def test_one_test_image_of_monuseg_makes_it_monuseg(tmp_path):
    write_tile(tmp_path / "MoNuSeg 2018 Training Data", TEST)
    assert layout_of(tmp_path).name == "kumar"
    write_tile(tmp_path / "MoNuSegTestData", MONUSEG_TEST)
    assert layout_of(tmp_path).name == "monuseg"
    assert [s.name for s in open_dataset(tmp_path, "test")] == [MONUSEG_TEST]
    assert [s.name for s in open_dataset(tmp_path, "val")] == [TEST]


def test_an_empty_split_and_an_unknown_one_are_refused(tmp_path):
    write_tile(tmp_path, TRAIN)
    with pytest.raises(ImageError, match="split 'test'"):
        open_dataset(tmp_path, "test")
    with pytest.raises(ImageError, match=r"no split 'hovernet:best' .* hovernet:train"):
        open_dataset(tmp_path, "hovernet:best")


def test_real_tiles_have_their_nuclei_on_dark_tissue():
    folder = real("loader_samples/monuseg")
    samples = list(open_dataset(folder, "train"))
    assert [sample.instances.max() for sample in samples] == [314, 342]
    for sample in samples:
        inside = sample.instances > 0
        rim = ndimage.binary_dilation(inside, iterations=5) & ~ndimage.binary_dilation(inside, iterations=2)
        assert sample.image[inside].mean() < sample.image[rim].mean() - 20


def test_real_tiles_agree_with_another_rasterisation():
    # Other label maps of the same annotations lie half a pixel further to the right and down, so
    # that borders differ; no nucleus does.
    ours = {sample.name: sample.instances for sample in open_dataset(real("loader_samples/monuseg"), "train")}
    for name, labels in ours.items():
        (path,) = real("kumar/labels").glob(f"*{name}.png")
        theirs = cv2.imread(str(path), cv2.IMREAD_UNCHANGED)
        assert len(np.unique(theirs)) == len(np.unique(labels))
        assert ((labels > 0) & (theirs > 0)).sum() / ((labels > 0) | (theirs > 0)).sum() > 0.9
