"""Where a backend keeps what it makes of a graph: beside the bundle, or else in the user's cache folder.

An entry is a file whose name holds everything it depends on, so an entry that does not fit is never
found. It comes with its SHA-256 and is believed only if that fits.
"""

from __future__ import annotations

import hashlib
import logging
import os
import tempfile
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from uuid import uuid4

from pnseg_runtime.hashes import sha256_of
from pnseg_runtime.sessions.cpu import cpu

LOGGER = logging.getLogger("pnseg.cache")

FOLDER = ".cache"
#: What the name of a file with the hash of an entry ends in.
DIGEST = ".sha256"
#: Environment variable: a folder for all entries, in place of those beside the bundles.
VARIABLE = "PNSEG_CACHE"


def cached(folder: Path, parts: tuple[str, ...], suffix: str, make: Callable[[Path], None]) -> Path | None:
    """The entry that belongs to ``parts``, made if it is not there.

    Args:
        folder: the bundle's.
        parts: everything that the entry depends on; the machine's kind of CPU is added.
        suffix: of the file's name.
        make: writes the entry to a path. If it fails with OSError, there is no entry.

    Returns:
        The file, or None where none can be kept.
    """
    name = hashlib.sha256("\n".join((*parts, cpu())).encode()).hexdigest()[:32] + suffix
    for root in roots(folder):
        if is_sound(found := root / name):
            return found
    if (place := writable(folder)) is None:
        return None
    try:
        with _appearing(place / name) as scratch:
            make(scratch)
    except OSError as error:  # the disk is full, say
        LOGGER.warning("%s: nothing could be kept here (%s); networks will open more slowly.", place, error)
        return None
    return place / name


def keep(entry: Path, content: bytes) -> None:
    """Write an entry that changes, in place of what it was.

    Raises:
        OSError: the disk is full, say.
    """
    with _appearing(entry) as scratch:
        scratch.write_bytes(content)


def writable(folder: Path) -> Path | None:
    """The first folder for a bundle's entries that can be written, made if it is not there."""
    return next((root for root in roots(folder) if _can_be_written(root)), None)


def _can_be_written(root: Path) -> bool:
    try:
        root.mkdir(parents=True, exist_ok=True)
        with tempfile.TemporaryFile(dir=root):
            return True
    except OSError:
        return False


def roots(folder: Path) -> Iterator[Path]:
    """Folders that may hold a bundle's entries, the best first."""
    if chosen := os.environ.get(VARIABLE):
        yield Path(chosen)
        return
    yield folder / FOLDER
    home = os.environ.get("XDG_CACHE_HOME")
    with suppress(RuntimeError):  # there is no home
        yield (Path(home) if home else Path("~/.cache").expanduser()) / "pnseg"


def is_sound(entry: Path) -> bool:
    """Whether an entry is there as it was written."""
    try:
        return _digest(entry).read_text(encoding="ascii") == sha256_of(entry)
    except (OSError, UnicodeDecodeError):
        return False


@contextmanager
def _appearing(entry: Path) -> Iterator[Path]:
    """A scratch path whose file becomes the entry, whole or not at all, whoever else writes the same."""
    scratch = entry.with_name(f".{uuid4().hex}-{entry.name}")  # threads and containers have one process id
    digest = scratch.with_suffix(".half")
    try:
        yield scratch
        digest.write_text(sha256_of(scratch), encoding="ascii")
        scratch.replace(entry)
        digest.replace(_digest(entry))
    finally:
        scratch.unlink(missing_ok=True)
        digest.unlink(missing_ok=True)


def _digest(entry: Path) -> Path:
    return entry.with_name(entry.name + DIGEST)
