"""Figures that do not depend on the machine and that a change must not make worse."""

from __future__ import annotations

import json
import tempfile
from collections.abc import Callable, Iterator
from functools import partial
from pathlib import Path
from typing import Any

import onnx
from numpy.typing import NDArray

from benchmarks.macs import module_macs
from benchmarks.networks import random_pair
from benchmarks.promptnucseg import exported_macs, passes
from benchmarks.staged import staged
from benchmarks.tiles import TYPICAL, make_tile
from pnseg_export.bundle import export_segmentor
from pnseg_export.graphs.rewrites import TARGETS
from pnseg_runtime.bundle import Bundle
from pnseg_runtime.segmenter import Segmenter
from pnseg_runtime.sessions import Runner, Sessions, open_sessions
from pnseg_train.models.segmentor import Segmentor, sam_segmentor

#: A figure's name → its value; less is better in all of them.
Figures = dict[str, int]

SHIPPED = "nano"
KERNELS = Path(__file__).parents[1] / "pnseg_runtime" / "cuda" / "bin" / "kernels.json"
#: What nvcc tells of a kernel that more of makes slower.
RESOURCES = ("registers", "spill_stores", "spill_loads", "stack")


def shipped_bundle() -> Figures:
    """Multiply-accumulates, parameters, nodes and bytes of the shipped bundle, in every precision that it has."""
    bundle = Bundle.open(SHIPPED)
    figures = {
        f"{SHIPPED}.macs": exported_macs(bundle, TYPICAL, passes(bundle.manifest)[:1]),
        f"{SHIPPED}.bytes": sum(file.bytes for file in bundle.manifest.files()),
    }
    for precision in bundle.manifest.precisions:
        for graph in bundle.manifest.graphs:
            model = onnx.load(bundle.path(graph, precision), load_external_data=False)
            figures[f"{SHIPPED}.{precision}.{graph}.nodes"] = len(model.graph.node)
    return figures


def tile_traffic() -> Figures:
    """Sessions' calls, and the bytes that go in and out of them, for a tile of 24 nuclei with the shipped bundle."""
    bundle, tile = Bundle.open(SHIPPED), make_tile(TYPICAL)
    counted, figures = counting(open_sessions(bundle, threads=1, cache=False))
    Segmenter(bundle, sessions=staged(counted, tile, bundle.manifest.prompting.anchor_spacing)).predict(tile.image)
    return {f"tile.{SHIPPED}.{name}": value for name, value in figures.items()}


def counting(sessions: Sessions) -> tuple[Sessions, Figures]:
    """The same sessions, and figures that grow when they are called."""
    figures = {f"{graph}.{what}": 0 for graph in ("prompter", "encoder", "decoder") for what in ("calls", "bytes")}

    def count(run: Runner, graph: str) -> Runner:
        def counted(inputs: dict[str, NDArray[Any]]) -> dict[str, NDArray[Any]]:
            outputs = run(inputs)
            figures[f"{graph}.calls"] += 1
            figures[f"{graph}.bytes"] += sum(a.nbytes for arrays in (inputs, outputs) for a in arrays.values())
            return outputs

        return counted

    wrapped = Sessions(
        prompter=count(sessions.prompter, "prompter"),
        encoder=count(sessions.encoder, "encoder"),
        decoder=count(sessions.decoder, "decoder"),
    )
    return wrapped, figures


def size_macs(size: str) -> Figures:
    """Multiply-accumulates and parameters of a size as it is exported, counted without weights."""
    figures = {}
    for target in ("cpu", "gpu"):
        for graph, macs in module_macs(size, TYPICAL, 1, TARGETS[target]).items():
            figures[f"{size}.{target}.{graph}.macs"] = macs
    prompter, segmentor = random_pair(size, "meta")
    values = sum(p.numel() for network in (prompter, segmentor) for p in network.parameters())
    return figures | {f"{size}.parameters": values}


def vit_nodes() -> Figures:
    """Nodes of an exported SAM of two blocks, one windowed and one global; B, L and H have more of the same."""
    figures = {}
    for target in ("cpu", "gpu"):
        with tempfile.TemporaryDirectory() as folder:
            files = export_segmentor(two_blocks(), Path(folder), TARGETS[target])
            for graph, file in files.items():
                figures[f"two blocks.{target}.{graph}.nodes"] = len(onnx.load(Path(folder) / file.file).graph.node)
    return figures


def two_blocks() -> Segmentor:
    """The narrowest SAM that has both kinds of blocks."""
    return sam_segmentor(96, 2, 3, (1,)).eval()


def kernel_resources(path: Path = KERNELS) -> Figures:
    """Registers, spills and stack of every CUDA kernel on every architecture, as the compiler told."""
    if not path.is_file():
        return {}
    resources = json.loads(path.read_text(encoding="utf-8"))["resources"]
    return {
        f"kernels.{architecture}.{kernel}.{what}": int(told[what])
        for architecture, kernels in resources.items()
        for kernel, told in kernels.items()
        for what in RESOURCES
    }


#: Group → what measures it; ``accept`` takes the groups' names.
GROUPS: dict[str, Callable[[], Figures]] = {
    "nano": shipped_bundle,
    "tile": tile_traffic,
    **{size: partial(size_macs, size) for size in ("B", "L", "H")},
    "two blocks": vit_nodes,
    "kernels": kernel_resources,
}


def compare(accepted: Figures, found: Figures) -> Iterator[tuple[str, str]]:
    """("worse", "better" or "unknown", sentence) of every figure that is not as it was accepted."""
    for name, value in found.items():
        before = accepted.get(name)
        if before is None:
            yield "unknown", f"{name}: {value:,} has not been accepted yet"
        elif value != before:
            change = f"{100 * (value / before - 1):+.1f}%" if before else f"{value - before:+,}"
            yield "worse" if value > before else "better", f"{name}: {before:,} → {value:,} ({change})"
    for name in sorted(accepted.keys() - found.keys()):
        yield "unknown", f"{name}: was {accepted[name]:,} and is not measured any more"
