"""A bundle's graphs in lower precisions: made, judged on nuclei, and only then named by its manifest."""

from __future__ import annotations

import shutil
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any, Literal

from pnseg_export.agreement import Agreement, Tile, agreement, findings
from pnseg_export.files import read_graph, write_graph
from pnseg_export.folders import is_bundle, new_folder, write_manifest
from pnseg_export.gates import LIMITS, can_judge, shortfalls
from pnseg_export.precision.feeds import Feeds, record
from pnseg_export.precision.float16 import halve_graphs
from pnseg_export.precision.int8 import (
    SCHEMES,
    Scheme,
    activation_ranges,
    layer_errors,
    layers,
    quantised,
    too_sensitive,
    unfit,
)
from pnseg_export.precision.rounded import rounded_sessions
from pnseg_runtime.bundle import FORMAT_VERSION, SHIPPED, Bundle, GraphFile, GraphName, Manifest
from pnseg_runtime.errors import PnsegError
from pnseg_runtime.segmenter import Segmenter
from pnseg_runtime.sessions import Sessions, open_sessions
from pnseg_runtime.sessions.cache import FOLDER as CACHE

Reduced = Literal["float16", "int8"]
GRAPHS: tuple[GraphName, ...] = ("prompter", "encoder", "decoder")

#: Calls on which layers are quantised one by one; more make the figures steadier and the search longer.
SEARCHED_CALLS = 4

# What to do about a precision that falls short, in the words of pnseg quantise.
REMEDIES: dict[Reduced, str] = {
    "float16": "give more --tiles, or keep them as they are by --accept",
    "int8": "lower --tolerance, give more --tiles, or keep them as they are by --accept",
}

MORE_NUCLEI = "give other --tiles, which show more"

Advance = Callable[[str, int, int], None]


@dataclass(frozen=True)
class Int8Choices:
    """How graphs are quantised.

    Attributes:
        scheme: of the activations.
        tolerance: largest error that a layer may add alone, a share of an output's standard deviation.
        search: measure every layer alone; without it, all that can be quantised are.
    """

    scheme: Scheme = SCHEMES["cpu"]
    tolerance: float = 0.02
    search: bool = True


