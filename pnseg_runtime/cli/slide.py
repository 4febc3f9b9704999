"""``pnseg slide``: whole slides in, nuclei out; what has been done is never done again."""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import click
from rich import box
from rich.console import Console
from rich.table import Table
from rich.text import Text

from pnseg_runtime.cli.group import Failure, MissingExtra, show_error, show_warning
from pnseg_runtime.cli.log import LOGGER
from pnseg_runtime.cli.model_options import bundle_option, output_options, prediction_options
from pnseg_runtime.cli.slide_inputs import slides_of
from pnseg_runtime.cli.slide_progress import Display, printable
from pnseg_runtime.documents import print_json
from pnseg_runtime.errors import PnsegError
from pnseg_runtime.options import Options
from pnseg_runtime.params import Microns, given
from pnseg_runtime.slide import KINDS, Busy, Model, Networks, SlideOptions, SlideResult, run_slide
from pnseg_runtime.slide.outputs import TISSUE, stem_of

_EPILOG = """\b
Examples:
  pnseg slide slide.svs --out results
  pnseg slide slides/ --out results --only parquet,geojson.gz
  pnseg slide slide.svs --bundle bundles/mine --backend tensorrt
  pnseg slide tcga.svs --mpp 0.25 --roi 10000,8000,4000,4000
  pnseg slide slides/ --out /shared/results --engine ray

\b
The same command takes up what a stopped one has left; started twice, it divides the work.

\b
Exit codes: 0 all slides done, 1 something failed or was unreadable, 2 wrong usage, 130 interrupted,
143 terminated.
"""


@click.command(epilog=_EPILOG)
@click.argument(
    "slides", nargs=-1, required=True, metavar="SLIDE|FOLDER...", type=click.Path(path_type=Path, readable=False)
)
@bundle_option
@output_options(KINDS)
@click.option(
    "--mpp",
    type=Microns(),
    help="Microns per pixel of the full resolution [default: what a file states].",
)
@click.option("--roi", metavar="X,Y,W,H|FILE", help="Look only here: px of the full resolution, or GeoJSON polygons.")
@click.option("--tissue/--no-tissue", default=True, show_default=True, help="Look only where there is tissue.")
@prediction_options(images=False)
@click.option(
    "--core",
    type=click.IntRange(64),
    help="About the side of a core, px [default: 1920, or what the bundle's engines can be shown].",
)
@click.option(
    "--margin", type=click.IntRange(0), default=SlideOptions.margin, show_default=True, help="Context of a core, px."
)
@click.option(
    "--engine",
    type=click.Choice(["local", "ray"]),
    default="local",
    show_default=True,
    help='This process, or the actors of a Ray cluster (pip install "pnseg[ray]").',
)
@click.option("--workers", type=click.IntRange(1), help="Ray: actors [default: as many as the cluster has room for].")
@click.option("--address", help="Ray: address of the cluster [default: the one this machine belongs to, or a new one].")
@click.option("--overwrite/--no-overwrite", default=True, show_default=True, help="Replace results of an earlier run.")
@click.option("--keep-work/--no-keep-work", default=True, show_default=True, help="Keep the cores for other outputs.")
@click.option("--json", "as_json", is_flag=True, help="Print the summary as JSON.")
def slide(
    slides: tuple[Path, ...],
    bundle: str,
    folder: Path,
    kinds: tuple[str, ...],
    mpp: float | None,
    roi: str | None,
    tissue: bool,
    backend: str,
    core: int | None,
    margin: int,
    engine: str,
    workers: int | None,
    address: str | None,
    overwrite: bool,
    keep_work: bool,
    as_json: bool,
    **chosen: Any,
) -> None:
    """Outline the nuclei of whole slides and of images of any size.

    For every SLIDE, and every slide in a FOLDER: GeoJSON for QuPath, a table with polygons (Parquet),
    a label image (OME-Zarr), and pictures of tissue, density and classes.
    """
    if engine != "ray" and (workers or address):
        raise click.UsageError("--workers and --address are those of a Ray cluster; add --engine ray.")
    model = Model(bundle, Options(**given(chosen)), backend)
    options = SlideOptions(mpp, tissue, roi, core, margin)
    jobs = slides_of(slides)
    with Display(Console(stderr=True)) as display:
        if engine == "ray":
            with ray_engine().RayEngine(model, workers, address) as cluster:

                def run(path: Path, wait: bool) -> SlideResult:  # noqa: ARG001 - one process leads a cluster
                    return cluster.run_slide(
                        *(path, folder, options, kinds, display), overwrite=overwrite, keep_work=keep_work
                    )

                results, failed = _run_all(jobs, run, display)
        else:
            networks = Networks(model, display)

            def run(path: Path, wait: bool) -> SlideResult:
                return run_slide(
                    *(path, folder, model, options, kinds),
                    watcher=display,
                    networks=networks,
                    overwrite=overwrite,
                    keep_work=keep_work,
                    wait=wait,
                )

            results, failed = _run_all(jobs, run, display)
    if as_json:
        print_json(summary(results, failed))
    elif results:
        print_table(results)
    for result in results:
        if not result.area_mm2:
            show_warning(
                f"{result.slide}: nothing was looked at, as no tissue was found in it or its region of interest; "
                f"see {result.run.with_name(stem_of(result.slide) + TISSUE)}, or look everywhere with --no-tissue."
            )
        if result.doubt:
            show_warning(f"{result.slide}: {result.doubt}")
        if result.unreadable:
            where = ", ".join(str(tuple(each["box"])) for each in result.unreadable[:3])
            show_error(
                f"{result.slide}: {len(result.unreadable)} unreadable parts were left out ({where} …, "
                f"see {result.run}); copy the slide again and run the same command."
            )
    damaged = sum(bool(result.unreadable) for result in results)
    if failed or damaged:
        parts = [f"{len(failed)} failed" if failed else "", f"{damaged} had unreadable parts" if damaged else ""]
        raise Failure(f"of {len(jobs)} slides, {' and '.join(part for part in parts if part)}")


