"""Tissues, classes, folds, oracle points and label maps of other tools."""

import json
import math
from collections import Counter

import cv2
import numpy as np
import pytest
import tifffile
from click.testing import CliRunner
from scipy.io import savemat

from pnseg_runtime.bundle import Classes
from pnseg_runtime.cli import cli
from pnseg_runtime.errors import ImageError
from pnseg_train import finder
from pnseg_train.datasets import Sample, SizeMismatchError, read_folder
from pnseg_train.evaluate import (
    Found,
    Result,
    by_tissue,
    class_scores,
    detection_scores,
    measure,
    over_folds,
    true_points,
)
from pnseg_train.label_maps import LabelMaps
from tests import golden
from tests.fakes import FakeNetworks, fake_bundle
from tests.train.datasets.made import boxes_map, write_mat, write_png

TWO = {1: (2, 2, 8, 8), 2: (20, 2, 26, 8), 3: (2, 20, 8, 26), 4: (20, 20, 26, 26)}


def sample(kinds=(1, 1, 2, 2), name="a", tissue="") -> Sample:
    instances = boxes_map(TWO)
    classes = np.array([0, *kinds], np.uint8)[instances]
    return Sample(name, np.zeros((40, 50, 3), np.uint8), instances, classes, tissue=tissue)


def found(kinds, keep=(1, 2, 3, 4)) -> Found:
    labels = np.where(np.isin(boxes_map(TWO), keep), boxes_map(TWO), 0)
    return Found.of_maps(labels, np.array([0, *kinds], np.uint8)[boxes_map(TWO)])


def test_pq_of_a_class_counts_nuclei_of_that_class_alone():
    row = measure(sample((1, 1, 2, 2)), found((1, 2, 2, 2))).row
    assert row["bpq"] == row["pq"] == 1.0
    assert row["pq_1"] == pytest.approx(2 * 1 / (2 + 1))
    assert row["pq_2"] == pytest.approx(2 * 2 / (2 + 3))
    assert row["mpq"] == pytest.approx((row["pq_1"] + row["pq_2"]) / 2)


def test_a_class_that_the_annotation_lacks_is_left_out_of_mpq():
    row = measure(sample((1, 1, 1, 1)), found((1, 1, 1, 3))).row
    assert row["mpq"] == row["pq_1"] == pytest.approx(2 * 3 / (4 + 3))
    assert "pq_3" not in row


def test_an_image_without_nuclei_is_left_out_of_pannukes_protocol_and_counts_in_the_plain_means():
    empty = Sample("e", np.zeros((40, 50, 3), np.uint8), np.zeros((40, 50), np.int32), np.zeros((40, 50), np.uint8))
    row = measure(empty, found((1, 1, 1, 1))).row
    assert math.isnan(row["bpq"])
    assert math.isnan(row["mpq"])
    assert row["pq"] == 0.0
    both = measure(empty, Found.of_maps(np.zeros((40, 50), np.int32), None)).row
    assert both["pq"] == both["aji"] == 1.0


def result(tissue, bpq, mpq) -> Result:
    return Result("x", tissue, {"bpq": bpq, "mpq": mpq}, Counter(), Counter(), Counter())


def test_tissues_weigh_alike_whatever_their_number_of_images():
    table = by_tissue([result("Breast", 0.2, 0.1), result("Breast", 0.4, math.nan), result("Colon", 0.9, 0.5)])
    assert table["Breast"] == {"bpq": pytest.approx(0.3), "mpq": pytest.approx(0.1), "images": 2}
    assert table["average"]["bpq"] == pytest.approx((0.3 + 0.9) / 2)
    assert table["average"]["mpq"] == pytest.approx(0.3)


def test_folds_have_a_mean_and_a_spread():
    folds = [by_tissue([result("Breast", value, value)]) for value in (0.5, 0.6, 0.7)]
    row = over_folds(folds)["average"]
    assert row["bpq"] == pytest.approx(0.6)
    assert row["bpq_sd"] == pytest.approx(0.1)
    assert math.isnan(over_folds(folds[:1])["average"]["bpq_sd"])


