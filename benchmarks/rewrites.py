"""Time of the exact rewrites against the plain networks, on this machine's CPU.

The variants take turns, so that whatever else the machine does falls on all of them alike; read the
ratios, not the milliseconds.
"""

from __future__ import annotations

import tempfile
from pathlib import Path
from typing import Any

import click
import numpy as np
from numpy.typing import NDArray

from benchmarks.networks import random_pair
from benchmarks.protocol import Call, Document, Protocol, Row, document, latencies
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


def measure(size: str, nuclei: int, protocol: Protocol, threads: int | None) -> Document:
    """One row a target and graph: its time for one window."""
    generator = np.random.default_rng(0)
    image: Arrays = {"image": generator.standard_normal((1, 3, WINDOW, WINDOW), np.float32)}
    prompts: Arrays = {
        "point_coords": WINDOW * generator.random((nuclei, 2, 2), np.float32),
        "point_labels": np.tile(np.array([[1, 0]], np.float32), (nuclei, 1)),
        "image_index": np.zeros(nuclei, np.int64),
    }
    encoders: dict[str, Call] = {}
    decoders: dict[str, Call] = {}
    for target, (encoder, decoder) in open_variants(size, threads).items():
        inputs = encoder(image) | prompts
        encoders[target] = lambda run=encoder: run(image)  # type: ignore[misc]
        decoders[target] = lambda run=decoder, inputs=inputs: run(inputs)  # type: ignore[misc]
    timed = {"encoder": latencies(encoders, protocol), "decoder": latencies(decoders, protocol)}
    rows = [
        Row(method=f"PromptNucSeg-{size}", run=f"{graph}, {target}", latency=timed[graph][target])
        for graph in timed
        for target in TARGETS
    ]
    return document("rewrites", rows, protocol, size=size, nuclei=nuclei, threads=threads)


EXAMPLES = """
\b
Examples:
  python -m benchmarks rewrites --size nano
  python -m benchmarks rewrites --size B --threads 2
"""


@click.command(epilog=EXAMPLES)
@click.option(
    "--size", type=click.Choice(list(SEGMENTOR_SIZES)), default="nano", show_default=True, help="Of the networks."
)
@click.option("--nuclei", type=click.IntRange(min=1), default=24, show_default=True, help="Prompts in the window.")
@click.option("--repeats", type=click.IntRange(min=1), default=10, show_default=True, help="Rounds; the median counts.")
@click.option("--threads", type=click.IntRange(min=1), help="CPU threads [default: the physical cores].")
@click.option("--json", "as_json", is_flag=True, help="Print one JSON document.")
def rewrites(size: str, nuclei: int, repeats: int, threads: int | None, as_json: bool) -> None:
    """Time encoder and decoder of a size with random weights, for every target's rewrites."""
    found = measure(size, nuclei, Protocol(warmup=1, rounds=repeats), threads)
    if as_json:
        click.echo(found.model_dump_json(indent=1))
        return
    medians = {row.run: row.latency.p50_ms for row in found.rows if row.latency}
    for target in TARGETS:
        cells = (
            f"{graph} {medians[f'{graph}, {target}']:8.1f} ms "
            f"({medians[f'{graph}, plain'] / medians[f'{graph}, {target}']:4.2f}×)"
            for graph in ("encoder", "decoder")
        )
        click.echo(f"{target:6} {'   '.join(cells)}")
