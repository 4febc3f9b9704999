"""Files that appear complete or not at all."""

from __future__ import annotations

import contextlib
import errno
import hashlib
import os
import tempfile
import time
import uuid
from collections.abc import Iterable, Iterator, Sequence
from contextlib import ExitStack, contextmanager
from pathlib import Path
from typing import BinaryIO

from pnseg_runtime.errors import OutputError

# Hidden, and no longer than a file system allows whatever the file's own name is.
_DRAFT, _KEPT = ".part", ".kept"  # what is being written; what stood under a name while its successor takes it
_ABANDONED = 24 * 3600  # s: no writer leaves a draft alone for as long


@contextmanager
def all_or_none(
    paths: Iterable[Path], drafts_in: Path | None = None, removed: Iterable[Path] = ()
) -> Iterator[list[BinaryIO]]:
    """Open one writable binary stream a path; the files take their names together at the end.

    Everything is written under temporary names in the same folder and flushed to the disk first, so
    a reader, a crash or a full disk never meets half a file. If the body raises, whatever stood
    under the names before is untouched; should a rename fail after others succeeded, those new files
    are removed again and the earlier ones are put back.

    Args:
        paths: the files.
        drafts_in: folder of the same file system for what is not complete yet; None for that of each file.
        removed: files that go when the others take their names, and are put back with what these replace.

    Raises:
        OutputError: a file cannot be created, written or renamed.
    """
    targets = list(paths)
    drafts = [_hidden(drafts_in or path.parent, _DRAFT) for path in targets]
    try:
        with _sentence_for_os_errors(targets, drafts), ExitStack() as stack:
            for path in targets:
                if path.is_dir():
                    raise IsADirectoryError(None, "a folder has this name", str(path))
            streams = [stack.enter_context(draft.open("xb")) for draft in drafts]
            yield list(streams)
            for stream in streams:
                stream.flush()
                os.fsync(stream.fileno())
        with _sentence_for_os_errors(targets, drafts):
            _rename_all(drafts, targets, list(removed))
    finally:
        for draft in drafts:
            with contextlib.suppress(OSError):
                draft.unlink()


@contextmanager
def draft_of(path: Path) -> Iterator[Path]:
    """A path beside a file's, whose file takes the place of it when the body is through, and goes if it fails.

    For the folder of one writer who says himself what an error means; for results there is :func:`all_or_none`.

    Raises:
        OSError: the draft is not there, or cannot be renamed.
    """
    draft = path.with_name(path.name + _DRAFT)
    try:
        yield draft
        draft.replace(path)
    finally:
        draft.unlink(missing_ok=True)


def _hidden(folder: Path, kind: str) -> Path:
    return folder / f".pnseg-{uuid.uuid4().hex}{kind}"


def make_folder(folder: Path) -> None:
    """Create a folder and its parents, see that files can be made in it, and sweep what a killed run has left in it.

    Raises:
        OutputError: it cannot be created or written to.
    """
    with _sentence_for_os_errors([folder]):
        folder.mkdir(parents=True, exist_ok=True)
        with tempfile.TemporaryFile(dir=folder):  # without a name, where the system can: a kill leaves nothing behind
            pass
        _sweep(folder)


def _sweep(folder: Path) -> None:
    """Remove what a killed run has left, but no kept file whose place is empty: it may be the only copy."""
    drafts, kept = (sorted(folder.glob(f".pnseg-*{kind}")) for kind in (_DRAFT, _KEPT))
    in_place = tuple(map(_kept_of, folder.iterdir())) if kept else ()
    for path in (*drafts, *(path for path in kept if path.name.endswith(in_place))):
        with contextlib.suppress(OSError):  # another process may own it, or have swept it
            # What is kept has the times of its content; its inode changes when it gets its second name.
            told = path.stat().st_ctime if path.suffix == _KEPT else path.stat().st_mtime
            if time.time() - told > _ABANDONED:
                path.unlink()


def _rename_all(drafts: list[Path], targets: list[Path], removed: list[Path]) -> None:
    if len(targets) == 1 and not removed:  # one rename is all or none by itself
        drafts[0].replace(targets[0])
        return
    draft_of = dict(zip(targets, drafts, strict=True))
    places = {target: draft.parent for target, draft in draft_of.items()} | {path: path.parent for path in removed}
    kept = {target: _hidden(place, _kept_of(target)) for target, place in places.items()}
    try:
        for target, old in kept.items():
            _keep(target, old)
        for path in removed:  # first: whoever is killed leaves nothing of the old result beside the new one
            path.unlink(missing_ok=True)
        for target, draft in draft_of.items():
            draft.replace(target)
    except BaseException:
        for target, old in kept.items():
            with contextlib.suppress(OSError):  # the others can still be put back
                _put_back(draft_of.get(target), target, old)
        raise
    for old in kept.values():
        with contextlib.suppress(OSError):
            old.unlink()


def _kept_of(target: Path) -> str:
    """The end of the name under which a file is kept, from which a sweep tells whether it is there again."""
    return f"-{hashlib.sha256(os.fsencode(target.name)).hexdigest()[:16]}{_KEPT}"


def _keep(target: Path, old: Path) -> None:
    """Give what stands under a name, if anything does, a second one."""
    try:
        old.hardlink_to(target)
    except FileNotFoundError:
        pass
    except (OSError, NotImplementedError):  # a file system without hard links
        with contextlib.suppress(FileNotFoundError):
            target.rename(old)


def _put_back(draft: Path | None, target: Path, old: Path) -> None:
    """Undo a rename, or without a draft a removal, that may or may not have been done."""
    placed = draft is not None and not draft.exists()
    if os.path.lexists(old):
        if placed or not os.path.lexists(target):
            old.replace(target)
        old.unlink(missing_ok=True)  # two names of one file: renaming one to the other does nothing
    elif placed:
        target.unlink(missing_ok=True)


@contextmanager
def _sentence_for_os_errors(targets: list[Path], drafts: Sequence[Path] = ()) -> Iterator[None]:
    try:
        yield
    except OSError as error:
        file_of = dict(zip(map(str, drafts), targets, strict=False)) | {str(target): target for target in targets}
        where = file_of.get(str(error.filename), targets[0] if targets else "output")
        reason = error.strerror or str(error)
        remedy = "shorten its name" if error.errno == errno.ENAMETOOLONG else "choose another folder or make room"
        raise OutputError(f"{where}: cannot be written ({reason}); {remedy}.") from error