def test_class_f1_is_hovernets():
    # Found: two of class 1 rightly, one of 1 as 2, one of 2 as 1; missed: one of 1; invented: one of 2.
    counted = Result("x", "", {}, Counter({(1, 1): 2, (1, 2): 1, (2, 1): 1}), Counter({1: 1}), Counter({2: 1}))
    scores = class_scores([counted])
    assert scores[1]["f1"] == pytest.approx(2 * 2 / (2 * 2 + 2 * 1 + 2 * 1 + 1 + 0))
    assert scores[1]["precision"] == pytest.approx(2 / (2 + 2))
    assert scores[1]["recall"] == pytest.approx(2 / (2 + 2 + 1))
    assert scores[2]["f1"] == 0
    detection = detection_scores([counted, counted])
    assert detection["f1"] == pytest.approx(2 * 4 / (2 * 4 + 1 + 1))


def test_oracle_points_are_centroids_with_their_classes():
    points = true_points(sample((2, 1, 2, 1)))
    assert points.coords.tolist() == [[4.5, 4.5], [22.5, 4.5], [4.5, 22.5], [22.5, 22.5]]
    assert points.classes.tolist() == [1, 0, 1, 0]


def test_with_oracle_points_the_prompter_is_not_asked():
    from pnseg_runtime.segmenter import Segmenter

    bundle = fake_bundle(prompting={"negatives": 0})
    networks = FakeNetworks(bundle)
    image = np.zeros((256, 256, 3), np.uint8)
    one = Sample("a", image, boxes_map({1: (95, 115, 106, 126)}, (256, 256)), np.ones((256, 256), np.uint8))
    image[120, 100] = (1, 10, 200)
    nuclei = Segmenter(bundle, sessions=networks.sessions()).predict(image, points=true_points(one))
    assert networks.prompter_shapes == []
    assert nuclei.points.tolist() == [[100, 120]]
    assert nuclei.masks[0].sum() == pytest.approx(np.pi * 100, rel=0.1)


WRITERS = {
    ".png": lambda path, labels: cv2.imwrite(str(path), labels.astype(np.uint16)),
    ".tif": lambda path, labels: tifffile.imwrite(path, labels.astype(np.uint32)),
    ".labels.tif": lambda path, labels: tifffile.imwrite(path, labels.astype(np.uint32)),
    ".npy": lambda path, labels: np.save(path, labels),
    ".mat": lambda path, labels: savemat(path, {"inst_map": labels.astype(np.float64)}),
}


@pytest.mark.parametrize("suffix", WRITERS)
def test_label_maps_of_any_tool_are_found_by_the_names_of_their_images(suffix, tmp_path):
    one = sample()
    WRITERS[suffix](tmp_path / f"a{suffix}", one.instances * 3)
    row = measure(one, LabelMaps(tmp_path)(one)).row
    assert row["pq"] == row["aji"] == row["f1"] == 1.0
    assert "mpq" not in row


def test_classes_beside_label_maps_and_in_mat_files_are_read(tmp_path):
    one = sample((1, 1, 2, 2))
    for kind, pixels in (("labels", one.instances), ("classes", one.classes)):
        (tmp_path / "plain" / kind).mkdir(parents=True)
        cv2.imwrite(str(tmp_path / "plain" / kind / "a.png"), pixels.astype(np.uint16))
    (tmp_path / "mat").mkdir()
    types = np.array([[1], [1], [2], [2]])
    savemat(tmp_path / "mat" / "a.mat", {"inst_map": one.instances, "inst_type": types})
    for folder in ("plain", "mat"):
        assert measure(one, LabelMaps(tmp_path / folder)(one)).row["mpq"] == 1.0


def test_a_label_map_that_is_missing_or_does_not_fit_is_named(tmp_path):
    np.save(tmp_path / "b.npy", np.zeros((3, 3), np.int32))
    maps = LabelMaps(tmp_path)
    with pytest.raises(ImageError, match="for the image a"):
        maps(sample())
    with pytest.raises(SizeMismatchError, match=r"b\.npy"):
        maps(sample(name="b"))
    np.save(tmp_path / "c.npy", np.full((40, 50), 0.5))
    with pytest.raises(ImageError, match="fractions"):
        LabelMaps(tmp_path)(sample(name="c"))
    (tmp_path / "empty").mkdir()
    with pytest.raises(ImageError, match="no label map"):
        LabelMaps(tmp_path / "empty")


