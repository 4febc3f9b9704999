"""Time of the exact rewrites against the plain networks, on this machine's CPU.

The variants take turns, so that whatever else the machine does falls on all of them alike; read the
ratios, not the milliseconds.
"""

from __future__ import annotations

import json
import tempfile
import time
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import click
import numpy as np
from numpy.typing import NDArray

from benchmarks.networks import random_pair
from pnseg_export.bundle import export_segmentor
from pnseg_export.graphs.rewrites import TARGETS
from pnseg_runtime.sessions import Runner
from pnseg_runtime.sessions.onnxruntime import open_session
from pnseg_train.models.segmentor import WINDOW
from pnseg_train.models.sizes import SEGMENTOR_SIZES

Arrays = dict[str, NDArray[Any]]


def open_variants(size: str, threads: int | None) -> dict[str, tuple[Runner, Runner]]:
    """Encoder and decoder of a size, exported for every target."""
    variants = {}
    for target, rewrites in TARGETS.items():
        with tempfile.TemporaryDirectory() as folder:
            files = export_segmentor(random_pair(size)[1], Path(folder), rewrites)
            encoder, decoder = (
                open_session(Path(folder) / files[part].file, threads) for part in ("encoder", "decoder")
            )
            variants[target] = encoder, decoder
    return variants


def interleaved(calls: Mapping[str, Callable[[], object]], repeats: int) -> dict[str, float]:
    """Best time of each call, s, when all take turns; a first round is thrown away."""
    times: dict[str, list[float]] = {name: [] for name in calls}
    for _ in range(repeats + 1):
        for name, call in calls.items():
            start = time.perf_counter()
            call()
            times[name].append(time.perf_counter() - start)
    return {name: min(taken[1:]) for name, taken in times.items()}


def measure(size: str, nuclei: int, repeats: int, threads: int | None) -> dict[str, dict[str, float]]:
    """Target → ms of encoder and decoder for one window."""
    generator = np.random.default_rng(0)
    image: Arrays = {"image": generator.standard_normal((1, 3, WINDOW, WINDOW), np.float32)}
    prompts: Arrays = {
        "point_coords": WINDOW * generator.random((nuclei, 2, 2), np.float32),
        "point_labels": np.tile(np.array([[1, 0]], np.float32), (nuclei, 1)),
        "image_index": np.zeros(nuclei, np.int64),
    }
    encoders: dict[str, Callable[[], object]] = {}
    decoders: dict[str, Callable[[], object]] = {}
    for target, (encoder, decoder) in open_variants(size, threads).items():
        inputs = encoder(image) | prompts
        encoders[target] = lambda run=encoder: run(image)  # type: ignore[misc]
        decoders[target] = lambda run=decoder, inputs=inputs: run(inputs)  # type: ignore[misc]
    encoding, decoding = interleaved(encoders, repeats), interleaved(decoders, repeats)
    return {t: {"encoder_ms": 1e3 * encoding[t], "decoder_ms": 1e3 * decoding[t]} for t in TARGETS}


@click.command()
@click.option("--size", type=click.Choice(list(SEGMENTOR_SIZES)), default="nano", show_default=True)
@click.option("--nuclei", type=click.IntRange(min=1), default=24, show_default=True, help="Prompts in the window.")
@click.option("--repeats", type=click.IntRange(min=1), default=10, show_default=True)
@click.option("--threads", type=click.IntRange(min=1), help="CPU threads of an operator [default: physical cores].")
@click.option("--json", "as_json", is_flag=True, help="Print one JSON document.")
def rewrites(size: str, nuclei: int, repeats: int, threads: int | None, as_json: bool) -> None:
    """Time encoder and decoder of a size with random weights, for every target's rewrites."""
    found = measure(size, nuclei, repeats, threads)
    if as_json:
        click.echo(json.dumps({"size": size, "nuclei": nuclei, "targets": found}, indent=2))
        return
    plain = found["plain"]
    for target, row in found.items():
        cells = (f"{part[:-3]} {ms:8.1f} ms ({plain[part] / ms:4.2f}×)" for part, ms in row.items())
        click.echo(f"{target:6} {'   '.join(cells)}")
