from __future__ import annotations

import os
from pathlib import Path

import pytest

from pnseg_runtime.errors import OutputError
from pnseg_runtime.outputs.atomic import all_or_none, make_folder


def names(folder: Path) -> list[str]:
    return sorted(path.name for path in folder.iterdir())


def test_files_take_their_names_together_at_the_end(tmp_path: Path) -> None:
    targets = [tmp_path / "a.txt", tmp_path / "b.txt"]
    with all_or_none(targets) as streams:
        for stream, text in zip(streams, (b"one", b"two"), strict=True):
            stream.write(text)
        assert not any(target.exists() for target in targets)
    assert [target.read_bytes() for target in targets] == [b"one", b"two"]
    assert names(tmp_path) == ["a.txt", "b.txt"]


@pytest.mark.parametrize("error", [ValueError, KeyboardInterrupt, SystemExit])
def test_an_exception_leaves_nothing_new_and_the_old_untouched(error: type[BaseException], tmp_path: Path) -> None:
    (tmp_path / "a.txt").write_bytes(b"old")

    def write_half() -> None:
        with all_or_none([tmp_path / "a.txt", tmp_path / "b.txt"]) as (first, _):
            first.write(b"half")
            raise error

    with pytest.raises(error):
        write_half()
    assert names(tmp_path) == ["a.txt"]
    assert (tmp_path / "a.txt").read_bytes() == b"old"


def test_a_full_disk_is_one_sentence_and_leaves_nothing(tmp_path: Path) -> None:
    with pytest.raises(OutputError, match="No space left") as caught, all_or_none([tmp_path / "a.txt"]):
        raise OSError(28, "No space left on device")
    assert str(caught.value).startswith(f"{tmp_path / 'a.txt'}: cannot be written")
    assert names(tmp_path) == []


def test_a_rename_that_fails_takes_the_earlier_ones_back(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    replace = Path.replace

    def fail_on_b(self: Path, target: Path) -> Path:
        if target.name == "b.txt":
            raise PermissionError(13, "Permission denied")
        return replace(self, target)

    monkeypatch.setattr(Path, "replace", fail_on_b)
    with pytest.raises(OutputError, match="Permission denied"), all_or_none([tmp_path / "a.txt", tmp_path / "b.txt"]):
        pass
    assert names(tmp_path) == []


def test_a_folder_under_a_files_name_is_refused_before_anything_is_written(tmp_path: Path) -> None:
    (tmp_path / "b.txt").mkdir()
    with (
        pytest.raises(OutputError, match="a folder has this name"),
        all_or_none([tmp_path / "a.txt", tmp_path / "b.txt"]),
    ):
        pytest.fail("the body must not run")
    assert names(tmp_path) == ["b.txt"]


@pytest.mark.skipif(os.name != "posix", reason="file modes are a matter of POSIX")
def test_files_have_the_users_ordinary_permissions(tmp_path: Path) -> None:
    with all_or_none([tmp_path / "a.txt"]):
        pass
    (tmp_path / "plain.txt").touch()
    assert (tmp_path / "a.txt").stat().st_mode == (tmp_path / "plain.txt").stat().st_mode


def test_an_image_name_of_the_longest_length_can_be_written(tmp_path: Path) -> None:
    name = "n" * 251 + ".txt"
    with all_or_none([tmp_path / name]):
        pass
    assert names(tmp_path) == [name]


def test_a_folder_is_made_with_its_parents_and_left_empty(tmp_path: Path) -> None:
    make_folder(tmp_path / "a" / "b")
    assert names(tmp_path / "a" / "b") == []


def test_a_folder_that_cannot_be_made_is_one_sentence(tmp_path: Path) -> None:
    (tmp_path / "file").touch()
    with pytest.raises(OutputError, match="cannot be written"):
        make_folder(tmp_path / "file" / "b")
    with pytest.raises(OutputError, match="cannot be written"):
        make_folder(tmp_path / "file")
