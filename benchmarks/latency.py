"""From pixels to instance map: the runtime against the method as its description reads, on the same weights.

A tile of one window and an image of 1000×1000 px, everything included from uint8 pixels to the instance
map. Two baselines (:mod:`benchmarks.plain`): PyTorch eager, and ONNX Runtime on graphs exported without
rewrites. Both decode every point in every window that holds it, with K = 1 negative and again without.
All take turns; what counts are the ratios. The weights are random but for those that make masks discs
around their prompts (:mod:`benchmarks.planted`); the background's logit is lowered until the wanted
number of points comes out. Beside each run stands how near it comes to the arithmetic limit
(:mod:`benchmarks.limit`).
"""

from __future__ import annotations

import shutil
import tempfile
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import replace
from functools import cache, partial
from pathlib import Path
from typing import Any

import click
import numpy as np
import torch
from numpy.typing import NDArray

from benchmarks.limit import SPEEDUP, macs_a_second, macs_of_calls
from benchmarks.plain import PlainSegmenter, eager_networks, onnxruntime_networks
from benchmarks.planted import planted_pair
from benchmarks.promptnucseg import manifest_for
from benchmarks.protocol import Latency, Protocol, Row, document, latencies
from benchmarks.sensitivity import sensitivity_for
from pnseg_export.bundle import export_graphs
from pnseg_export.folders import write_manifest
from pnseg_export.graphs.rewrites import CPU, PLAIN
from pnseg_export.precision.feeds import SAMPLES, read_tiles
from pnseg_runtime.bundle import Bundle
from pnseg_runtime.documents import print_json
from pnseg_runtime.errors import BackendError, BundleError
from pnseg_runtime.images import read_image
from pnseg_runtime.metrics import panoptic_quality
from pnseg_runtime.options import Options
from pnseg_runtime.outputs.atomic import make_folder
from pnseg_runtime.pixels import Pixels
from pnseg_runtime.segmenter import Segmenter
from pnseg_runtime.sessions import Runner, Sessions, open_sessions

EAGER, PLAIN_GRAPHS = "PyTorch eager", "ONNX Runtime, plain graphs"
#: Least PQ, of a run against the eager pipeline in float32, of nano in a reduced precision against float32.
LEAST_PQ = 0.95
SIZES = ("B", "L", "H")
KINDS = ("fp32", "reduced")

#: Name → backend and precision.
OURS = {
    "pnseg, ONNX Runtime float32": ("onnxruntime", "float32"),
    "pnseg, OpenVINO float32": ("openvino", "float32"),
    "pnseg, OpenVINO bfloat16": ("openvino", "bfloat16"),
    "pnseg, OpenVINO int8": ("openvino", "int8"),
    "pnseg, ONNX Runtime int8": ("onnxruntime", "int8"),
}


def sample_tile(name: str = "purple_crowded", side: int = 256) -> Pixels:
    """(256, 256, 3) uint8, real tissue."""
    return np.ascontiguousarray(read_image(SAMPLES / f"{name}.png").pixels[:side, :side])


