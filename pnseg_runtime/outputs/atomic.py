"""Files that appear complete or not at all."""

from __future__ import annotations

import contextlib
import os
import tempfile
import uuid
from collections.abc import Iterable, Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path
from typing import BinaryIO

from pnseg_runtime.errors import OutputError


@contextmanager
def all_or_none(paths: Iterable[Path], drafts_in: Path | None = None) -> Iterator[list[BinaryIO]]:
    """Open one writable binary stream a path; the files take their names together at the end.

    Everything is written under temporary names in the same folder and flushed to the disk first, so
    a reader, a crash or a full disk never meets half a file. If the body raises, whatever stood
    under the names before is untouched; should a rename fail after others succeeded, those new files
    are removed again.

    Args:
        paths: the files.
        drafts_in: folder of the same file system for what is not complete yet; None for that of each file.

    Raises:
        OutputError: a file cannot be created, written or renamed.
    """
    targets = list(paths)
    drafts = [(drafts_in or path.parent) / f".pnseg-{uuid.uuid4().hex}.part" for path in targets]
    try:
        with _sentence_for_os_errors(targets), ExitStack() as stack:
            for path in targets:
                if path.is_dir():
                    raise IsADirectoryError(None, "a folder has this name", str(path))
            streams = [stack.enter_context(draft.open("xb")) for draft in drafts]
            yield list(streams)
            for stream in streams:
                stream.flush()
                os.fsync(stream.fileno())
        with _sentence_for_os_errors(targets):
            _rename_all(drafts, targets)
    finally:
        for draft in drafts:
            with contextlib.suppress(OSError):
                draft.unlink()


def make_folder(folder: Path) -> None:
    """Create a folder and its parents, and see that files can be made in it.

    Raises:
        OutputError: it cannot be created or written to.
    """
    with _sentence_for_os_errors([folder]):
        folder.mkdir(parents=True, exist_ok=True)
        with tempfile.TemporaryFile(dir=folder):  # without a name, where the system can: a kill leaves nothing behind
            pass


def _rename_all(drafts: list[Path], targets: list[Path]) -> None:
    placed: list[Path] = []
    try:
        for draft, target in zip(drafts, targets, strict=True):
            draft.replace(target)
            placed.append(target)
    except BaseException:
        for target in placed:
            target.unlink(missing_ok=True)
        raise


@contextmanager
def _sentence_for_os_errors(paths: list[Path]) -> Iterator[None]:
    try:
        yield
    except OSError as error:
        where = paths[0] if len(paths) == 1 else (paths[0].parent if paths else "output")
        reason = error.strerror or str(error)
        raise OutputError(f"{where}: cannot be written ({reason}); choose another folder or make room.") from error
