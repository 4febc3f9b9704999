"""Slides of several files: which belong together, told without opening the slide."""

from __future__ import annotations

from pathlib import Path

from pnseg_runtime.slide.readers.dicom import series_of

_INDEXES = (".vms", ".vmu")  # Hamamatsu's text files that name those with the pixels


def files_of(path: Path) -> tuple[Path, ...]:
    """Every file that a slide's pixels come from; of a DICOM series the same ones whichever of them is named.

    Only formats of several files are looked for beyond the slide itself: a folder of a slide's name may be anything,
    the results of an earlier run among it.
    """
    if (series := series_of(path)) is not None:
        return tuple(sorted(p for p in path.parent.iterdir() if p.is_file() and (p == path or series_of(p) == series)))
    if path.suffix.lower() == ".mrxs":
        return (path, *sorted(p for p in path.with_suffix("").rglob("*") if p.is_file()))
    return (path, *named_in(path))


def named_in(index: Path) -> list[Path]:
    """The files that are a value of one of the ``name=value`` lines of an index; none if it is no index."""
    if index.suffix.lower() not in _INDEXES:
        return []
    try:
        lines = index.read_text(encoding="utf-8", errors="surrogateescape").splitlines()
    except OSError:  # told when it is opened
        return []
    values = {value.strip() for _, _, value in (line.partition("=") for line in lines)} - {""}
    return sorted(file for value in values if (file := index.parent / value).is_file())
