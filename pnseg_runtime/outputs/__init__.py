"""What a prediction is written as: the kinds of output, as data.

A kind's module is imported when the kind is written, so that asking for outlines alone does not
load the table libraries.
"""

from __future__ import annotations

import importlib
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from io import BytesIO
from pathlib import Path
from typing import Any, BinaryIO, Protocol, cast

import numpy as np
from numpy.typing import NDArray

from pnseg_runtime.errors import OutputError
from pnseg_runtime.outputs.atomic import all_or_none
from pnseg_runtime.outputs.origin import Origin
from pnseg_runtime.outputs.prediction import Prediction, content_hash

__all__ = [
    "KINDS",
    "OutputKind",
    "Prediction",
    "content_hash",
    "output_paths",
    "refuse_existing",
    "refuse_other_image",
    "write_outputs",
]


class Writer(Protocol):
    """Writes one prediction to a seekable binary stream."""

    def __call__(self, prediction: Prediction, stream: BinaryIO) -> None: ...


class Teller(Protocol):
    """Says which image a file under a result's name is of, given the content hash of one.

    Raises:
        OSError: the file cannot be read.
    """

    def __call__(self, path: Path, content_hash: str) -> Origin: ...


_BY_MARK = "pnseg_runtime.outputs.origin:by_mark"


@dataclass(frozen=True)
class OutputKind:
    """A kind of output file.

    Attributes:
        name: what it is called on the command line.
        suffix: follows the image's stem in the file's name.
        writer: ``module:function``, a :class:`Writer`.
        help: one line for the user.
        teller: ``module:function``, a :class:`Teller`.
    """

    name: str
    suffix: str
    writer: str
    help: str
    teller: str = _BY_MARK

    def load(self) -> Writer:
        """Import the writer."""
        return cast(Writer, _imported(self.writer))

    def origin(self, path: Path, image: str) -> Origin:
        """Which image a file is of; one that cannot be read is nothing that is known.

        Args:
            path: of a file under this kind's name.
            image: the content hash of an image.
        """
        try:
            return cast(Teller, _imported(self.teller))(path, image)
        except OSError:
            return Origin.UNKNOWN


def _imported(target: str) -> Any:
    module, _, name = target.partition(":")
    return getattr(importlib.import_module(module), name)


KINDS: dict[str, OutputKind] = {
    kind.name: kind
    for kind in (
        OutputKind("labels", ".labels.tif", "pnseg_runtime.outputs.labels:write_labels", "32-bit label map, TIFF"),
        OutputKind(
            "geojson",
            ".geojson",
            "pnseg_runtime.outputs.geojson:write_geojson",
            "outlines for QuPath",
            "pnseg_runtime.outputs.geojson:geojson_origin",
        ),
        OutputKind(
            "csv",
            ".csv",
            "pnseg_runtime.outputs.table:write_csv",
            "one row a nucleus, text",
            "pnseg_runtime.outputs.table:csv_origin",
        ),
        OutputKind("parquet", ".parquet", "pnseg_runtime.outputs.table:write_parquet", "the same rows, Parquet"),
        OutputKind("overlay", ".overlay.png", "pnseg_runtime.outputs.overlay:write_overlay", "outlines on the image"),
    )
}


def output_paths(folder: Path, stem: str, kinds: Iterable[str] = tuple(KINDS)) -> dict[str, Path]:
    """Kind → the file it is written to."""
    return {kind: folder / f"{stem}{KINDS[kind].suffix}" for kind in kinds}


def refuse_existing(paths: Iterable[Path]) -> None:
    """See that nothing would be overwritten.

    Raises:
        OutputError: one of the files exists.
    """
    existing = next((path for path in paths if path.exists()), None)
    if existing is not None:
        raise OutputError(f"{existing}: exists already; remove it, choose another folder, or allow overwriting.")


def refuse_other_image(paths: Mapping[str, Path], image: NDArray[np.uint8]) -> None:
    """See that no result of another image stands under an image's names, of whatever kind.

    Args:
        paths: kind → file, as :func:`output_paths` gives them.
        image: (H, W, 3) uint8.

    Raises:
        OutputError: one does.
    """
    if not (existing := _existing(paths)):
        return
    hash_ = content_hash(image)
    for kind, path in existing.items():
        if KINDS[kind].origin(path, hash_) is Origin.OTHER:
            raise OutputError(
                f"{path}: is a result of another image, whose pixels are others; use another --out, or --overwrite if "
                "it may go."
            )


def write_outputs(prediction: Prediction, paths: Mapping[str, Path], overwrite: bool = True) -> None:
    """Write every kind of ``paths``; on any failure none of them appears.

    Files of other kinds that an earlier run has left under the same stem stay if they are of this very result, and are
    removed with the renames if they are of another one, whose labels mean other nuclei.

    Args:
        prediction: what to write.
        paths: kind → file, as :func:`output_paths` gives them.
        overwrite: whether files may be replaced and removed.

    Raises:
        OutputError: a file cannot be written, or ``overwrite`` is False and one would be replaced or removed.
    """
    if not overwrite:
        refuse_existing(paths.values())
    outdated = [
        path
        for kind, path in _existing(paths).items()
        if kind not in paths and _is_outdated(KINDS[kind], path, prediction)
    ]
    if not overwrite:
        refuse_existing(outdated)
    with all_or_none(paths.values(), removed=outdated) as streams:
        for kind, stream in zip(paths, streams, strict=True):
            KINDS[kind].load()(prediction, stream)


def _existing(paths: Mapping[str, Path]) -> dict[str, Path]:
    """Kind → the files of all kinds that stand under the stem of a result."""
    kind, path = next(iter(paths.items()))
    named = output_paths(path.parent, path.name.removesuffix(KINDS[kind].suffix))
    return {kind: path for kind, path in named.items() if _is_file(path)}


def _is_file(path: Path) -> bool:
    try:
        return path.is_file()
    except OSError:  # its name is longer than those that are to be written
        return False


def _is_outdated(kind: OutputKind, path: Path, prediction: Prediction) -> bool:
    """Whether a file is a result, and not this one: the same prediction gives the same bytes."""
    if (origin := kind.origin(path, prediction.content_hash)) in (Origin.OTHER, Origin.UNKNOWN):
        return origin is Origin.OTHER
    stream = BytesIO()
    kind.load()(prediction, stream)
    return stream.getbuffer() != path.read_bytes()
