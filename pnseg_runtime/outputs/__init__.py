"""What a prediction is written as: the kinds of output, as data.

A kind's module is imported when the kind is written, so that asking for outlines alone does not
load the table libraries.
"""

from __future__ import annotations

import importlib
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path
from typing import BinaryIO, Protocol, cast

from pnseg_runtime.errors import OutputError
from pnseg_runtime.outputs.atomic import all_or_none
from pnseg_runtime.outputs.prediction import Prediction

__all__ = ["KINDS", "OutputKind", "Prediction", "output_paths", "refuse_existing", "write_outputs"]


class Writer(Protocol):
    """Writes one prediction to a seekable binary stream."""

    def __call__(self, prediction: Prediction, stream: BinaryIO) -> None: ...


@dataclass(frozen=True)
class OutputKind:
    """A kind of output file.

    Attributes:
        name: what it is called on the command line.
        suffix: follows the image's stem in the file's name.
        writer: ``module:function``, a :class:`Writer`.
        help: one line for the user.
    """

    name: str
    suffix: str
    writer: str
    help: str

    def load(self) -> Writer:
        """Import the writer."""
        module, _, function = self.writer.partition(":")
        return cast(Writer, getattr(importlib.import_module(module), function))


KINDS: dict[str, OutputKind] = {
    kind.name: kind
    for kind in (
        OutputKind("labels", ".labels.tif", "pnseg_runtime.outputs.labels:write_labels", "32-bit label map, TIFF"),
        OutputKind("geojson", ".geojson", "pnseg_runtime.outputs.geojson:write_geojson", "outlines for QuPath"),
        OutputKind("csv", ".csv", "pnseg_runtime.outputs.table:write_csv", "one row a nucleus, text"),
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


def write_outputs(prediction: Prediction, paths: dict[str, Path], overwrite: bool = True) -> None:
    """Write every kind of ``paths``; on any failure none of them appears.

    Raises:
        OutputError: a file cannot be written, or exists and ``overwrite`` is False.
    """
    if not overwrite:
        refuse_existing(paths.values())
    with all_or_none(paths.values()) as streams:
        for kind, stream in zip(paths, streams, strict=True):
            KINDS[kind].load()(prediction, stream)
