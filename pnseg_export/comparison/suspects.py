"""The first layer that departs in each graph of a bundle, against its float32 graphs or a checkpoint."""

from __future__ import annotations

import tempfile
from collections.abc import Sequence
from pathlib import Path
from typing import get_args

import onnx

from pnseg_export.agreement import Tile
from pnseg_export.comparison.bisect import TOLERANCE, bisect
from pnseg_export.files import read_graph
from pnseg_export.graphs.encoder import feature_tensors
from pnseg_export.graphs.rewrites import TARGETS, Rewrites
from pnseg_export.precision.feeds import Feeds, record
from pnseg_export.precision.rounded import rounded
from pnseg_runtime.bundle import Bundle, GraphName
from pnseg_runtime.errors import PnsegError
from pnseg_train.inference import load_pair
from pnseg_train.models.segmentor import Segmentor

CALLS = 2  # of each network


def suspects(bundle: Bundle, tiles: Sequence[Tile], reference: tuple[Path, Path] | None = None) -> list[str]:
    """One sentence a graph whose layers depart.

    Args:
        bundle: an opened bundle.
        tiles: real inputs.
        reference: checkpoints of prompter and segmentor, exported anew to compare the float32 graphs with.
    """
    feeds = record(bundle, tiles[:CALLS])
    said = []
    for precision in bundle.manifest.variants:
        for name in get_args(GraphName):
            candidate = read_graph(bundle.path(name, precision))
            candidate = rounded(candidate) if precision == "float16" else candidate
            said += _sentence(bundle, name, precision, feeds, read_graph(bundle.path(name)), candidate)
    if reference is not None:
        with tempfile.TemporaryDirectory() as scratch:
            for name, path in export_again(bundle, reference, Path(scratch)).items():
                candidate = read_graph(bundle.path(name))
                said += _sentence(bundle, name, "float32", feeds, read_graph(path), candidate)
    return said


def _sentence(
    bundle: Bundle, name: str, precision: str, feeds: Feeds, reference: onnx.ModelProto, candidate: onnx.ModelProto
) -> list[str]:
    found = bisect(reference, candidate, feeds.of(name)[:CALLS], TOLERANCE[precision])
    return [] if found is None else [f"{bundle.path(name, precision).name}: {found}."]


def export_again(bundle: Bundle, reference: tuple[Path, Path], folder: Path) -> dict[GraphName, Path]:
    """The checkpoints as float32 graphs with the bundle's own rewrites."""
    from pnseg_export.bundle import export_graphs

    prompter, segmentor, _ = load_pair(*reference)
    graphs = export_graphs(prompter, segmentor, folder, rewrites_of(bundle, segmentor))
    return {name: folder / graphs[name].file for name in get_args(GraphName)}


def rewrites_of(bundle: Bundle, segmentor: Segmentor) -> Rewrites:
    """The rewrites of a bundle, as its manifest has them, or, of an older one, those that give its encoder's outputs.

    Raises:
        PnsegError: none does.
    """
    if (target := bundle.manifest.provenance.target) in TARGETS:
        return TARGETS[target]
    given = bundle.graph("encoder").outputs
    for rewrites in TARGETS.values():
        if feature_tensors(segmentor, rewrites) == given:
            return rewrites
    raise PnsegError(f"{bundle.folder}: not an export of this checkpoint; name the checkpoints it was made from.")