@pytest.mark.parametrize("pair", [(".png", ".npy"), (".tif", ".labels.tif"), (".mat", ".png"), (".tif", ".tiff")])
@pytest.mark.parametrize("inside", ["", "labels"])
def test_two_label_maps_of_one_image_are_refused(pair, inside, tmp_path):
    (tmp_path / inside).mkdir(exist_ok=True)
    for name, suffixes in (("a", pair), ("b", pair[:1])):
        for suffix in suffixes:
            WRITERS[".tif" if suffix == ".tiff" else suffix](tmp_path / inside / f"{name}{suffix}", sample().instances)
    with pytest.raises(ImageError, match="are both of the image a; take one away") as raised:
        LabelMaps(tmp_path)
    assert all(f"a{suffix}" in str(raised.value) for suffix in pair)
    (tmp_path / inside / f"a{pair[0]}").unlink()
    assert measure(sample(), LabelMaps(tmp_path)(sample())).row["pq"] == 1.0


def test_an_array_that_needs_unpickling_is_refused(tmp_path):
    np.save(tmp_path / "a.npy", np.array([{}], object), allow_pickle=True)
    with pytest.raises(ImageError, match=r"a\.npy"):
        LabelMaps(tmp_path)(sample())


def run(*arguments):
    return CliRunner().invoke(cli, ["evaluate", *map(str, arguments)])


def test_the_verb_measures_a_folder_of_label_maps_and_says_so(tmp_path):
    for one in read_folder(golden.TILES, "val"):
        cv2.imwrite(str(tmp_path / f"{one.name}.png"), one.instances.astype(np.uint16))
    result = run(tmp_path, "--data", golden.TILES)
    assert result.exit_code == 0, result.output
    assert "1.0000" in result.stdout
    assert "points are the centroids" in result.stdout
    refused = run(tmp_path, "--data", golden.TILES, "--points", "oracle")
    assert refused.exit_code == 1
    assert "not prompted" in refused.stderr


@pytest.mark.parametrize(
    ("option", "value", "says"),
    [
        ("--negatives", "100", "negatives must be at most 64, not 100."),
        ("--sensitivity", "nan", "sensitivity must be a number, not nan."),
        ("--colour-blur", "nan", "colour_blur must be a number, not nan."),
        ("--radius", "-1", "-1.0 is not in the range x>0."),
        ("--radius", "0", "0.0 is not in the range x>0."),
        ("--radius", "nan", "nan is no number."),
        ("--radius", "inf", "inf is no number."),
    ],
)
def test_options_that_make_no_sense_are_wrong_usage(option, value, says):
    result = run("nano", "--data", golden.TILES, option, value)
    assert (result.exit_code, type(result.exception)) == (2, SystemExit)
    assert says in result.stderr


def test_missing_label_maps_fail_the_verb(tmp_path):
    np.save(tmp_path / "other.npy", np.zeros((3, 3), np.int32))
    result = run(tmp_path, "--data", golden.TILES)
    assert result.exit_code == 1
    assert "no label map for the image" in result.stderr


KINDS_OF = {"test_1": (2, 3, 4, 2), "test_2": (2, 3, 4, 4), "test_3": (2, 3, 3, 2)}


@pytest.fixture
def consep(tmp_path):
    """A test set of three images, with four nuclei each and classes in all of them."""
    for name, kinds in KINDS_OF.items():
        one = sample(kinds)
        write_png(tmp_path / "consep" / "Test" / "Images" / f"{name}.png", one.image)
        write_mat(tmp_path / "consep" / "Test" / "Labels" / f"{name}.mat", inst_map=one.instances, type_map=one.classes)
    return tmp_path / "consep"


def write_hovernet(folder, name, kinds):
    """What HoVer-Net writes that has found the nuclei with these classes, or nothing."""
    ids = list(TWO)[: len(kinds)]
    found = {"inst_uid": np.array(ids)[:, None], "inst_type": np.array(kinds)[:, None]}
    write_mat(folder / f"{name}.mat", inst_map=np.where(np.isin(boxes_map(TWO), ids), boxes_map(TWO), 0), **found)


def test_an_image_where_a_tool_finds_only_the_first_class_or_nothing_counts_by_class_all_the_same(consep, tmp_path):
    maps = tmp_path / "maps"
    for name, kinds in zip(KINDS_OF, (KINDS_OF["test_1"], (1, 1, 1, 1), ()), strict=True):
        write_hovernet(maps, name, kinds)
    result = run(maps, "--data", consep, "--split", "test", "--json")
    assert result.exit_code == 0, result.output
    document = json.loads(result.stdout)
    assert [row["mpq"] for row in document["sets"]["consep"]["rows"].values()] == [1, 0, 0]
    assert document["tissues"]["average"]["mpq"] == pytest.approx(1 / 3)
    classes = {name: row["nuclei"] for name, row in document["classes"].items()}
    assert classes == {"miscellaneous": 0, "inflammatory": 5, "epithelial": 4, "spindle-shaped": 3}


