"""What a slide's nuclei are written as: the kinds of output, as data."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from importlib import import_module
from pathlib import Path
from typing import TYPE_CHECKING, BinaryIO, cast

if TYPE_CHECKING:
    from pnseg_runtime.slide.job import SlideJob
    from pnseg_runtime.slide.outputs.rows import Sink

_HERE = "pnseg_runtime.slide.outputs"


@dataclass(frozen=True)
class SlideOutput:
    """A kind of output.

    Attributes:
        name: what it is called on the command line.
        suffixes: follow the slide's stem, one for every file or folder of the kind.
        sink: ``module:class`` of the :class:`~pnseg_runtime.slide.outputs.rows.Sink` that writes it.
        folder: whether it is a folder and no file.
    """

    name: str
    suffixes: tuple[str, ...]
    sink: str
    folder: bool = False

    def open(self, job: SlideJob, places: Sequence[BinaryIO | Path]) -> Sink:
        """Make the sink.

        Args:
            job: the slide.
            places: what is written to, one for every suffix: a stream, or the path of a folder that is not there yet.
        """
        module, _, name = self.sink.partition(":")
        return cast("Sink", getattr(import_module(module), name)(job, *places))


KINDS = {
    kind.name: kind
    for kind in (
        SlideOutput("geojson", (".geojson",), f"{_HERE}.rows:GeoJsonSink"),
        SlideOutput("geojson.gz", (".geojson.gz",), f"{_HERE}.rows:PackedGeoJsonSink"),
        SlideOutput("parquet", (".parquet",), f"{_HERE}.rows:ParquetSink"),
        SlideOutput("labels", (".labels.zarr",), f"{_HERE}.labels:LabelSink", folder=True),
        SlideOutput("pictures", (".density.png", ".classes.png"), f"{_HERE}.pictures:PictureSink"),
    )
}

#: Suffixes of what is a folder.
FOLDERS = frozenset(suffix for kind in KINDS.values() if kind.folder for suffix in kind.suffixes)

#: Written for every slide.
THUMBNAIL, TISSUE, RUN, WORK = ".thumbnail.png", ".tissue.png", ".run.json", ".work"


def stem_of(slide: Path) -> str:
    """What a slide's outputs are called: its name without the last suffix, nor that of OME before it.

    An image in an OME-Zarr (``a.zarr/0``) has the name of that before its own.
    """
    name = slide.name
    if slide.parent.name.lower().endswith(".zarr"):
        return f"{stem_of(slide.parent)}_{name}"
    for ending in (".ome.zarr", ".ome.tif", ".ome.tiff"):
        if name.lower().endswith(ending):
            return name[: -len(ending)]
    return slide.stem


def output_paths(folder: Path, stem: str, kinds: Iterable[str]) -> dict[str, Path]:
    """Suffix → file or folder."""
    return {suffix: folder / f"{stem}{suffix}" for kind in kinds for suffix in KINDS[kind].suffixes}
