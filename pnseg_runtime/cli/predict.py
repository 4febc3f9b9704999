"""``pnseg predict``: images in, nuclei out, one bad image never stopping the others."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from time import perf_counter
from typing import Any, Protocol

import click
import numpy as np
from numpy.typing import NDArray
from rich.console import Console
from rich.progress import track

from pnseg_runtime import __version__, load
from pnseg_runtime.bundle import Manifest
from pnseg_runtime.cli.group import Failure, show_error, show_warning
from pnseg_runtime.cli.inputs import Planned, plan
from pnseg_runtime.cli.log import LOGGER
from pnseg_runtime.cli.model_options import bundle_option, output_options, prediction_options, tell_choice
from pnseg_runtime.cli.report import (
    Done,
    Failed,
    MppSource,
    logged,
    print_table,
    summary,
    summary_printed,
)
from pnseg_runtime.documents import print_json
from pnseg_runtime.errors import ImageError, OutputError, PnsegError
from pnseg_runtime.images import RgbImage, read_image
from pnseg_runtime.nuclei import Nuclei
from pnseg_runtime.outputs import KINDS, Prediction, refuse_existing, refuse_other_image, write_outputs
from pnseg_runtime.outputs.atomic import make_folder
from pnseg_runtime.params import Mpp, MppChoice, given, overlap_option, settled
from pnseg_runtime.plausible import diameters_of, seen_at
from pnseg_runtime.sessions import AUTO


class Predictor(Protocol):
    """What the verb asks of a model; :class:`pnseg_runtime.segmenter.Segmenter` is one."""

    manifest: Manifest

    @property
    def backend(self) -> str: ...

    @property
    def precision(self) -> str: ...

    def predict(self, rgb: NDArray[np.uint8], mpp: float | None = None, *, guessed: bool = False) -> Nuclei: ...


@dataclass(frozen=True)
class Asked:
    """What holds for all images of a run.

    Attributes:
        segmenter: the model.
        mpp: what was said of the images' microns per pixel.
        overwrite: whether earlier results may be replaced; None for those of the same image.
        make_folder: makes a folder for results, each once.
    """

    segmenter: Predictor
    mpp: MppChoice
    overwrite: bool | None
    make_folder: Callable[[Path], None]


_EPILOG = """\b
Examples:
  pnseg predict tile.png
  pnseg predict tiles/ --out results --only geojson,csv
  pnseg predict tiles/ --backend auto --precision bfloat16
  pnseg predict tiles/ --bundle bundles/mine --backend cuda
  pnseg predict a.tif b.tif --bundle my_bundle/ --mpp 0.25
  pnseg predict scans/ --mpp model