def ray_engine() -> Any:
    """The module that leads a Ray cluster.

    Raises:
        MissingExtra: Ray is not installed.
    """
    try:
        from pnseg_runtime.slide import ray_engine
    except ImportError as error:
        if (error.name or "").partition(".")[0] != "ray":
            raise
        raise MissingExtra('pnseg slide --engine ray needs Ray: pip install "pnseg[ray]"') from error
    return ray_engine


def _run_all(
    jobs: Sequence[Path | PnsegError], run: Callable[[Path, bool], SlideResult], display: Display
) -> tuple[list[SlideResult], list[tuple[str, str]]]:
    """Run one slide after the other; whatever goes wrong is told in one sentence and never stops the others.

    Slides of which other processes do what is left come again when all else is done, and then are waited for.
    """
    results: dict[Path | PnsegError, SlideResult] = {}
    failed = []
    left = deque((job, False) for job in jobs)
    while left:
        job, wait = left.popleft()
        try:
            if isinstance(job, PnsegError):
                raise job
            results[job] = run(job, wait or not left)
            continue
        except Busy:
            display.clear()
            display.say(f"{job}: other processes do what is left of it; it comes again at the end")
            left.append((job, True))
            continue
        except PnsegError as error:
            sentence = str(error)
        except MemoryError:
            sentence = f"{job}: does not fit into memory; choose smaller cores with --core."
        except Exception as error:
            LOGGER.debug("unexpected error", exc_info=True)
            sentence = f"{job}: unexpected {type(error).__name__} ({error}); run pnseg -v slide for the details."
        display.clear()
        show_error(sentence)
        failed.append((str(job) if isinstance(job, Path) else "", sentence))
    return [results[job] for job in jobs if job in results], failed


def print_table(results: Sequence[SlideResult]) -> None:
    """One row a slide on standard output."""
    console = Console(highlight=False)
    framed = console.is_terminal
    if not framed:
        console.width = 10_000
    table = Table(box=box.SIMPLE_HEAD if framed else None, show_edge=False, pad_edge=False)
    table.add_column("slide", overflow="fold")
    for heading in ("nuclei", "mm²", "nuclei/mm²", "unreadable"):
        table.add_column(heading, justify="right", no_wrap=True)
    for row in results:
        table.add_row(
            Text(printable(row.slide.name)),
            f"{row.nuclei:,}",
            f"{row.area_mm2:.3f}",
            "–" if row.per_mm2 is None else f"{row.per_mm2:,.0f}",
            str(len(row.unreadable)),
        )
    console.print(table)


def summary(results: Sequence[SlideResult], failed: Sequence[tuple[str, str]]) -> dict[str, Any]:
    """The run as JSON values."""
    return {
        "slides": [
            {
                "slide": str(row.slide),
                "nuclei": row.nuclei,
                "nuclei_of_class": row.classes,
                "area_mm2": row.area_mm2,
                "nuclei_per_mm2": row.per_mm2,
                "doubt": row.doubt,
                "unreadable": row.unreadable,
                "run": str(row.run),
                "outputs": {suffix: str(path) for suffix, path in row.outputs.items()},
            }
            for row in results
        ],
        "failed": [{"slide": slide, "error": error} for slide, error in failed],
    }
