"""PromptNucSeg as it is measured: networks with random weights or a bundle, by every engine at hand."""

from __future__ import annotations

import shutil
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import torch

from benchmarks.counts import Counts, count
from benchmarks.networks import LEVELS, SPACING, random_pair
from benchmarks.tiles import SIDE, TYPICAL, make_tile
from pnseg_export.bundle import export_graphs
from pnseg_export.folders import write_manifest
from pnseg_export.graphs.decoder import DecoderGraph
from pnseg_export.graphs.encoder import EncoderGraph
from pnseg_export.graphs.rewrites import PLAIN, TARGETS
from pnseg_export.macs import file_cost
from pnseg_export.precision.feeds import record
from pnseg_export.precision.variants import Int8Choices, quantise_graphs
from pnseg_runtime.bundle import MANIFEST_NAME, Bundle, Classes, GraphName, Manifest, Masking, Prompting
from pnseg_train.models.prompter import Prompter
from pnseg_train.models.segmentor import Segmentor

#: K of the paper; each nucleus is decoded with its negative prompt and again without.
NEGATIVES = 1
NANO = "nano"
NAMES = ("neoplastic", "inflammatory", "connective", "dead", "epithelial")


def manifest_for(size: str, **changes: Any) -> Manifest:
    """What the runtime must know of a size as it is configured for PanNuke.

    λ 8, L 3, five classes, points 12 px apart, no mask-aided filtering, K = 1.
    """
    return Manifest(
        model=size,
        mpp=0.25,
        classes=Classes(names=list(NAMES), colors=[(0, 0, 0)] * len(NAMES)),
        prompting=Prompting(
            anchor_spacing=SPACING,
            levels=LEVELS,
            pad_multiple=SPACING,
            nms_radius=12,
            region_filter=False,
            negatives=NEGATIVES,
        ),
        masking=Masking(),
        **{"graphs": {}, **changes},
    )


def random_bundle(size: str, folder: Path, target: str = "cpu") -> Bundle:
    """A bundle of a size with random weights in ``folder``; one that is there already is taken as it is."""
    if not (folder / MANIFEST_NAME).is_file():
        folder.mkdir(parents=True, exist_ok=True)
        graphs = export_graphs(*random_pair(size), folder, TARGETS[target])
        write_manifest(folder, manifest_for(size, graphs=graphs))
    return Bundle.open(folder)


def copied_bundle(bundle: Bundle, folder: Path) -> Bundle:
    """A copy in ``folder``, to which graphs may be added; one of other graphs makes way."""
    if not (folder / MANIFEST_NAME).is_file() or Bundle.open(folder).manifest.graphs != bundle.manifest.graphs:
        draft = folder.with_name(f"{folder.name}.part")  # so that one that is interrupted is not taken for a bundle
        for old in (draft, folder):
            shutil.rmtree(old, ignore_errors=True)
        shutil.copytree(bundle.folder, draft, ignore=shutil.ignore_patterns(".cache"))
        draft.rename(folder)
    return Bundle.open(folder)


def with_int8(bundle: Bundle) -> Bundle:
    """The same bundle with 8-bit graphs, made where it lacks them of every layer: good for timing only."""
    if "int8" in bundle.manifest.precisions:
        return bundle
    feeds = record(bundle, [make_tile(TYPICAL).image])
    graphs = quantise_graphs(bundle, bundle.folder, feeds, Int8Choices(search=False))
    variants = {**bundle.manifest.variants, "int8": graphs}
    write_manifest(bundle.folder, bundle.manifest.model_copy(update={"variants": variants}))
    return Bundle.open(bundle.folder)


def own_manifest(size: str) -> Manifest:
    """What the runtime knows of a size: nano's shipped bundle, or a size as it is configured for PanNuke."""
    return Bundle.open(NANO).manifest if size == NANO else manifest_for(size)


def own_pair(size: str, device: str = "cpu") -> tuple[Prompter, Segmentor]:
    """Both networks with random weights, as :func:`own_manifest` has them."""
    manifest = own_manifest(size)
    prompting, classes = manifest.prompting, len(manifest.classes.names)
    return random_pair(size, device, levels=prompting.levels, spacing=prompting.anchor_spacing, classes=classes)


def passes(manifest: Manifest) -> tuple[int, ...]:
    """Points of a prompt in each pass of the decoder: a nucleus with its K negatives, and again without."""
    negatives = manifest.prompting.negatives
    return (1 + negatives, 1) if negatives else (1,)


def plain_counts(size: str, nuclei: int, points: Sequence[int]) -> Counts:
    """Counts of the networks as they are published, for a tile of so many nuclei.

    Args:
        points: of each prompt, one entry a pass of the decoder. Without a nucleus nothing but the prompter runs.
    """
    prompter, segmentor = own_pair(size, "meta")
    encoder, decoder = EncoderGraph(segmentor, PLAIN), DecoderGraph(segmentor, PLAIN)
    with torch.device("meta"):
        image = torch.empty(1, 3, SIDE, SIDE)
        prompts = [
            (torch.empty(nuclei, each, 2), torch.empty(nuclei, each), torch.empty(nuclei, dtype=torch.int64))
            for each in (points if nuclei else ())
        ]

    def segment() -> None:
        features = encoder(image) if prompts else ()
        for each in prompts:
            decoder(*features, *each)

    return count(prompter, lambda: prompter(image)) + count(segmentor, segment)


def exported_macs(bundle: Bundle, nuclei: int, points: Sequence[int]) -> int:
    """The same of a bundle's float32 graphs, multiply-accumulates alone."""
    image = {"batch": 1, "height": SIDE, "width": SIDE}
    calls: list[tuple[GraphName, dict[str, int]]] = [("prompter", image)]
    if nuclei:
        calls.append(("encoder", image))
        calls += [("decoder", image | {"prompts": nuclei, "points": each}) for each in points]
    return sum(file_cost(bundle.path(graph), sizes).macs for graph, sizes in calls)
