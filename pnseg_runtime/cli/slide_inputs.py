"""What the user named → slides, and which of them get in each other's way."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from pnseg_runtime.cli.group import show_warning
from pnseg_runtime.cli.inputs import not_looked_into
from pnseg_runtime.errors import ImageError, PnsegError
from pnseg_runtime.slide import KINDS
from pnseg_runtime.slide.outputs import THUMBNAIL, TISSUE, stem_of
from pnseg_runtime.slide.readers import EXTENSIONS, PICTURES, is_folder, is_zarr
from pnseg_runtime.slide.readers.dicom import series_of
from pnseg_runtime.slide.readers.several import named_in
from pnseg_runtime.slide.rivals import rivals


def slides_of(named: Sequence[Path]) -> list[Path | PnsegError]:
    """Slides in the order named; a folder stands for the slides in it, sorted. Those that cannot be are errors.

    A DICOM slide is a series of files, each of which opens all of it: the first one stands for it.
    """
    found: list[Path | PnsegError] = []
    for path in named:
        found += _slides_in(path) if is_folder(path) and not is_zarr(path) else [path]
    stems: dict[str, Path] = {}
    unique: list[Path | PnsegError] = []
    series: set[tuple[Path, str]] = set()
    for job in dict.fromkeys(found):
        if isinstance(job, Path) and (one := series_of(job)) is not None:
            if (job.parent, one) in series:
                continue
            series.add((job.parent, one))
        rival = stems.setdefault(stem_of(job), job) if isinstance(job, Path) else job
        if rival is job:
            unique.append(job)
        else:
            unique.append(rivals(job, rival))
    return unique


def _slides_in(folder: Path) -> list[Path | PnsegError]:
    """The slides of a folder, sorted, without the pictures that are parts of one or previews beside it.

    An error stands for a folder that cannot be looked into or holds none.
    """
    try:
        inside = sorted(path for path in folder.iterdir() if _is_slide(path))
    except OSError as error:
        return [ImageError(f"{folder}: {not_looked_into(error, 'slides')}.")]
    if not inside:
        return [ImageError(f"{folder}: no slides in this folder ({' '.join(EXTENSIONS)}).")]
    pictures = {path for path in inside if path.suffix.lower() in PICTURES}
    parts = {part for path in inside for part in named_in(path)}
    stems = {stem_of(path) for path in inside if path not in pictures}
    previews = sorted(path for path in pictures - parts if stem_of(path) in stems)
    if previews:
        names = ", ".join(path.name for path in previews[:3]) + (", …" if len(previews) > 3 else "")
        show_warning(
            f"{folder}: pictures beside slides of the same name are left out ({names}); name them if they are wanted."
        )
    return [path for path in inside if path not in parts and path not in previews]


def _is_slide(path: Path) -> bool:
    written = path.name.endswith((*(s for kind in KINDS.values() for s in kind.suffixes), THUMBNAIL, TISSUE))
    return path.name.lower().endswith(EXTENSIONS) and not path.name.startswith(".") and not written