def quantise_graphs(
    bundle: Bundle, folder: Path, feeds: Feeds, choices: Int8Choices, advance: Advance = lambda *_: None
) -> dict[GraphName, GraphFile]:
    """Write ``….int8.onnx`` of the graphs that the scheme does not keep in float32 into ``folder``.

    Args:
        bundle: with float32 graphs.
        folder: where to.
        feeds: real inputs of the graphs, for ranges and the search.
        choices: how.
        advance: called with (graph, layers measured, layers in all).
    """
    made: dict[GraphName, GraphFile] = {}
    for name in GRAPHS:
        path, calls, entry = bundle.path(name), feeds.of(name), bundle.graph(name)
        if name in choices.scheme.kept:
            made[name] = entry.model_copy(update={"kept": {"the whole graph": choices.scheme.kept[name]}})
            continue
        model = read_graph(path)
        ranges = activation_ranges(path, calls)
        kept = unfit(model)
        candidates = [layer for layer in layers(model) if layer not in kept]
        if choices.search:
            step = max(1, len(calls) // SEARCHED_CALLS)
            errors = layer_errors(
                path,
                ranges,
                calls[::step][:SEARCHED_CALLS],
                choices.scheme,
                candidates,
                choices.tolerance,
                partial(advance, name),
            )
            kept |= too_sensitive(errors, choices.tolerance)
        chosen = [layer for layer in candidates if layer not in kept]
        made[name] = write_graph(
            quantised(model, ranges, chosen, choices.scheme),
            folder / f"{name}.int8.onnx",
            entry.inputs,
            entry.outputs,
            "int8",
            kept,
        )
    return made


def judge(bundle: Bundle, precision: str, tiles: Sequence[Tile], threads: int | None = None) -> Agreement:
    """A precision's nuclei against those of float32, on real tiles."""
    reference = findings(Segmenter(bundle, sessions=sessions_of(bundle, "float32", threads)), tiles)
    return agreement(reference, findings(Segmenter(bundle, sessions=sessions_of(bundle, precision, threads)), tiles))


def sessions_of(bundle: Bundle, precision: str, threads: int | None = None) -> Sessions:
    """A precision's networks on ONNX Runtime, half precision rounded as a GPU rounds it."""
    if precision == "float16":
        return rounded_sessions(bundle, threads)
    return open_sessions(bundle, threads=threads, precision=precision, cache=False)


def add_variants(
    bundle: Bundle,
    out: Path,
    precisions: Sequence[Reduced],
    tiles: Sequence[Tile],
    choices: Int8Choices | None = None,
    advance: Advance = lambda *_: None,
    accept: bool = False,
    remedies: Mapping[Reduced, str] = REMEDIES,
) -> Manifest:
    """Add graphs of lower precision to a bundle, once they have shown the nuclei of its float32 graphs.

    Engines that were built of other graphs of such a precision go, with their logs.

    Args:
        bundle: an opened bundle.
        out: folder of the result; the bundle's own, or a new one.
        precisions: which.
        tiles: (H, W, 3) uint8 RGB, on which ranges are measured and the result is judged.
        choices: of 8-bit graphs.
        advance: see :func:`quantise_graphs`.
        accept: keep graphs that fall short of :data:`~pnseg_export.gates.LIMITS`; the figures are in the manifest.
        remedies: precision → what to do where it falls short, in the words of the command that asks for it.

    Raises:
        PnsegError: ``out`` exists and is another folder, or a precision falls short; then nothing is changed.
    """
    feeds = record(bundle, tiles)
    with _workplace(bundle, out) as folder:
        manifest = bundle.manifest.model_copy(update={"format_version": FORMAT_VERSION})
        for precision in precisions:
            if precision == "int8":
                graphs = quantise_graphs(bundle, folder, feeds, choices or Int8Choices(), advance)
            else:
                graphs, highest = halve_graphs(bundle, folder, feeds, advance)
            manifest = _without_stale_engines(folder, manifest, precision, graphs)
            manifest = manifest.model_copy(update={"variants": {**manifest.variants, precision: graphs}})
            write_manifest(folder, manifest)
            agreed = judge(Bundle(folder, manifest), precision, tiles)
            figures: dict[str, Any] = agreed.figures()
            short = shortfalls(agreed, LIMITS[precision])
            if short and not accept:
                remedy = remedies[precision] if can_judge(agreed) else MORE_NUCLEI
                raise PnsegError(
                    f"{precision} graphs of {bundle.manifest.model} against float32: {'; '.join(short)}; {remedy}."
                )
            if precision == "float16":
                figures["largest_values"] = highest
            manifest = manifest.model_copy(update={"parity": {**manifest.parity, precision: figures}})
        write_manifest(folder, manifest)
    return manifest


def _without_stale_engines(
    folder: Path, manifest: Manifest, precision: Reduced, graphs: Mapping[GraphName, GraphFile]
) -> Manifest:
    # An engine is of the graph that the manifest names with it: of another one it would be another model.
    before = {name: _digests(graph) for name, graph in manifest.variants.get(precision, {}).items()}
    changed = {name for name, graph in graphs.items() if before.get(name) != _digests(graph)}
    stale = [engine for engine in manifest.engines if engine.precision == precision and engine.graph in changed]
    for engine in stale:
        (folder / engine.file).unlink()
        (folder / engine.log.file).unlink()
    return manifest.model_copy(update={"engines": [engine for engine in manifest.engines if engine not in stale]})


def _digests(graph: GraphFile) -> list[str]:
    return [part.sha256 for part in (graph, *graph.data)]


@contextmanager
def _workplace(bundle: Bundle, out: Path) -> Iterator[Path]:
    # A copy of the bundle, which becomes ``out`` when all is well.
    same = out.resolve() == bundle.folder.resolve()
    if same and bundle.folder.resolve().is_relative_to(SHIPPED.resolve()):
        raise PnsegError(f"{bundle.folder}: comes with pnseg and is not changed; give a folder with --out.")
    if out.exists() and not same:
        raise PnsegError(f"{out}: exists already; give another --out.")
    with new_folder(out, same, "bundle", is_bundle) as folder:
        shutil.copytree(bundle.folder, folder, ignore=shutil.ignore_patterns(CACHE), dirs_exist_ok=True)
        yield folder
