"""Folders that appear whole, or not at all."""

from __future__ import annotations

import json
import tempfile
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

from pnseg_runtime.bundle import MANIFEST_NAME, Manifest
from pnseg_runtime.errors import OutputError, PnsegError
from pnseg_runtime.outputs.atomic import draft_of


@contextmanager
def new_folder(out: Path, overwrite: bool, kind: str, recognises: Callable[[Path], bool]) -> Iterator[Path]:
    """A folder to fill, which takes the name ``out`` when the body is through.

    Until then it lies in a hidden folder beside ``out``. If the body or the last step fails, or is interrupted,
    what stood under the name is still there.

    Args:
        out: the name.
        overwrite: replace a folder that is there, if it is empty or of the same kind.
        kind: what is written, in a word or two.
        recognises: whether a folder is of that kind.

    Raises:
        PnsegError: ``out`` exists and is not replaced.
        OutputError: nothing can be written there.
    """
    _check(out, overwrite, kind, recognises)
    place = out.resolve()  # a link stays one
    with _sentence_for_os_errors(out):
        place.parent.mkdir(parents=True, exist_ok=True)
        scratch = tempfile.TemporaryDirectory(dir=place.parent, prefix=f".{place.name}-")
    with scratch as name:
        folder = Path(name) / "new"
        folder.mkdir()  # for all whom the umask lets in; the scratch folder is its owner's alone
        yield folder
        _check(out, overwrite, kind, recognises)
        with _sentence_for_os_errors(out):
            _move(folder, place, Path(name) / "old")


def is_bundle(folder: Path) -> bool:
    """Whether a folder holds a bundle's manifest, of any version."""
    try:
        document = json.loads((folder / MANIFEST_NAME).read_text(encoding="utf-8"))
    except (OSError, ValueError):
        return False
    return isinstance(document, dict) and "format_version" in document


def write_manifest(folder: Path, manifest: Manifest) -> None:
    """Write a bundle's ``manifest.json``; who reads it meanwhile reads the old one or the new one."""
    with renewed_manifest(folder, manifest):
        pass


@contextmanager
def renewed_manifest(folder: Path, manifest: Manifest) -> Iterator[None]:
    """Write a bundle's manifest beside ``manifest.json``, whose place it takes when the body is through.

    So a disk that is full says so before the body replaces files that the old manifest names.
    """
    with draft_of(folder / MANIFEST_NAME) as draft:
        draft.write_text(manifest.model_dump_json(indent=2) + "\n", encoding="utf-8")
        yield


def _check(out: Path, overwrite: bool, kind: str, recognises: Callable[[Path], bool]) -> None:
    if not out.exists():
        return
    if not overwrite:
        raise PnsegError(f"{out}: exists already; give another folder, or --overwrite.")
    if not out.is_dir() or (any(out.iterdir()) and not recognises(out)):
        raise PnsegError(
            f"{out}: is not a {kind}, and --overwrite leaves it alone; give another folder, or delete it yourself."
        )


def _move(folder: Path, place: Path, old: Path) -> None:
    try:
        if place.exists():
            place.replace(old)
        folder.replace(place)
    except BaseException:
        if old.exists() and not place.exists():
            old.replace(place)
        raise


@contextmanager
def _sentence_for_os_errors(out: Path) -> Iterator[None]:
    try:
        yield
    except OSError as error:
        reason = error.strerror or str(error)
        raise OutputError(f"{out}: cannot be written ({reason}); choose another folder or make room.") from error