\b
Exit codes: 0 all images done, 1 something failed, 2 wrong usage, 130 interrupted, 143 terminated.
"""


@click.command(epilog=_EPILOG)
@click.argument(
    "images", nargs=-1, required=True, metavar="IMAGE|FOLDER...", type=click.Path(path_type=Path, readable=False)
)
@bundle_option
@output_options(KINDS)
@click.option(
    "--mpp",
    type=Mpp(),
    metavar="MPP|auto|model",
    help="Microns per pixel, in place of what a file states: the model sees an image at its own, and measures in µm. "
    "For files that state none: auto sees images with small nuclei again, 1.5 times enlarged; model takes them as "
    "they are [default: the bundle's choice; of nano, auto].",
)
@prediction_options(images=True)
@overlap_option
@click.option("--recursive", is_flag=True, help="Look into folders inside a folder too.")
@click.option(
    "--overwrite/--no-overwrite",
    default=None,
    help="Replace results of an earlier run [default: those of the same image].",
)
@click.option("--json", "as_json", is_flag=True, help="Print the summary as JSON.")
def predict(
    images: tuple[Path, ...],
    bundle: str,
    folder: Path,
    kinds: tuple[str, ...],
    mpp: MppChoice,
    backend: str,
    recursive: bool,
    overwrite: bool | None,
    as_json: bool,
    **chosen: Any,
) -> None:
    """Outline the nuclei in images.

    Writes a label map, GeoJSON for QuPath, a table as CSV and Parquet, and an overlay for every
    IMAGE, and for every image in a FOLDER.
    """
    make_folder(folder)
    try:
        segmenter = load(bundle, backend=backend, **given(chosen))
    except ValueError as error:  # an option that makes no sense with this bundle, as windows that overlap whole
        LOGGER.debug("%s: not opened", bundle, exc_info=True)
        raise click.UsageError(str(error)) from error
    if backend == AUTO:
        tell_choice(segmenter.reason, segmenter.passed_over)
    asked = Asked(segmenter, mpp, overwrite, cache(make_folder))
    results = [_run(planned, asked) for planned in _with_progress(plan(images, folder, kinds, recursive))]
    done = [result for result in results if isinstance(result, Done)]
    failed = [result for result in results if isinstance(result, Failed)]
    with summary_printed(folder):
        if as_json:
            run = {
                "pnseg": __version__,
                "bundle": bundle,
                "backend": segmenter.backend,
                "precision": segmenter.precision,
            }
            print_json(summary(run, done, failed))
        elif done:
            print_table(done)
    if failed:
        raise Failure(f"{len(failed)} of {len(results)} images failed")


def _run(planned: Planned, asked: Asked) -> Done | Failed:
    """Segment and write one image; whatever goes wrong is told in one sentence."""
    try:
        return _segment(planned, asked)
    except PnsegError as error:
        sentence = str(error)
        LOGGER.debug("%s: failed", planned.image, exc_info=True)
    except MemoryError:
        sentence = f"{planned.image}: does not fit into memory; cut the region of interest out of it first."
        LOGGER.debug("%s: failed", planned.image, exc_info=True)
    except Exception as error:  # a fault of ours or a library's must not take the other images with it
        sentence = (
            f"{planned.image}: unexpected {type(error).__name__} ({error}); run pnseg -v predict for the details."
        )
        LOGGER.debug("%s: failed", planned.image, exc_info=True)
    show_error(sentence)
    return Failed(planned.image, sentence)


def _segment(planned: Planned, asked: Asked) -> Done:
    if planned.problem is not None:
        raise planned.problem
    if asked.overwrite is False:
        refuse_existing(planned.outputs.values())  # before the work, not only after it
    image = read_image(planned.image)
    if image.doubt is not None:
        show_warning(f"{planned.image}: {image.doubt}")
    if asked.overwrite is None:
        with _naming(planned.image):
            refuse_other_image(planned.outputs, image.pixels)
    start = perf_counter()
    try:
        found = _find(asked.segmenter, image, asked.mpp)
    except ImageError as error:  # a segmenter is given pixels and knows no file
        raise ImageError(f"{planned.image}: {error}") from error
    seconds, nuclei = perf_counter() - start, found.nuclei
    median, doubt = _sizes(nuclei)
    if doubt is not None:
        show_warning(f"{planned.image}: {doubt}")
    with _naming(planned.image):
        asked.make_folder(next(iter(planned.outputs.values())).parent)
        write_outputs(Prediction(image.pixels, nuclei), planned.outputs, asked.overwrite is not False)
    done = Done(
        image=planned.image,
        size=nuclei.shape,
        nuclei=len(nuclei),
        seconds=seconds,
        outputs=planned.outputs,
        enlarged=found.enlarged,
        mpp=found.mpp,
        mpp_source=found.source,
        median_diameter=median,
        doubt=doubt,
        classes={kind.name: int((nuclei.classes == index).sum()) for index, kind in enumerate(nuclei.class_table)},
        timings=nuclei.timings,
    )
    LOGGER.info("%s", logged(done, asked.segmenter.manifest.mpp))
    return done


def _sizes(nuclei: Nuclei) -> tuple[float | None, str | None]:
    """The median diameter, µm, and a sentence if no tissue has it; nothing without microns per pixel."""
    if nuclei.mpp is None:
        return None, None
    diameters = diameters_of(nuclei.masks, nuclei.mpp)
    return diameters.median, diameters.doubt(nuclei.mpp)


@contextmanager
def _naming(image: Path) -> Iterator[None]:
    """Name the image in errors of its results, which name a file or a folder."""
    try:
        yield
    except OutputError as error:
        raise OutputError(f"{image}: {error}") from error


@dataclass(frozen=True)
class _Found:
    """An image's nuclei, how many times it was enlarged on a guess, and with what microns per pixel it was seen."""

    nuclei: Nuclei
    enlarged: float
    mpp: float | None
    source: MppSource | None


def _find(segmenter: Predictor, image: RgbImage, choice: MppChoice) -> _Found:
    chosen, guess = settled(choice, segmenter.manifest.unknown_mpp)
    known = chosen or image.mpp

    def at(mpp: float | None) -> Nuclei:
        return segmenter.predict(image.pixels, mpp=mpp, guessed=known is None)

    nuclei, enlarged = seen_at(at, known, guess, segmenter.manifest.mpp)
    if known is not None:
        return _Found(nuclei, enlarged, known, "file" if chosen is None else "given")
    if enlarged > 1:
        return _Found(nuclei, enlarged, segmenter.manifest.mpp * enlarged, "guessed")
    return _Found(nuclei, enlarged, None, None)


def _with_progress(images: Sequence[Planned]) -> Iterator[Planned]:
    console = Console(stderr=True)
    if len(images) < 2 or not console.is_terminal:
        yield from images
        return
    yield from track(images, description="predict", console=console, transient=True)
