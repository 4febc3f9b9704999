"""What pnseg predict does with results that are there."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pyarrow.csv
import pytest
import tifffile
from PIL import Image

from tests.runtime.cli.command import run
from tests.runtime.made import SAMPLES, DarkSpotModel, dark_spots, sample


def test_results_of_an_earlier_run_in_the_same_folder_are_no_input(loaded: dict[str, Any], tmp_path: Path) -> None:
    Image.fromarray(sample()).save(tmp_path / "tile.png")
    for _ in range(2):
        assert run("predict", tmp_path, "--out", tmp_path).exit_code == 0
    assert len(loaded["model"].asked) == 2


def tree_of_patients(folder: Path) -> dict[str, np.ndarray]:
    """Images of one name in folders of their own; patient → pixels."""
    images = {"a": sample("he_pink"), "b": sample("he_pink")[:200]}
    for patient, pixels in images.items():
        (folder / patient).mkdir(parents=True)
        Image.fromarray(pixels).save(folder / patient / "tile_0_0.png")
    return images


def test_results_of_namesakes_in_different_folders_go_to_folders_of_the_same_names(
    loaded: dict[str, Any], tmp_path: Path
) -> None:
    images = tree_of_patients(tmp_path / "tree")
    result = run("predict", tmp_path / "tree", "--recursive", "--out", tmp_path / "out")
    assert result.exit_code == 0, result.stderr
    for patient, pixels in images.items():
        labels = tifffile.imread(tmp_path / "out" / patient / "tile_0_0.labels.tif")
        np.testing.assert_array_equal(labels, dark_spots(pixels).instance_map())


def files(folder: Path) -> dict[str, bytes]:
    return {path.relative_to(folder).as_posix(): path.read_bytes() for path in folder.rglob("*.*")}


@pytest.mark.parametrize("kind", ["labels", "geojson", "parquet", "overlay"])
def test_a_result_of_another_image_of_the_same_name_is_kept_unless_it_may_go(
    kind: str, loaded: dict[str, Any], tmp_path: Path
) -> None:
    images, out = tree_of_patients(tmp_path / "tree"), tmp_path / "out"
    assert run("predict", tmp_path / "tree" / "a", "--out", out, "--only", kind).exit_code == 0
    before = files(out)
    for kinds in (kind, "csv"):
        refused = run("predict", tmp_path / "tree" / "b", "--out", out, "--only", kinds)
        told = refused.stderr.splitlines()[0]
        assert refused.exit_code == 1
        assert told.startswith(f"Error: {tmp_path / 'tree' / 'b' / 'tile_0_0.png'}: {out / 'tile_0_0'}.")
        assert "is a result of another image" in told
        assert "another --out" in told
        assert files(out) == before
    assert len(loaded["model"].asked) == 1  # what is refused is not predicted
    assert run("predict", tmp_path / "tree" / "b", "--out", out, "--only", "csv", "--overwrite").exit_code == 0
    assert list(files(out)) == ["tile_0_0.csv"]
    assert pyarrow.csv.read_csv(out / "tile_0_0.csv").num_rows == len(dark_spots(images["b"]))


def test_the_same_image_under_another_format_replaces_its_results(loaded: dict[str, Any], tmp_path: Path) -> None:
    for end in ("png", "bmp"):
        (tmp_path / end).mkdir()
        Image.fromarray(sample()).save(tmp_path / end / f"tile.{end}")
        result = run("predict", tmp_path / end, "--out", tmp_path / "out")
        assert (result.exit_code, result.stderr) == (0, "")


class Halved(DarkSpotModel):
    """Finds nuclei in the left half alone, as with another setting."""

    def predict(self, rgb: Any, mpp: float | None = None, *, guessed: bool = False) -> Any:
        rgb = rgb.copy()
        rgb[:, rgb.shape[1] // 2 :] = 255
        return super().predict(rgb, mpp, guessed=guessed)


def test_files_of_an_earlier_result_of_the_image_do_not_stay_beside_a_new_one(
    loaded: dict[str, Any], tmp_path: Path
) -> None:
    image, out = SAMPLES / "he_pink.png", tmp_path / "out"
    run("predict", image, "--out", out)
    before = files(out)
    assert run("predict", image, "--out", out, "--only", "csv").exit_code == 0
    assert files(out) == before  # the same result: all of it stays
    (out / "he_pink.geojson").write_text('{"type": "FeatureCollection", "features": []}')  # not of pnseg's making
    loaded["model"] = Halved()
    assert run("predict", image, "--out", out, "--only", "labels").exit_code == 0
    assert sorted(files(out)) == ["he_pink.geojson", "he_pink.labels.tif"]


def test_no_overwrite_removes_nothing_of_an_earlier_result(loaded: dict[str, Any], tmp_path: Path) -> None:
    image, out = SAMPLES / "he_pink.png", tmp_path / "out"
    run("predict", image, "--out", out, "--only", "labels")
    before = files(out)
    added = run("predict", image, "--out", out, "--only", "geojson", "--no-overwrite")
    assert added.exit_code == 0, added.stderr  # of the same result
    (out / "he_pink.geojson").unlink()
    loaded["model"] = Halved()
    refused = run("predict", image, "--out", out, "--only", "csv", "--no-overwrite")
    assert refused.exit_code == 1
    assert "he_pink.labels.tif: exists already" in refused.stderr
    assert files(out) == before


def test_a_table_of_the_users_own_beside_an_image_is_left_alone(loaded: dict[str, Any], tmp_path: Path) -> None:
    Image.fromarray(sample()).save(tmp_path / "tile.png")
    (tmp_path / "tile.csv").write_text("patient,grade\n1,2\n")
    assert run("predict", tmp_path, "--out", tmp_path, "--only", "labels").exit_code == 0
    assert (tmp_path / "tile.csv").read_text() == "patient,grade\n1,2\n"
