"""Results that get in each other's way or cannot be written leave no half of a result."""

from __future__ import annotations

import os
from pathlib import Path

import pytest
from PIL import Image

from pnseg_runtime.cli.inputs import plan
from tests.runtime.cli.bad_input import RGB, a_truncated_png, all_outputs, names, refuse_where, run
from tests.runtime.made import DarkSpotModel


# Names that get in each other's way
def test_two_inputs_with_one_stem_both_fail_naming_each_other(model: DarkSpotModel, good: Path, tmp_path: Path) -> None:
    twins = [tmp_path / "tile.png", tmp_path / "tile.tif"]
    for twin in twins:
        Image.fromarray(RGB).save(twin)
    result = run("predict", tmp_path, "--out", tmp_path / "out")
    first, second, closing = result.stderr.splitlines()
    assert result.exit_code == 1
    assert str(twins[0]) in first
    assert str(twins[1]) in first
    assert str(twins[0]) in second
    assert str(twins[1]) in second
    assert all("predict one of them with another --out" in told for told in (first, second))
    assert closing == "Error: 2 of 3 images failed"
    assert names(tmp_path / "out") == all_outputs("good")


def test_the_remedy_for_two_inputs_with_one_stem_helps(model: DarkSpotModel, tmp_path: Path) -> None:
    for name, pixels in (("tile.png", RGB), ("tile.tif", RGB[:200])):
        Image.fromarray(pixels).save(tmp_path / name)
    assert run("predict", tmp_path / "tile.png", "--out", tmp_path / "one").exit_code == 0
    assert run("predict", tmp_path / "tile.tif", "--out", tmp_path / "two").exit_code == 0
    assert names(tmp_path / "one") == names(tmp_path / "two") == all_outputs("tile")


def test_thousands_of_images_of_one_stem_are_compared_with_one_other_each() -> None:
    compared = 0

    class Counted(type(Path())):  # type: ignore[misc]
        def __eq__(self, other: object) -> bool:
            nonlocal compared
            compared += 1
            return super().__eq__(other)

        __hash__ = type(Path()).__hash__

    images = [Counted(f"in/tile.{number}.png").with_name(f"tile.{number}") for number in range(3000)]
    jobs = plan(images, Path("out"), ["csv"])
    assert all("another --out" in str(job.problem) for job in jobs)
    assert compared < 20 * len(images)


def test_an_image_is_never_overwritten_by_a_result(model: DarkSpotModel, good: Path, tmp_path: Path) -> None:
    victim = tmp_path / "good.overlay.png"
    Image.fromarray(RGB).save(victim)
    before = victim.read_bytes()
    result = run("predict", good, victim, "--out", tmp_path)
    assert result.exit_code == 1
    assert f"{victim} is an input itself" in result.stderr
    assert victim.read_bytes() == before


# Places that cannot be written
def test_an_output_folder_that_is_a_file_stops_before_anything_is_done(
    model: DarkSpotModel, good: Path, tmp_path: Path
) -> None:
    (tmp_path / "out").write_text("mine")
    result = run("predict", good, "--out", tmp_path / "out")
    assert result.exit_code == 1
    assert result.stderr.startswith(f"Error: {tmp_path / 'out'}: cannot be written")
    assert len(result.stderr.splitlines()) == 1
    assert model.asked == []


@pytest.mark.skipif(os.name != "posix" or os.geteuid() == 0, reason="the superuser may write everywhere")
def test_a_folder_without_permission_is_one_sentence(model: DarkSpotModel, good: Path, tmp_path: Path) -> None:
    (tmp_path / "out").mkdir(mode=0o500)
    result = run("predict", good, "--out", tmp_path / "out")
    assert result.exit_code == 1
    assert "cannot be written" in result.stderr


def test_one_output_that_cannot_be_written_takes_the_images_others_with_it(
    model: DarkSpotModel, good: Path, tmp_path: Path
) -> None:
    Image.fromarray(RGB).save(tmp_path / "other.png")
    (tmp_path / "out" / "good.csv").mkdir(parents=True)
    result = run("predict", good, tmp_path / "other.png", "--out", tmp_path / "out")
    assert result.exit_code == 1
    assert names(tmp_path / "out") == sorted([*all_outputs("other"), "good.csv"])


def test_a_failed_write_names_the_image_and_leaves_all_earlier_results(
    model: DarkSpotModel, good: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "out").mkdir()
    for name in all_outputs("good"):
        (tmp_path / "out" / name).write_text("earlier")
    refuse_where(monkeypatch, Path, "is_dir", tmp_path / "out" / "good.csv")
    result = run("predict", good, "--out", tmp_path / "out")
    assert result.exit_code == 1
    assert result.stderr.startswith(f"Error: {good}: {tmp_path / 'out' / 'good.csv'}: cannot be written (Permission")
    assert {path.read_text() for path in (tmp_path / "out").iterdir()} == {"earlier"}
    assert names(tmp_path / "out") == all_outputs("good")


def test_an_image_whose_results_names_would_be_too_long_is_one_sentence_before_it_is_predicted(
    model: DarkSpotModel, good: Path, tmp_path: Path
) -> None:
    long = tmp_path / ("n" * 251 + ".png")
    Image.fromarray(RGB[:200]).save(long)
    for options in ([], ["--no-overwrite"]):
        result = run("predict", long, good, "--out", tmp_path / f"out{len(options)}", *options)
        assert result.exit_code == 1
        assert result.stderr.startswith(f"Error: {long}: its results would have names that are too long")
        assert names(tmp_path / f"out{len(options)}") == all_outputs("good")
    assert [shape for shape, _ in model.asked] == [RGB.shape] * 2
    assert run("predict", long, "--out", tmp_path / "csv", "--only", "csv").exit_code == 0


def test_no_overwrite_keeps_an_earlier_result(model: DarkSpotModel, good: Path, tmp_path: Path) -> None:
    (tmp_path / "out").mkdir()
    (tmp_path / "out" / "good.csv").write_text("earlier")
    result = run("predict", good, "--out", tmp_path / "out", "--no-overwrite")
    assert result.exit_code == 1
    assert "exists already" in result.stderr
    assert (tmp_path / "out" / "good.csv").read_text() == "earlier"
    assert names(tmp_path / "out") == ["good.csv"]


def test_no_overwrite_sees_an_earlier_result_before_the_image_is_read_and_predicted(
    model: DarkSpotModel, good: Path, tmp_path: Path
) -> None:
    (tmp_path / "out").mkdir()
    for stem in ("good", "damaged"):
        (tmp_path / "out" / f"{stem}.csv").write_text("earlier")
    (tmp_path / "damaged.png").write_bytes(a_truncated_png())
    Image.fromarray(RGB[:200]).save(tmp_path / "new.png")
    result = run("predict", tmp_path, "--out", tmp_path / "out", "--no-overwrite", "--only", "csv")
    assert result.stderr.count("exists already") == 2
    assert result.stderr.splitlines()[-1] == "Error: 2 of 3 images failed"
    assert model.asked == [((200, 320, 3), None)]
