"""What a slide's nuclei are written as: the kinds of output, as data."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path


@dataclass(frozen=True)
class SlideOutput:
    """A kind of output.

    Attributes:
        name: what it is called on the command line.
        suffixes: follow the slide's stem, one for every file or folder of the kind.
        help: one line for the user.
    """

    name: str
    suffixes: tuple[str, ...]
    help: str


KINDS = {
    kind.name: kind
    for kind in (
        SlideOutput("geojson", (".geojson",), "outlines for QuPath"),
        SlideOutput("geojson.gz", (".geojson.gz",), "the same, compressed"),
        SlideOutput("parquet", (".parquet",), "one row a nucleus, with its polygon (GeoParquet)"),
        SlideOutput("labels", (".labels.zarr",), "label image with a pyramid (OME-Zarr 0.5)"),
        SlideOutput("pictures", (".density.png", ".classes.png"), "density map and classes on the thumbnail"),
    )
}

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