def sample_image(side: int = 1000) -> Pixels:
    """(1000, 1000, 3) uint8: the sample images side by side, mirrored where they repeat."""
    images = read_tiles(SAMPLES)
    height, width, _ = images[0].shape
    rows = []
    for row in range(-(-side // height)):
        parts = [images[(row * 2 + column) % len(images)] for column in range(-(-side // width))]
        rows.append(np.concatenate([part[:, ::-1] if row % 2 else part for part in parts], axis=1))
    return np.ascontiguousarray(np.concatenate(rows)[:side, :side])


def export_pair(size: str, folder: Path, int8: bool) -> None:
    """Write two bundles of the same weights: ``folder``/runtime and ``folder``/plain."""
    prompter, segmentor = planted_pair(size, sample_tile())
    torch.save({"prompter": prompter.state_dict(), "segmentor": segmentor.state_dict()}, folder / "weights.pth")
    for name, rewrites in (("plain", PLAIN), ("runtime", CPU)):
        (folder / name).mkdir()
        graphs = export_graphs(prompter, segmentor, folder / name, rewrites)
        write_manifest(folder / name, manifest_for(size, graphs=graphs))
    if int8:
        from pnseg_export.precision.variants import Int8Choices, add_variants

        bundle, tiles = Bundle.open(folder / "runtime"), [sample_tile(name) for name in ("purple_crowded", "he_pink")]
        add_variants(bundle, bundle.folder, ["int8"], tiles, Int8Choices(search=False), accept=True)


def cache_of_one(runner: Runner) -> Runner:
    """A network that is only ever asked the same."""
    found: list[dict[str, NDArray[Any]]] = []

    def run(inputs: dict[str, NDArray[Any]]) -> dict[str, NDArray[Any]]:
        if not found:
            found.append({name: array.copy() for name, array in runner(inputs).items()})
        return found[0]

    return run


@contextmanager
def workplace(folder: Path | None) -> Iterator[Path]:
    """The given folder, or one that is removed afterwards.

    Raises:
        OutputError: the given one cannot be written to.
    """
    if folder is not None:
        make_folder(folder)
        yield folder
        return
    with tempfile.TemporaryDirectory() as scratch:
        yield Path(scratch)


Call = Callable[[], NDArray[np.int32]]


def instance_map(segmenter: Segmenter, image: Pixels) -> NDArray[np.int32]:
    """The whole of the runtime."""
    return segmenter.predict(image).instance_map()


def open_calls(
    size: str, folder: Path, image: Pixels, nuclei: int, threads: int, int8: bool = True
) -> tuple[dict[str, Call], int]:
    """Name → a call that gives the image's instance map; and the multiply-accumulates of the runtime's networks.

    What cannot be opened is left out, and the reason said on the error stream.
    """
    bundle, plain = Bundle.open(folder / "runtime"), Bundle.open(folder / "plain")
    cpu = open_sessions(bundle, threads=threads)

    # Of one image the prompter says the same whatever the sensitivity.
    once = replace(cpu, prompter=cache_of_one(cpu.prompter))

    def points(value: float) -> int:
        return len(Segmenter(bundle, Options(sensitivity=value), sessions=once).pipeline.find_points(image))

    sensitivity = sensitivity_for(points, nuclei)
    prompting = plain.manifest.prompting.model_copy(update={"sensitivity": sensitivity})
    manifest = plain.manifest.model_copy(update={"prompting": prompting})
    pair = planted_pair(size, sample_tile())
    calls: dict[str, Call] = {
        EAGER: partial(PlainSegmenter(eager_networks(*pair), manifest), image),
        PLAIN_GRAPHS: partial(PlainSegmenter(onnxruntime_networks(plain.folder, threads), manifest), image),
    }
    for name, (backend, precision) in OURS.items():
        if precision == "int8" and (why := without_int8(bundle, int8)):
            click.echo(f"{name}: left out ({why})", err=True)
            continue
        try:
            segmenter = Segmenter(
                bundle, Options(threads=threads, sensitivity=sensitivity, precision=precision), backend
            )
        except (BackendError, BundleError) as error:
            click.echo(f"{name}: left out ({error})", err=True)
            continue
        calls[name] = partial(instance_map, segmenter, image)

    def predict(sessions: Sessions) -> None:
        Segmenter(bundle, Options(sensitivity=sensitivity), sessions=sessions).predict(image)

    return calls, macs_of_calls(bundle, cpu, frozenset({"region_logits"}), predict)


def without_int8(bundle: Bundle, wanted: bool) -> str:
    """Why no 8-bit graphs are timed; empty where they are."""
    if not wanted:
        return "--no-int8"
    if "int8" in bundle.manifest.precisions:
        return ""
    return f"{bundle.folder}: made with --no-int8; remove it to have 8-bit graphs made"


def compare(calls: Mapping[str, Call]) -> dict[str, dict[str, float]]:
    """Name → nuclei, share of pixels whose nucleus is the same as the eager pipeline's, PQ against it."""
    reference = calls[EAGER]()
    rows = {}
    for name, call in calls.items():
        found = call()
        quality = panoptic_quality(reference, found)
        rows[name] = {
            "nuclei": int(len(np.unique(found)) - 1),
            "same_pixels": float(same_pixels(reference, found)),
            "pq": float(quality["pq"]),
            "mask_iou": float(quality["sq"]),
        }
    return rows


def same_pixels(first: NDArray[np.int32], second: NDArray[np.int32]) -> float:
    """Share of pixels on which two instance maps agree, whatever the numbers of the nuclei."""
    pairs, where, counts = np.unique(
        np.stack([first.ravel(), second.ravel()]), axis=1, return_inverse=True, return_counts=True
    )
    partner = {int(a): int(b) for (a, b), _ in sorted(zip(pairs.T, counts, strict=True), key=lambda entry: entry[1])}
    partner[0] = 0
    agreeing = np.array([(a > 0) == (b > 0) and partner[int(a)] == b for a, b in pairs.T])
    return float(agreeing[where].mean())


def precision_of(name: str) -> str:
    """What a run computes in."""
    return OURS[name][1] if name in OURS else "float32"


def ratios(baseline: Latency, other: Latency) -> dict[str, float]:
    """Median and spread of the rounds' ratios."""
    each = np.array(baseline.samples_ms) / np.array(other.samples_ms)
    p5, p50, p95 = np.percentile(each, (5, 50, 95))
    return {"p5": round(float(p5), 3), "p50": round(float(p50), 3), "p95": round(float(p95), 3)}


@cache
def keeps(backend: str, precision: str, threads: int) -> bool:
    """Whether the trained nano has the nuclei of float32 in a reduced precision, on the sample tiles.

    Random weights cannot tell: their classes have no margin, so the last bits decide which points there are.
    8-bit graphs, which nano does not come with, are made as ``pnseg quantise nano`` makes them.
    """
    with tempfile.TemporaryDirectory() as scratch:
        nano = eight_bit_nano(Path(scratch) / "nano") if precision == "int8" else Bundle.open("nano")
        try:
            other = Segmenter(nano, Options(threads=threads, precision=precision), backend)
        except (BackendError, BundleError):
            return False
        reference = Segmenter(nano, Options(threads=threads))
        tiles = read_tiles(SAMPLES)
        maps = [(reference.predict(tile).instance_map(), other.predict(tile).instance_map()) for tile in tiles]
    return float(np.mean([panoptic_quality(first, second)["pq"] for first, second in maps])) >= LEAST_PQ


def eight_bit_nano(folder: Path) -> Bundle:
    """The shipped nano with 8-bit graphs, calibrated on the sample images."""
    from pnseg_export.precision.variants import add_variants

    add_variants(Bundle.open("nano"), folder, ["int8"], read_tiles(SAMPLES))
    return Bundle.open(folder)


def best(rows: list[Row], subject: str, reduced: bool, threads: int) -> float | None:
    """The largest median ratio to eager of the runs that count: float32, or reduced where nano keeps its nuclei."""
    found = [
        row.against_eager["p50"]  # type: ignore[attr-defined]
        for row in rows
        if row.method == subject
        and row.run in OURS
        and (OURS[row.run][1] != "float32") == reduced
        and (keeps(*OURS[row.run], threads) if reduced else row.pq >= LEAST_PQ)  # type: ignore[attr-defined]
    ]
    return max(found, default=None)


def summary(rows: list[Row], threads: int) -> dict[str, float | None]:
    """``tile_fp32``, ``tile_reduced`` and so on → the best ratio to eager."""
    subjects = dict.fromkeys(row.method for row in rows)
    return {f"{name}_{kind}": best(rows, name, kind == "reduced", threads) for name in subjects for kind in KINDS}


def measure(
    size: str, subject: str, image: Pixels, nuclei: int, folder: Path, threads: int, protocol: Protocol, int8: bool
) -> list[Row]:
    """Rows of one image."""
    calls, macs = open_calls(size, folder, image, nuclei, threads, int8)
    agreed = compare(calls)
    found = latencies(calls, protocol)
    seconds = macs / macs_a_second(threads)
    return [
        Row(
            method=subject,
            run=name,
            latency=found[name],
            against_eager=ratios(found[EAGER], found[name]),
            against_plain_graphs=ratios(found[PLAIN_GRAPHS], found[name]),
            share_of_limit=round(1e3 * seconds / SPEEDUP[precision_of(name)] / found[name].p50_ms, 3),
            gmacs=round(macs / 1e9, 1),
            **agreed[name],
        )
        for name in calls
    ]


_EPILOG = """\b
Examples:
  python -m benchmarks latency --size B
  python -m benchmarks latency --size B --rounds 20 --image-rounds 5 --json > latency.json
"""


@click.command(epilog=_EPILOG)
@click.option("--size", type=click.Choice(SIZES), default="B", show_default=True, help="Of the networks.")
@click.option("--nuclei", type=click.IntRange(min=1), default=24, show_default=True, help="In the tile of 256×256 px.")
@click.option("--image-nuclei", type=click.IntRange(min=1), default=800, show_default=True, help="In the image.")
@click.option(
    "--image-side", type=click.IntRange(min=256), default=1000, show_default=True, help="Side of the image, px."
)
@click.option("--threads", type=click.IntRange(min=1), default=2, show_default=True, help="CPU threads.")
@click.option(
    "--rounds", type=click.IntRange(min=0), default=20, show_default=True, help="Of the tile; 0 leaves it out."
)
@click.option(
    "--image-rounds", type=click.IntRange(min=0), default=20, show_default=True, help="Of the image; 0 leaves it out."
)
@click.option("--int8/--no-int8", default=True, show_default=True, help="Also time 8-bit graphs.")
@click.option("--folder", type=click.Path(path_type=Path), help="Keep the exported networks here, for the next time.")
@click.option("--json", "as_json", is_flag=True, help="Print one JSON document.")
def latency(
    size: str,
    nuclei: int,
    image_nuclei: int,
    image_side: int,
    threads: int,
    rounds: int,
    image_rounds: int,
    int8: bool,
    folder: Path | None,
    as_json: bool,
) -> None:
    """Time a tile and an image from pixels to instance map, against two plain pipelines on the same weights."""
    if not rounds and not image_rounds:
        raise click.UsageError("nothing is left to time; give --rounds or --image-rounds more than 0.")
    torch.set_num_threads(threads)
    rows: list[Row] = []
    with workplace(folder) as place:
        made = place / size
        if not (made / "runtime" / "manifest.json").is_file():
            draft = place / f"{size}.part"  # so that an export that is interrupted is not taken for a whole one
            for old in (draft, made):
                shutil.rmtree(old, ignore_errors=True)
            draft.mkdir()
            export_pair(size, draft, int8)
            draft.rename(made)
        subjects = [
            ("tile", sample_tile(), nuclei, rounds),
            ("image", sample_image(image_side), image_nuclei, image_rounds),
        ]
        for subject, image, count, repeats in subjects:
            if not repeats:
                continue
            rows += measure(size, subject, image, count, made, threads, Protocol(warmup=1, rounds=repeats), int8)
            show([row for row in rows if row.method == subject], to_stderr=as_json)
    ratio_of = summary(rows, threads)
    protocol = Protocol(warmup=1, rounds=rounds or image_rounds)
    found = document(
        "latency",
        rows,
        protocol,
        size=size,
        nuclei=nuclei,
        image_nuclei=image_nuclei,
        image_side=image_side,
        image_rounds=image_rounds,
        threads=threads,
        int8=int8,
    )
    if as_json:
        print_json({**ratio_of, **found.model_dump(mode="json")})
        return
    for name, value in ratio_of.items():
        click.echo(f"{name:14} {'–' if value is None else f'{value:.2f}×'}")
    click.echo(f"{found.machine.title}; {threads} threads; measured {found.machine.time}.")


def show(rows: list[Row], to_stderr: bool) -> None:
    """A table of one image's rows."""
    echo = partial(click.echo, err=to_stderr)
    echo(
        f"{rows[0].method:30} {'median':>9} {'p5–p95 (ms)':>15} {'× eager':>8} {'p5–p95':>12} {'× plain':>8}"
        f" {'nuclei':>7} {'same px':>8} {'PQ':>6} {'of limit':>9}"
    )
    for row in rows:
        taken, extra = row.latency, row.model_dump()
        assert taken is not None
        eager, plain = extra["against_eager"], extra["against_plain_graphs"]
        spans = f"{taken.p5_ms:.0f}–{taken.p95_ms:.0f}", f"{eager['p5']:.2f}–{eager['p95']:.2f}"
        echo(
            f"{row.run:30} {taken.p50_ms:9.1f} {spans[0]:>15} {eager['p50']:8.2f} {spans[1]:>12} {plain['p50']:8.2f}"
            f" {extra['nuclei']:7d} {extra['same_pixels']:8.4f} {extra['pq']:6.3f}"
            f" {extra['share_of_limit']:8.0%}"
        )
