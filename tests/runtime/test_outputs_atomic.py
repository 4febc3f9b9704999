from __future__ import annotations

import os
import time
from pathlib import Path

import pytest

from pnseg_runtime.errors import OutputError
from pnseg_runtime.outputs import atomic
from pnseg_runtime.outputs.atomic import all_or_none, draft_of, make_folder


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


def test_a_draft_takes_the_place_of_its_file_when_it_is_whole(tmp_path: Path) -> None:
    (tmp_path / "a.txt").write_bytes(b"old")
    with draft_of(tmp_path / "a.txt") as draft:
        draft.write_bytes(b"new")
        assert (tmp_path / "a.txt").read_bytes() == b"old"
    assert (tmp_path / "a.txt").read_bytes() == b"new"
    assert names(tmp_path) == ["a.txt"]


@pytest.mark.parametrize("error", [OSError(28, "No space left on device"), KeyboardInterrupt()])
def test_a_draft_that_fails_goes_and_the_file_stays(error: BaseException, tmp_path: Path) -> None:
    (tmp_path / "a.txt").write_bytes(b"old")

    def write_half() -> None:
        with draft_of(tmp_path / "a.txt") as draft:
            draft.write_bytes(b"half")
            raise error

    with pytest.raises(type(error)) as caught:
        write_half()
    assert caught.value is error
    assert (tmp_path / "a.txt").read_bytes() == b"old"
    assert names(tmp_path) == ["a.txt"]


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