def test_maps_without_classes_get_no_row_of_a_class(consep, tmp_path):
    maps = tmp_path / "maps"
    for name in KINDS_OF:
        write_png(maps / f"{name}.png", boxes_map(TWO).astype(np.uint16))
    table = run(maps, "--data", consep, "--split", "test")
    assert table.exit_code == 0, table.output
    assert not any(word in table.stdout for word in ("miscellaneous", "inflammatory", "Class F1"))
    document = json.loads(run(maps, "--data", consep, "--split", "test", "--json").stdout)
    assert document["classes"] == {}
    assert document["tissues"]["average"] == {"bpq": 1.0, "mpq": None, "images": 3.0}


@pytest.mark.parametrize("kind", ["mat", "png"])
def test_maps_of_which_only_some_have_classes_are_refused(consep, tmp_path, kind):
    maps = tmp_path / "maps"
    for name, kinds in KINDS_OF.items():
        has = name != "test_2"
        if kind == "mat":
            write_mat(
                maps / f"{name}.mat", inst_map=boxes_map(TWO), **({"type_map": sample(kinds).classes} if has else {})
            )
        else:
            write_png(maps / "labels" / f"{name}.png", boxes_map(TWO).astype(np.uint16))
            if has:
                write_png(maps / "classes" / f"{name}.png", sample(kinds).classes)
    result = run(maps, "--data", consep, "--split", "test")
    assert result.exit_code == 1
    assert f"test_2.{kind}: has no classes" in result.stderr


def test_maps_with_classes_are_not_measured_on_data_sets_of_different_ones_at_once(consep, tmp_path):
    maps = tmp_path / "maps"
    for name, kinds in KINDS_OF.items():
        write_hovernet(maps, name, kinds)
    result = run(maps, "--data", consep, "--data", golden.TILES, "--split", "test")
    assert result.exit_code == 1
    assert f"{golden.TILES}: unknown" in result.stderr
    assert "evaluate them one by one" in result.stderr


def test_an_annotation_without_a_class_is_no_class_of_its_own(consep, tmp_path):
    maps = tmp_path / "maps"
    for name, kinds in KINDS_OF.items():
        write_hovernet(maps, name, kinds)
    one = sample((2, 0, 4, 2))
    write_mat(consep / "Test" / "Labels" / "test_1.mat", inst_map=one.instances, type_map=one.classes)
    result = run(maps, "--data", consep, "--split", "test")
    assert result.exit_code == 1
    assert "test_1: 1 of its nuclei have no class, by which the label maps are to be measured" in result.stderr
    for name in KINDS_OF:  # without classes nobody asks for them
        (maps / f"{name}.mat").unlink()
        write_png(maps / f"{name}.png", boxes_map(TWO).astype(np.uint16))
    assert run(maps, "--data", consep, "--split", "test").exit_code == 0


def write_told(folder, kinds, part):
    """A plain folder's image, or label maps for it, with four nuclei of these classes."""
    one = sample(kinds)
    if part == "data":
        write_png(folder / "images" / "a.png", one.image)
    write_png(folder / "labels" / "a.png", one.instances.astype(np.uint16))
    write_png(folder / "classes" / "a.png", one.classes)
    return folder


def test_classes_of_a_plain_folder_are_scored_by_their_numbers(tmp_path):
    data, maps = write_told(tmp_path / "d", (1, 1, 3, 3), "data"), write_told(tmp_path / "m", (1, 3, 3, 5), "maps")
    table = run(maps, "--data", data, "--split", "all")
    assert table.exit_code == 0, table.output
    assert all(word in table.stdout for word in ("class 1", "class 3", "class 5", "Class F1 as HoVer-Net counts it"))
    document = json.loads(run(maps, "--data", data, "--split", "all", "--json").stdout)
    scores = {name: (row["nuclei"], row["f1"]) for name, row in document["classes"].items()}
    assert scores == {"class 1": (2, 2 / 4), "class 3": (2, 2 / (2 + 4)), "class 5": (0, 0)}
    assert document["tissues"]["average"]["mpq"] == pytest.approx((2 / 3 + 2 / 4) / 2)


