"""Paths that cannot be looked at are one sentence each, and the others finish."""

from __future__ import annotations

import json
import os
from collections.abc import Callable
from pathlib import Path

import pytest
from PIL import Image

from tests.runtime.cli.bad_input import RGB, all_outputs, names, refuse_where, run
from tests.runtime.made import DarkSpotModel


@pytest.fixture
def tree(tmp_path: Path) -> Path:
    """Images in a folder and in two folders inside."""
    for place in ("good", "a/first", "b/second"):
        path = tmp_path / "tree" / f"{place}.png"
        path.parent.mkdir(parents=True, exist_ok=True)
        Image.fromarray(RGB).save(path)
    return tmp_path / "tree"


def test_a_folder_whose_images_lie_in_folders_inside_names_the_option_that_finds_them(
    model: DarkSpotModel, tree: Path, tmp_path: Path
) -> None:
    (tree / "good.png").unlink()
    told = run("predict", tree, "--out", tmp_path / "out").stderr.splitlines()[0]
    assert told.startswith(f"Error: {tree}: no images in this folder (")
    assert told.endswith("which --recursive looks into.")
    (tree / "a" / "first.png").unlink()
    (tree / "b" / "second.png").unlink()
    told = run("predict", tree, "--out", tmp_path / "out").stderr.splitlines()[0]
    assert told.endswith("name image files or another folder.")


@pytest.mark.parametrize("lacking", ["read", "execute"])
def test_a_folder_inside_that_cannot_be_looked_into_is_one_sentence_and_the_others_finish(
    lacking: str, model: DarkSpotModel, tree: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    if lacking == "read":
        refuse_where(monkeypatch, os, "scandir", tree / "a")
    else:
        access = os.access
        monkeypatch.setattr(os, "access", lambda path, *rest: Path(path) != tree / "a" and access(path, *rest))
    result = run("predict", tree, "--recursive", "--out", tmp_path / "out")
    sentence, closing = result.stderr.splitlines()
    assert result.exit_code == 1
    assert sentence.startswith(
        f"Error: {tree / 'a'}: cannot be looked into (Permission denied); change its permissions"
    )
    assert closing == "Error: 1 of 3 images failed"
    assert names(tmp_path / "out") == sorted(["b", *all_outputs("good")])
    assert names(tmp_path / "out" / "b") == all_outputs("second")


@pytest.mark.parametrize("recursive", [[], ["--recursive"]])
def test_a_folder_named_that_cannot_be_looked_into_is_one_sentence_and_the_others_finish(
    recursive: list[str],
    model: DarkSpotModel,
    tree: Path,
    good: Path,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    refuse_where(monkeypatch, os, "scandir", tree)
    result = run("predict", tree, good, "--out", tmp_path / "out", *recursive)
    assert result.exit_code == 1
    assert result.stderr.splitlines()[0].startswith(f"Error: {tree}: cannot be looked into (Permission denied)")
    assert names(tmp_path / "out") == all_outputs("good")


def test_linked_folders_are_looked_into_once_and_may_lead_in_circles(
    model: DarkSpotModel, tree: Path, tmp_path: Path
) -> None:
    (tmp_path / "elsewhere").mkdir()
    Image.fromarray(RGB).save(tmp_path / "elsewhere" / "third.png")
    (tree / "link").symlink_to(tmp_path / "elsewhere", target_is_directory=True)
    (tree / "a" / "again").symlink_to(tree / "b", target_is_directory=True)
    (tmp_path / "elsewhere" / "up").symlink_to(tree, target_is_directory=True)
    result = run("predict", tree, "--recursive", "--out", tmp_path / "out", "--json")
    images = [entry["image"] for entry in json.loads(result.stdout)["images"]]
    assert (result.exit_code, result.stderr) == (0, "")
    assert images == [str(tree / place) for place in ("a/first.png", "b/second.png", "good.png", "link/third.png")]
    assert names(tmp_path / "out" / "link") == all_outputs("third")


def test_a_file_that_may_not_be_read_is_one_sentence_and_the_others_finish(
    model: DarkSpotModel, good: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    locked = tmp_path / "locked.png"
    Image.fromarray(RGB).save(locked)
    access = os.access
    monkeypatch.setattr(os, "access", lambda path, *rest: Path(path) != locked and access(path, *rest))
    refuse_where(monkeypatch, Path, "open", locked)
    result = run("predict", locked, good, "--out", tmp_path / "out")
    assert result.exit_code == 1
    assert result.stderr.splitlines()[0].startswith(f"Error: {locked}: may not be read")
    assert names(tmp_path / "out") == all_outputs("good")


def test_a_file_in_a_folder_that_may_not_be_entered_is_one_sentence_and_the_others_finish(
    model: DarkSpotModel, tree: Path, good: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    refuse_where(monkeypatch, Path, "stat", tree / "a" / "first.png")
    result = run("predict", tree / "a" / "first.png", good, "--out", tmp_path / "out")
    assert result.exit_code == 1
    assert "first.png: cannot be opened (Permission denied); check its path" in result.stderr.splitlines()[0]
    assert names(tmp_path / "out") == all_outputs("good")


@pytest.mark.parametrize("make", [lambda path: path, lambda path: path.with_name("n" * 300 + ".png"),
                                  lambda path: path.symlink_to(path.name) or path],
                         ids=["missing", "name too long", "link to itself"])  # fmt: skip
def test_a_path_that_leads_nowhere_is_one_sentence_and_the_others_finish(
    make: Callable[[Path], Path], model: DarkSpotModel, good: Path, tmp_path: Path
) -> None:
    odd = make(tmp_path / "odd.png")
    result = run("predict", odd, good, "--out", tmp_path / "out")
    sentence, closing = result.stderr.splitlines()
    assert result.exit_code == 1
    assert sentence.startswith(f"Error: {odd}: ")
    assert "check its path" in sentence
    assert closing == "Error: 1 of 2 images failed"
    assert names(tmp_path / "out") == all_outputs("good")