@pytest.fixture(params=[None, PermissionError(1, "Operation not permitted"), NotImplementedError()], ids=repr)
def links(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> None:
    """Hard links, a file system without them, and an operating system without them."""

    def refuse(self: Path, target: Path) -> None:
        target.stat()  # what is not there is told first
        raise request.param

    if request.param is not None:
        monkeypatch.setattr(Path, "hardlink_to", refuse)


@pytest.mark.usefixtures("links")
@pytest.mark.parametrize("error", [PermissionError(13, "in use"), KeyboardInterrupt()])
@pytest.mark.parametrize("failing", ["a.txt", "b.txt", "c.txt"])
@pytest.mark.parametrize("late", [False, True])
def test_an_overwrite_that_fails_midway_puts_the_earlier_files_back(
    late: bool, failing: str, error: BaseException, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    for name in ("a.txt", "c.txt"):  # b.txt is new
        (tmp_path / name).write_text(f"old {name}")
    replace = Path.replace

    def fail(self: Path, target: Path) -> Path:
        if target.name != failing or self.suffix != ".part":
            return replace(self, target)
        if late:  # as an interruption may come, just after the file has its name
            replace(self, target)
        raise error

    def overwrite() -> None:
        with all_or_none([tmp_path / "a.txt", tmp_path / "b.txt", tmp_path / "c.txt"]) as streams:
            for stream in streams:
                stream.write(b"new")

    monkeypatch.setattr(Path, "replace", fail)
    with pytest.raises(KeyboardInterrupt if isinstance(error, KeyboardInterrupt) else OutputError):
        overwrite()
    assert {path.name: path.read_text() for path in tmp_path.iterdir()} == {
        "a.txt": "old a.txt",
        "c.txt": "old c.txt",
    }


@pytest.mark.usefixtures("links")
@pytest.mark.parametrize("error", [PermissionError(13, "in use"), KeyboardInterrupt()])
def test_what_was_to_be_removed_is_put_back_when_a_rename_fails(
    error: BaseException, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    for name in ("a.txt", "gone.txt"):
        (tmp_path / name).write_text(f"old {name}")
    replace = Path.replace

    def fail(self: Path, target: Path) -> Path:
        if self.suffix != ".part":
            return replace(self, target)
        raise error

    monkeypatch.setattr(Path, "replace", fail)
    with (
        pytest.raises(KeyboardInterrupt if isinstance(error, KeyboardInterrupt) else OutputError),
        all_or_none([tmp_path / "a.txt"], removed=[tmp_path / "gone.txt", tmp_path / "never.txt"]),
    ):
        pass
    assert {path.name: path.read_text() for path in tmp_path.iterdir()} == {
        "a.txt": "old a.txt",
        "gone.txt": "old gone.txt",
    }


@pytest.mark.usefixtures("links")
def test_what_is_to_be_removed_goes_with_the_renames_and_not_before(tmp_path: Path) -> None:
    (tmp_path / "gone.txt").touch()
    with all_or_none([tmp_path / "a.txt"], removed=[tmp_path / "gone.txt"]):
        assert (tmp_path / "gone.txt").exists()
    assert names(tmp_path) == ["a.txt"]


@pytest.mark.usefixtures("links")
def test_an_overwrite_leaves_the_new_files_and_nothing_of_the_old(tmp_path: Path) -> None:
    (tmp_path / "a.txt").write_text("old")
    with all_or_none([tmp_path / "a.txt", tmp_path / "b.txt"]) as streams:
        for stream in streams:
            stream.write(b"new")
    assert {path.name: path.read_text() for path in tmp_path.iterdir()} == {"a.txt": "new", "b.txt": "new"}


def test_one_file_replaces_another_in_one_step(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "a.txt").write_text("old")
    for step in ("hardlink_to", "rename"):
        monkeypatch.setattr(Path, step, lambda *_: pytest.fail("that is a step more"))
    with all_or_none([tmp_path / "a.txt"]) as (stream,):
        stream.write(b"new")
    assert {path.name: path.read_text() for path in tmp_path.iterdir()} == {"a.txt": "new"}


def test_what_is_not_complete_yet_lies_in_the_folder_that_is_named_for_it(tmp_path: Path) -> None:
    (tmp_path / "drafts").mkdir()
    with all_or_none([tmp_path / "a.txt", tmp_path / "b.txt"], tmp_path / "drafts"):
        assert names(tmp_path) == ["drafts"]
        assert len(names(tmp_path / "drafts")) == 2
    assert names(tmp_path) == ["a.txt", "b.txt", "drafts"]
    assert names(tmp_path / "drafts") == []


def test_the_file_that_cannot_be_written_is_named(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    replace = os.replace

    def fail_on_b(draft: str, target: str) -> None:
        if Path(target).name == "b.txt":
            raise PermissionError(13, "in use", str(draft), None, str(target))
        replace(draft, target)

    monkeypatch.setattr(os, "replace", fail_on_b)
    with pytest.raises(OutputError) as caught, all_or_none([tmp_path / "a.txt", tmp_path / "b.txt"]):
        pass
    assert str(caught.value).startswith(f"{tmp_path / 'b.txt'}: cannot be written (in use)")


def test_a_name_that_is_too_long_says_so(tmp_path: Path) -> None:
    name = "n" * 252 + ".txt"
    with pytest.raises(OutputError, match="shorten its name") as caught, all_or_none([tmp_path / "a", tmp_path / name]):
        pass
    assert str(caught.value).startswith(f"{tmp_path / name}: ")
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


def test_drafts_that_a_killed_run_has_left_are_swept_after_a_day(tmp_path: Path) -> None:
    abandoned, young, mine = (tmp_path / name for name in (".pnseg-old.part", ".pnseg-new.part", "old.part"))
    for path in (abandoned, young, mine):
        path.touch()
    for path in (abandoned, mine):
        os.utime(path, (time.time() - 90_000,) * 2)
    make_folder(tmp_path)
    assert names(tmp_path) == [".pnseg-new.part", "old.part"]


@pytest.mark.usefixtures("links")
def test_kept_files_of_a_run_killed_between_renames_are_swept_after_a_day_if_their_places_are_taken(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    for name in ("a.txt", "b.txt", "c.txt"):
        (tmp_path / name).write_text(f"old {name}")
    replace = Path.replace

    def die(self: Path, target: Path) -> Path:
        if target.name == "b.txt":
            raise KeyboardInterrupt
        return replace(self, target)

    with monkeypatch.context() as patch:  # a kill puts nothing back
        patch.setattr(Path, "replace", die)
        patch.setattr(atomic, "_put_back", lambda *_: None)
        with (
            pytest.raises(KeyboardInterrupt),
            all_or_none([tmp_path / "a.txt", tmp_path / "b.txt", tmp_path / "c.txt"]) as streams,
        ):
            streams[0].write(b"new")
    (tmp_path / "b.txt").unlink(missing_ok=True)  # as where there are no hard links: the only copy is the kept one
    kept = {path.read_text(): path for path in tmp_path.glob(".pnseg-*.kept")}
    assert sorted(kept) == ["old a.txt", "old b.txt", "old c.txt"]
    (tmp_path / "c.txt").touch()
    make_folder(tmp_path)
    assert all(path.exists() for path in kept.values())
    clock = time.time
    monkeypatch.setattr(time, "time", lambda: clock() + 90_000)
    make_folder(tmp_path)
    assert names(tmp_path) == [kept["old b.txt"].name, "a.txt", "c.txt"]