def test_a_plain_folder_of_a_single_class_tells_none_apart(tmp_path):
    data, maps = write_told(tmp_path / "d", (1, 1, 1, 1), "data"), write_told(tmp_path / "m", (1, 1, 1, 1), "maps")
    assert json.loads(run(maps, "--data", data, "--split", "all", "--json").stdout)["classes"] == {}


def test_two_data_sets_of_one_name_are_refused_before_one_hides_the_other(tmp_path):
    (tmp_path / golden.TILES.name).mkdir()
    result = run("nano", "--data", golden.TILES, "--data", tmp_path / golden.TILES.name)
    assert result.exit_code == 1
    assert "two of one name" in result.stderr


def test_folds_are_told_apart_and_averaged(tmp_path):
    names = {}
    for split in ("train", "val"):
        folder = tmp_path / split
        folder.mkdir()
        for one in read_folder(golden.TILES, split):
            kept = np.where(one.instances % 2 == 1, one.instances, 0) if split == "val" else one.instances
            cv2.imwrite(str(folder / f"{one.name}.png"), kept.astype(np.uint16))
        names[split] = folder
    result = run("--data", golden.TILES, "--json", *(f"--fold={split}={folder}" for split, folder in names.items()))
    assert result.exit_code == 0, result.output
    document = json.loads(result.stdout)
    first, second = (fold["sets"]["cc0_tiles"]["mean"]["pq"] for fold in document["folds"])
    assert first == 1.0
    assert 0.5 < second < 0.8
    average = document["over_folds"]["average"]
    assert average["bpq"] == pytest.approx((first + second) / 2)
    assert average["bpq_sd"] == pytest.approx(abs(first - second) / math.sqrt(2))


def test_a_model_and_folds_exclude_each_other(tmp_path):
    for arguments in (["--data", golden.TILES], ["nano", "--fold", "val=nano", "--data", golden.TILES]):
        result = run(*arguments)
        assert result.exit_code == 1
        assert "one for every --fold" in result.stderr


class _TwoClasses:
    """Finds the annotation, and calls every second nucleus by the other class."""

    manifest = fake_bundle().manifest.model_copy(
        update={"classes": Classes(names=["round", "other"], colors=[(255, 0, 0), (0, 0, 255)])}
    )

    def predict(self, rgb, mpp=None, points=None, guessed=False):
        from dataclasses import replace

        from tests.train.test_evaluate import oracle

        one = oracle(sample())
        return replace(one, classes=np.array([0, 1, 0, 1]), class_table=self.manifest.class_table)


def test_a_model_with_classes_is_measured_without_them_on_data_that_have_others(monkeypatch, tmp_path):
    one = sample((1, 1, 1, 1))
    for kind, pixels in (("images", one.image), ("labels", one.instances)):
        (tmp_path / kind).mkdir()
        cv2.imwrite(str(tmp_path / kind / "a.png"), pixels.astype(np.uint8))
    monkeypatch.setattr(finder, "open_segmenter", lambda model, options: _TwoClasses())
    result = run("x", "--data", tmp_path, "--split", "all", "--json")
    assert result.exit_code == 0, result.output
    assert "measured without their classes" in result.stderr
    document = json.loads(result.stdout)
    assert document["sets"][tmp_path.name]["mean"]["pq"] == document["sets"][tmp_path.name]["detection"]["f1"] == 1.0
    assert document["classes"] == {}
    assert "mpq" not in document["sets"][tmp_path.name]["mean"]


def test_a_model_with_classes_gets_a_table_of_them(monkeypatch, tmp_path):
    one = sample((1, 1, 2, 2))
    for kind, pixels in (("images", one.image), ("labels", one.instances), ("classes", one.classes)):
        (tmp_path / kind).mkdir()
        cv2.imwrite(str(tmp_path / kind / "a.png"), pixels.astype(np.uint8))
    monkeypatch.setattr(finder, "open_segmenter", lambda model, options: _TwoClasses())
    result = run("x", "--data", tmp_path, "--split", "all")
    assert result.exit_code == 0, result.output
    assert "round" in result.stdout
    assert "HoVer-Net" in result.stdout
    document = json.loads(run("x", "--data", tmp_path, "--split", "all", "--json").stdout)
    assert document["classes"]["round"]["f1"] == pytest.approx(2 * 1 / (2 * 1 + 2 + 2))
    assert document["tissues"]["average"]["mpq"] == pytest.approx(0.5)
