"""What the user named → image files, and which of them get in each other's way."""

from __future__ import annotations

import errno
import os
import stat
from collections import defaultdict
from collections.abc import Collection, Sequence
from dataclasses import dataclass
from pathlib import Path

from pnseg_runtime.errors import ImageError, PnsegError
from pnseg_runtime.images import EXTENSIONS
from pnseg_runtime.outputs import KINDS, output_paths


@dataclass(frozen=True)
class Job:
    """An image to segment and the files to write, or the reason why it is not even tried."""

    image: Path
    outputs: dict[str, Path]
    problem: PnsegError | None = None


def plan(named: Sequence[Path], folder: Path, kinds: Sequence[str], recursive: bool = False) -> list[Job]:
    """One job an image, in the order named; a folder stands for the images in it, sorted.

    Two images whose outputs would have the same names, an image that an output would overwrite, and
    what cannot be looked into are jobs with a problem.
    """
    found = [item for path in named for item in _expand(path, recursive)]
    images = list(dict.fromkeys(path for path in found if isinstance(path, Path)))
    rivals: dict[str, list[Path]] = defaultdict(list)
    for image in images:
        rivals[image.stem].append(image)
    inputs = {os.path.realpath(image) for image in images}
    jobs: dict[Path, Job] = {}
    for image in images:
        outputs = output_paths(folder, image.stem, kinds)
        jobs[image] = Job(image, outputs, _conflict(image, rivals[image.stem], outputs.values(), inputs))
    return [
        jobs[item] if isinstance(item, Path) else Job(item.path, {}, ImageError(f"{item.path}: {item.reason}."))
        for item in dict.fromkeys(found)
    ]


@dataclass(frozen=True, order=True)
class _Refused:
    path: Path
    reason: str


def _expand(path: Path, recursive: bool) -> list[Path | _Refused]:
    try:
        is_folder = stat.S_ISDIR(path.stat().st_mode)
    except FileNotFoundError:  # told when it is read
        return [path]
    except OSError as error:
        return [_Refused(path, f"cannot be opened ({error.strerror}); check its path and permissions")]
    if not is_folder:
        return [path]
    images, refused = _look_into(path, recursive)
    if not images and not refused:
        known = " ".join(EXTENSIONS)
        return [_Refused(path, f"no images in this folder ({known}); name image files or another folder")]
    return [*sorted(images), *sorted(refused)]


def _look_into(folder: Path, recursive: bool) -> tuple[list[Path], list[_Refused]]:
    """The images in a folder, and the folders that cannot be looked into.

    Linked folders come after those that are there themselves, and each is looked into once: one that is
    both goes by its own name, and links may lead in circles.
    """
    images: list[Path] = []
    refused: list[_Refused] = []
    seen: set[str] = set()

    def is_new(place: str) -> bool:
        real = os.path.realpath(place)
        if real in seen:
            return False
        seen.add(real)
        return True

    def refuse(error: OSError) -> None:
        if is_new(error.filename):
            reason = f"cannot be looked into ({error.strerror}); change its permissions or copy its images elsewhere"
            refused.append(_Refused(Path(error.filename), reason))

    starts = [folder]
    for start in starts:  # grows by the links that are met
        for here, folders, files in os.walk(start, onerror=refuse):
            if not os.access(here, os.X_OK):  # its names may be listed, but what they name may not be opened
                refuse(PermissionError(errno.EACCES, os.strerror(errno.EACCES), here))
                folders.clear()
                continue
            if not is_new(here):
                folders.clear()
                continue
            images += filter(_is_image, (Path(here, name) for name in files))
            folders[:] = sorted(folders) if recursive else []
            starts += filter(Path.is_symlink, (Path(here, name) for name in folders))
    return images, refused


def _is_image(path: Path) -> bool:
    # Results of an earlier run into the same folder are no input; neither are hidden files.
    written = any(path.name.endswith(kind.suffix) for kind in KINDS.values())
    return path.suffix.lower() in EXTENSIONS and not path.name.startswith(".") and not written and _may_be_file(path)


def _may_be_file(path: Path) -> bool:
    try:
        return stat.S_ISREG(path.stat().st_mode)
    except FileNotFoundError:  # a link to nothing
        return False
    except OSError:  # told when it is read
        return True


def _conflict(image: Path, rivals: list[Path], outputs: Collection[Path], inputs: set[str]) -> ImageError | None:
    others = [rival for rival in rivals if rival != image]
    if others:
        return ImageError(
            f"{image}: its results would be named as those of {others[0]}; rename one or predict it by itself."
        )
    overwritten = [output for output in outputs if os.path.realpath(output) in inputs]
    if overwritten:
        return ImageError(f"{image}: its result {overwritten[0]} is an input itself; choose another folder with --out.")
    if any(_is_too_long(output) for output in outputs):
        return ImageError(f"{image}: its results would have names that are too long; give it a shorter one.")
    return None


def _is_too_long(path: Path) -> bool:
    try:
        path.lstat()
    except OSError as error:
        return error.errno == errno.ENAMETOOLONG
    return False
