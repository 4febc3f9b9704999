"""Engines of a full-size pair with random weights: time, memory, size and census of each build."""

from __future__ import annotations

import gc
import tempfile
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import click

from benchmarks.networks import random_pair
from benchmarks.promptnucseg import manifest_for
from pnseg_export.bundle import export_graphs
from pnseg_export.engines.build import BuildChoices, build_engine
from pnseg_export.engines.job import Built
from pnseg_export.engines.targets import parse_target
from pnseg_export.files import read_graph, write_graph
from pnseg_export.folders import write_manifest
from pnseg_export.graphs.rewrites import GPU
from pnseg_export.precision.float16 import halve
from pnseg_runtime.bundle import Bundle, EngineFile, GraphFile, GraphName
from pnseg_runtime.documents import print_json
from pnseg_train.models.sizes import SEGMENTOR_SIZES


def half_bundle(size: str, folder: Path) -> Bundle:
    """A bundle of a size with random weights whose graphs are in half precision, and only those."""
    networks = random_pair(size)
    made = export_graphs(*networks, folder, GPU)
    del networks
    gc.collect()
    half: dict[GraphName, GraphFile] = {}
    for name, entry in made.items():
        model, kept = halve(read_graph(folder / entry.file))
        half[name] = write_graph(model, folder / f"{name}.float16.onnx", entry.inputs, entry.outputs, "float16", kept)
        for part in (entry, *entry.data):
            (folder / part.file).unlink()
        del model
        gc.collect()
    manifest = manifest_for(size, graphs=made, variants={"float16": half})
    write_manifest(folder, manifest)
    return Bundle(folder, manifest)


def build_all(size: str, target: str, prompter: bool) -> Iterator[tuple[EngineFile, Built]]:
    """Every network's engine, one after another."""
    with tempfile.TemporaryDirectory() as scratch:
        bundle = half_bundle(size, Path(scratch))
        for name in bundle.manifest.variants["float16"]:
            if name == "prompter" and not prompter:
                continue
            yield build_engine(bundle, name, parse_target(target), BuildChoices())


def row(engine: EngineFile, built: Built) -> dict[str, Any]:
    """What is worth a line in a table."""
    return {
        "graph": engine.graph,
        "mib": round(engine.bytes / 2**20, 1),
        "seconds": engine.seconds,
        "memory_gib": round(built.memory / 2**30, 1),
        "attention": engine.attention,
        "fused_attention": engine.fused_attention,
        "kernels": engine.kernels,
        "census": engine.census,
        "layers": engine.layers,
    }


EXAMPLES = """
\b
Examples:
  python -m benchmarks engines --size nano
  python -m benchmarks engines --size L --no-prompter --json
"""


@click.command(epilog=EXAMPLES)
@click.option(
    "--size", type=click.Choice(list(SEGMENTOR_SIZES)), default="B", show_default=True, help="Of the networks."
)
@click.option("--target", default="rtx:sm86", show_default=True, help="As in build: a GPU by name, or this machine's.")
@click.option(
    "--prompter/--no-prompter", default=True, show_default=True, help="Build its engine too; L and H have that of B."
)
@click.option("--json", "as_json", is_flag=True, help="Print one JSON document.")
def engines(size: str, target: str, prompter: bool, as_json: bool) -> None:
    """Export a size with random weights in half precision and build its engines; no GPU is needed."""
    rows = [row(*each) for each in build_all(size, target, prompter)]
    if as_json:
        print_json({"size": size, "target": target, "engines": rows})
        return
    for each in rows:
        types = ", ".join(f"{count} {kind}" for kind, count in each["census"].items() if kind in {"HALF", "FLOAT"})
        click.echo(
            f"{size} {each['graph']:9} {each['mib']:8.1f} MiB {each['seconds']:7.1f} s {each['memory_gib']:5.1f} GiB "
            f"memory  {types}  attention {each['fused_attention']} of {each['attention']} fused  "
            f"kernels {', '.join(map(str, each['kernels'])) or '?'}"
        )
