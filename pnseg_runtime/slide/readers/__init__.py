"""Readers of slides: a registry that is data. Each is asked in turn, and imported when it is asked."""

from __future__ import annotations

import logging
import stat
from collections.abc import Sequence
from dataclasses import dataclass
from importlib import import_module
from pathlib import Path

from pnseg_runtime.errors import ImageError
from pnseg_runtime.slide.readers.base import NotMine, SlideReader

__all__ = ["EXTENSIONS", "PICTURES", "READERS", "Reader", "SlideReader", "is_folder", "is_zarr", "open_slide"]

LOGGER = logging.getLogger("pnseg.slide")

#: Names of pictures that may be the preview of a slide.
PICTURES = (".png", ".jpg", ".jpeg", ".jp2", ".bmp", ".webp")

#: Names that a folder of slides is searched for.
EXTENSIONS = (
    *(".svs", ".ndpi", ".scn", ".mrxs", ".vms", ".vmu", ".bif", ".svslide", ".dcm", ".zarr"),
    *(".tif", ".tiff", ".btf", *PICTURES),
)


@dataclass(frozen=True)
class Reader:
    """A way to read slides.

    Attributes:
        name: what it is called.
        module: where its ``open_slide(path)`` is, which raises :class:`NotMine` on what it does not read.
        needs: the package it runs on, None if that is always there.
        extensions: what its files end with, empty for anything.
    """

    name: str
    module: str
    needs: str | None = None
    extensions: tuple[str, ...] = ()


READERS: tuple[Reader, ...] = (
    Reader("ome-zarr", "pnseg_runtime.slide.readers.omezarr", "zarr", (".zarr",)),
    Reader("openslide", "pnseg_runtime.slide.readers.openslide", "openslide-python and openslide-bin"),
    Reader("tiff", "pnseg_runtime.slide.readers.tiff"),
    Reader("tiffslide", "pnseg_runtime.slide.readers.tiffslide", "tiffslide"),
    Reader("image", "pnseg_runtime.slide.readers.image"),
    Reader("vips", "pnseg_runtime.slide.readers.vips", "pyvips"),
)


def open_slide(path: str | Path, readers: Sequence[Reader] = READERS) -> SlideReader:
    """Open a slide or image of any kind with the first reader that reads it.

    Raises:
        ImageError: no such file, or none of the readers opens it.
    """
    path = Path(path)
    try:
        folder = stat.S_ISDIR(path.stat().st_mode)
    except FileNotFoundError as error:
        raise ImageError(f"{path}: no such file; check its path.") from error
    except OSError as error:
        raise ImageError(f"{path}: cannot be opened ({error.strerror}); check its path and permissions.") from error
    reasons, missing = [], []
    for reader in readers:
        if reader.extensions and not (path.name.lower().endswith(reader.extensions) or is_zarr(path)):
            continue
        if folder and not reader.extensions:
            continue
        try:
            opened: SlideReader = import_module(reader.module).open_slide(path)
        except ImportError as error:
            LOGGER.debug("%s: %s", reader.name, error)
            missing.append(reader.needs or reader.name)
        except NotMine as error:
            LOGGER.debug("%s does not read %s: %s", reader.name, path, error)
            reasons.append(f"{reader.name}: {error}")
        else:
            return opened
    if folder and not reasons and not missing:
        raise ImageError(f"{path}: is a folder and no OME-Zarr (its name does not end with .zarr); give slide files.")
    why = "; ".join(reason.rstrip(".;") for reason in reasons)
    remedy = f'install {", ".join(missing)} (pip install "pnseg[slide]")' if missing else "copy it again or convert it"
    raise ImageError(f"{path}: cannot be opened as a slide ({why or 'no reader is installed'}); {remedy}.")


def is_folder(path: Path) -> bool:
    """Whether a path is that of a folder; what cannot be known is told when it is opened."""
    try:
        return path.is_dir()
    except OSError:
        return False


def is_zarr(path: Path) -> bool:
    """Whether a folder is an image by its name, or by that of the folder it is one of several images of."""
    return is_folder(path) and any(name.lower().endswith(".zarr") for name in (path.name, path.parent.name))
