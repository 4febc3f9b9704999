"""What the user named → image files, and which of them get in each other's way."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterable, Sequence
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

    Two images whose outputs would have the same names, and an image that an output would overwrite,
    are jobs with a problem.
    """
    found = [item for path in named for item in _expand(path, recursive)]
    images = list(dict.fromkeys(path for path in found if isinstance(path, Path)))
    rivals: dict[str, list[Path]] = defaultdict(list)
    for image in images:
        rivals[image.stem].append(image)
    inputs = {image.resolve() for image in images}
    jobs: dict[Path, Job] = {}
    for image in images:
        outputs = output_paths(folder, image.stem, kinds)
        jobs[image] = Job(image, outputs, _conflict(image, rivals[image.stem], outputs.values(), inputs))
    empty = {item.folder: Job(item.folder, {}, item.problem) for item in found if isinstance(item, _NoImages)}
    return [jobs[item] if isinstance(item, Path) else empty[item.folder] for item in dict.fromkeys(found)]


@dataclass(frozen=True)
class _NoImages:
    folder: Path

    @property
    def problem(self) -> ImageError:
        known = " ".join(EXTENSIONS)
        return ImageError(f"{self.folder}: no images in this folder ({known}); name image files or another folder.")


def _expand(path: Path, recursive: bool) -> list[Path | _NoImages]:
    if not path.is_dir():
        return [path]
    entries = path.rglob("*") if recursive else path.iterdir()
    images = sorted(entry for entry in entries if _is_image(entry))
    return [*images] if images else [_NoImages(path)]


def _is_image(path: Path) -> bool:
    # Results of an earlier run into the same folder are no input; neither are hidden files.
    written = any(path.name.endswith(kind.suffix) for kind in KINDS.values())
    return path.suffix.lower() in EXTENSIONS and not path.name.startswith(".") and not written and path.is_file()


def _conflict(image: Path, rivals: list[Path], outputs: Iterable[Path], inputs: set[Path]) -> ImageError | None:
    others = [rival for rival in rivals if rival != image]
    if others:
        return ImageError(
            f"{image}: its results would be named as those of {others[0]}; rename one or predict it by itself."
        )
    overwritten = [output for output in outputs if output.resolve() in inputs]
    if overwritten:
        return ImageError(f"{image}: its result {overwritten[0]} is an input itself; choose another folder with --out.")
    return None
