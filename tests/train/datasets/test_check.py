import numpy as np
import pytest

from pnseg_train.datasets import layout_of
from pnseg_train.datasets.check import (
    CLASSLESS,
    EMPTY,
    GAPS,
    LEAKAGE,
    MISMATCHED,
    NO_SPLIT,
    TWICE,
    UNREADABLE,
    border_ids,
    check,
)
from tests.train.datasets.made import boxes_map, picture, write_index, write_plain, write_png

LABELS = boxes_map({1: (0, 5, 6, 11), 2: (10, 10, 20, 20), 3: (44, 34, 50, 40)})


@pytest.fixture
def folder(tmp_path):
    """Four sound images in two splits."""
    for seed, name in enumerate("abcd"):
        write_plain(tmp_path, name, picture(seed=seed), LABELS)
    write_index(tmp_path, [("a", "train", "p1"), ("b", "train", "p1"), ("c", "val", "p2"), ("d", "val", "")])
    return tmp_path


def report_of(folder):
    return check(layout_of(folder), folder)


def kinds(report):
    return sorted(finding.kind for finding in report.findings)


def test_a_sound_set_has_no_findings_and_right_numbers(folder):
    report = report_of(folder)
    assert report.sound
    assert not report.findings
    assert {split: (c.images, c.nuclei, c.at_border) for split, c in report.counts.items()} == {
        "train": (2, 6, 4),
        "val": (2, 6, 4),
    }


def test_every_sample_that_can_be_read_is_shown(folder):
    (folder / "labels" / "b.png").unlink()
    seen = []
    check(layout_of(folder), folder, lambda split, sample: seen.append((split, sample.name)))
    assert seen == [("train", "a"), ("val", "c"), ("val", "d")]


def test_an_empty_label_and_gaps_are_found_and_do_not_forbid_training(folder):
    write_png(folder / "labels" / "a.png", np.zeros((40, 50), np.uint16))
    write_png(folder / "labels" / "c.png", (LABELS * 2).astype(np.uint16))
    report = report_of(folder)
    assert kinds(report) == [EMPTY, GAPS]
    assert {finding.kind: finding.images for finding in report.findings} == {EMPTY: ("a",), GAPS: ("c",)}
    assert report.sound


def test_a_label_of_another_size_is_found_and_the_rest_is_read(folder):
    write_png(folder / "labels" / "b.png", np.zeros((40, 51), np.uint16))
    report = report_of(folder)
    assert kinds(report) == [MISMATCHED]
    assert "b.png: 51 × 40 px" in report.findings[0].detail
    assert not report.sound
    assert report.counts["train"].images == 1
    assert report.counts["val"].images == 2


def test_a_missing_image_is_found(folder):
    (folder / "images" / "d.png").unlink()
    report = report_of(folder)
    assert kinds(report) == [UNREADABLE]
    assert not report.sound


def test_a_class_map_that_is_missing_where_others_are_there_is_found(folder):
    for name in "abc":
        write_png(folder / "classes" / f"{name}.png", LABELS.astype(np.uint8))
    report = report_of(folder)
    assert kinds(report) == [UNREADABLE]
    assert "d.png: missing, but the set tells classes" in report.findings[0].detail
    assert not report.sound


def test_nuclei_without_a_class_are_found_and_do_not_forbid_training(folder):
    for name in "abcd":
        told = (1, 3) if name == "c" else (1, 2, 3)
        write_png(folder / "classes" / f"{name}.png", np.isin(LABELS, told).astype(np.uint8))
    report = report_of(folder)
    assert [(finding.kind, finding.images) for finding in report.findings] == [(CLASSLESS, ("c",))]
    assert report.findings[0].detail == "c: 1 nuclei have no class (ids 2)."
    assert report.sound


def test_a_patient_in_two_splits_is_a_leak(folder):
    write_index(folder, [("a", "train", "p1"), ("b", "train", "p2"), ("c", "val", "p2"), ("d", "val", "p3")])
    report = report_of(folder)
    assert kinds(report) == [LEAKAGE]
    assert report.findings[0].images == ("b", "c")
    assert not report.sound


def test_two_slides_of_one_patient_of_tcga_are_a_leak(folder):
    slides = [f"TCGA-A7-A13E-0{number}Z-00-DX1" for number in (1, 2)]
    write_index(folder, [("a", "train", slides[0]), ("b", "train", "p"), ("c", "val", slides[1]), ("d", "val", "q")])
    report = report_of(folder)
    assert [(finding.kind, finding.images) for finding in report.findings] == [(LEAKAGE, ("a", "c"))]
    assert "group TCGA-A7-A13E stands in" in report.findings[0].detail


def test_images_without_a_group_are_no_group(folder):
    write_index(folder, [("a", "train", ""), ("b", "train", ""), ("c", "val", ""), ("d", "val", "")])
    assert report_of(folder).sound


def test_one_image_in_two_splits_is_a_leak_and_twice_in_one_is_not(folder):
    write_png(folder / "images" / "b.png", picture(seed=0))
    report = report_of(folder)
    assert kinds(report) == [TWICE]
    assert report.sound
    write_png(folder / "images" / "d.png", picture(seed=0))
    report = report_of(folder)
    assert kinds(report) == [LEAKAGE]
    assert not report.sound


def test_images_of_no_split_are_counted(folder):
    write_index(folder, [("a", "train", ""), ("b", "", ""), ("c", "val", ""), ("d", "", "")])
    report = report_of(folder)
    assert kinds(report) == [NO_SPLIT]
    assert "2 images" in report.findings[0].detail


def test_a_set_without_splits_is_one_part(folder):
    (folder / "index.csv").unlink()
    report = report_of(folder)
    assert report.sound
    assert list(report.counts) == [""]
    assert report.counts[""].images == 4


def test_a_nucleus_in_a_corner_touches_the_border_once():
    assert border_ids(LABELS).tolist() == [1, 3]
    assert border_ids(np.zeros((3, 4), int)).tolist() == []
