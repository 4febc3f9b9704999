"""What the user named → image files, and which of them get in each other's way."""

from __future__ import annotations

import errno
import os
import stat
from collections import defaultdict
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from pnseg_runtime.errors import ImageError, PnsegError
from pnseg_runtime.images import EXTENSIONS
from pnseg_runtime.outputs import KINDS, output_paths


@dataclass(frozen=True)
class Planned:
    """An image to segment and the files to write, or the reason why it is not even tried."""

    image: Path
    outputs: dict[str, Path]
    problem: PnsegError | None = None


def plan(named: Sequence[Path], folder: Path, kinds: Sequence[str], recursive: bool = False) -> list[Planned]:
    """Images in the order named; a folder stands for the images in it, sorted.

    Results of an image in a folder inside a named one go to a folder of the same name inside ``folder``. Two images
    whose outputs would have the same names, an image that an output would overwrite, and what cannot be looked into
    have a problem.
    """
    found: dict[Path | _Refused, Path] = {}  # what was found → where its results go
    for path in named:
        for item in _expand(path, recursive):
            found.setdefault(item, folder / _inside(item, path))
    images = [item for item in found if isinstance(item, Path)]
    rivals: dict[Path, list[Path]] = defaultdict(list)  # results' names without their ends → images
    for image in images:
        rivals[found[image] / image.stem].append(image)
    inputs = {os.path.realpath(image) for image in images}

    def planned(item: Path | _Refused, place: Path) -> Planned:
        if isinstance(item, _Refused):
            return Planned(item.path, {}, ImageError(f"{item.path}: {item.reason}."))
        outputs = output_paths(place, item.stem, kinds)
        return Planned(item, outputs, _conflict(item, rivals[place / item.stem], outputs, folder, inputs))

    return [planned(item, place) for item, place in found.items()]


def _inside(item: Path | _Refused, named: Path) -> Path:
    """The folders between a named one and an image in it."""
    return Path() if isinstance(item, _Refused) or item == named else item.parent.relative_to(named)


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
        remedy = "name image files or another folder"
        if not recursive and _has_images_inside(path):
            remedy = "there are some in folders inside it, which --recursive looks into"
        return [_Refused(path, f"no images in this folder ({known}); {remedy}")]
    return [*sorted(images), *sorted(refused)]


def not_looked_into(error: OSError, what: str) -> str:
    """What is told of a folder that is closed: ``what`` is in it."""
    return f"cannot be looked into ({error.strerror}); change its permissions or copy its {what} elsewhere"


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
            refused.append(_Refused(Path(error.filename), not_looked_into(error, "images")))

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


def _has_images_inside(folder: Path) -> bool:
    return any(_is_image(Path(here, name)) for here, _, files in os.walk(folder) for name in files)


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


def _conflict(
    image: Path, rivals: list[Path], outputs: dict[str, Path], folder: Path, inputs: set[str]
) -> ImageError | None:
    """What keeps an image from being predicted.

    Args:
        rivals: the images whose results would have its names, itself among them.
        outputs: kind → file.
        folder: of all results; it is there, those inside it may not be yet.
        inputs: real paths of all images.
    """
    other = next((rival for rival in rivals[:2] if rival != image), None)
    if other is not None:
        return ImageError(
            f"{image}: its results would be named as those of {other}; predict one of them with another --out."
        )
    overwritten = next((output for output in outputs.values() if os.path.realpath(output) in inputs), None)
    if overwritten is not None:
        return ImageError(f"{image}: its result {overwritten} is an input itself; choose another folder with --out.")
    if any(_is_too_long(folder / output.name) for output in outputs.values()):
        return ImageError(f"{image}: its results would have names that are too long; give it a shorter one.")
    return None


def _is_too_long(path: Path) -> bool:
    try:
        path.lstat()
    except OSError as error:
        return error.errno == errno.ENAMETOOLONG
    return False
