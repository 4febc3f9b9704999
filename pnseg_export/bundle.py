"""Checkpoints → bundle: three graphs, one manifest, checked on real tiles before anything is kept."""

from __future__ import annotations

from collections.abc import Sequence
from importlib.metadata import version
from pathlib import Path
from typing import Any

import torch

from pnseg_export.accuracy import accuracy, check_validation
from pnseg_export.folders import is_bundle, new_folder, write_manifest
from pnseg_export.graphs.decoder import DecoderGraph
from pnseg_export.graphs.encoder import EncoderGraph
from pnseg_export.graphs.prompter import PrompterGraph
from pnseg_export.graphs.rewrites import CPU, Rewrites
from pnseg_export.onnx import export_graph
from pnseg_export.parity import LEAST_PQ, TOLERANCE, Tile, agreement, largest, overall_pq, tensor_differences
from pnseg_runtime.bundle import Bundle, GraphFile, GraphName, Manifest, Provenance
from pnseg_runtime.errors import PnsegError
from pnseg_runtime.segmenter import Segmenter
from pnseg_runtime.sessions import open_sessions
from pnseg_train.checkpoints import read_card, weights_digest
from pnseg_train.inference import load_pair, torch_sessions
from pnseg_train.manifests import manifest_of
from pnseg_train.models.prompter import Prompter
from pnseg_train.models.segmentor import WINDOW, Segmentor
from pnseg_train.models.sizes import SEGMENTOR_SIZES, VitSize

TOOLS = ("torch", "onnx", "onnxscript", "onnxruntime", "segment-anything", "timm")


def describe_pair(prompter: Path, segmentor: Path) -> tuple[Prompter, Segmentor, Manifest]:
    """The two trained networks and a manifest that has no graphs yet.

    Raises:
        PnsegError: a folder that is not such a checkpoint, or a prompter that reads a SAM's image encoder.
    """
    first, second, recipe = load_pair(prompter, segmentor)
    own = read_card(prompter).recipe
    if own.shared_encoder and isinstance(SEGMENTOR_SIZES[own.size], VitSize):
        raise PnsegError(
            f"{prompter}: reads the image encoder of a segmentor of size {own.size}, which has no graph for images of "
            "any size; measure the pair as checkpoints (pnseg evaluate), or train a prompter of its own."
        )
    provenance = Provenance(
        checkpoints={"prompter": weights_digest(prompter), "segmentor": weights_digest(segmentor)},
        tools={tool: version(tool) for tool in TOOLS},
        data_licences=sorted({*read_card(prompter).licences, *read_card(segmentor).licences}),
    )
    return first, second, manifest_of(recipe).model_copy(update={"provenance": provenance})


def export_graphs(
    prompter: Prompter, segmentor: Segmentor, folder: Path, rewrites: Rewrites = CPU
) -> dict[GraphName, GraphFile]:
    """Write the three ONNX files into ``folder``."""
    return {"prompter": export_prompter(prompter, folder, rewrites), **export_segmentor(segmentor, folder, rewrites)}


def export_prompter(prompter: Prompter, folder: Path, rewrites: Rewrites = CPU) -> GraphFile:
    """Write ``prompter.onnx`` into ``folder``."""
    image = torch.rand(2, 3, WINDOW, WINDOW + 64, generator=torch.Generator().manual_seed(0))
    return export_graph(PrompterGraph(prompter, rewrites), (image,), folder / "prompter.onnx")


def export_segmentor(segmentor: Segmentor, folder: Path, rewrites: Rewrites = CPU) -> dict[GraphName, GraphFile]:
    """Write ``encoder.onnx`` and ``decoder.onnx`` into ``folder``."""
    generator = torch.Generator().manual_seed(0)
    windows = torch.rand(2, 3, WINDOW, WINDOW, generator=generator)
    encoder, decoder = EncoderGraph(segmentor, rewrites), DecoderGraph(segmentor, rewrites)
    with torch.no_grad():
        features = encoder(windows)
    coords = WINDOW * torch.rand(5, 2, 2, generator=generator)
    prompts = (coords, torch.tensor([[1.0, 0.0]]).repeat(5, 1), torch.tensor([0, 0, 1, 1, 1]))
    return {
        "encoder": export_graph(encoder, (windows,), folder / "encoder.onnx"),
        "decoder": export_graph(decoder, (*features, *prompts), folder / "decoder.onnx"),
    }


def export_bundle(
    prompter: Prompter,
    segmentor: Segmentor,
    manifest: Manifest,
    out: Path,
    tiles: Sequence[Tile],
    overwrite: bool = False,
    rewrites: Rewrites = CPU,
    validation: Sequence[Path] = (),
    split: str = "val",
) -> Manifest:
    """Export a pair of networks, check the graphs against them, and only then put the bundle at ``out``.

    Args:
        tiles: real images, (H, W, 3) uint8 RGB.
        overwrite: replace a bundle that is there, or an empty folder.
        rewrites: how the networks are to be computed.
        validation: annotated data sets; the accuracy on images of theirs goes into the manifest.
        split: which images; the networks must not have been trained on them.

    Returns:
        the manifest as written.

    Raises:
        PnsegError: ``out`` exists and is not replaced, data sets are not there or have one name, a graph differs from
            its network by more than the tolerance, or the nuclei of both differ.
    """
    check_validation(validation, split)
    with new_folder(out, overwrite, "bundle", is_bundle) as folder:
        manifest = manifest.model_copy(update={"graphs": export_graphs(prompter, segmentor, folder, rewrites)})
        write_manifest(folder, manifest)
        manifest = manifest.model_copy(update={"parity": check(folder, prompter, segmentor, tiles)})
        manifest = manifest.model_copy(update={"accuracy": accuracy(folder, validation, split)})
        write_manifest(folder, manifest)
    return manifest


def check(folder: Path, prompter: Prompter, segmentor: Segmentor, tiles: Sequence[Tile]) -> dict[str, Any]:
    """Largest differences from PyTorch over the tiles, for the manifest.

    Raises:
        PnsegError: a difference above :data:`pnseg_export.parity.TOLERANCE`, or other nuclei than PyTorch's.
    """
    bundle = Bundle.open(folder)
    sessions = open_sessions(bundle, cache=False)
    candidate = Segmenter(bundle, sessions=sessions)
    reference = Segmenter(bundle, sessions=torch_sessions(prompter, segmentor))
    differences, agreed = [], []
    for tile in tiles:
        given = candidate.predict(tile)
        differences.append(tensor_differences(sessions, bundle.manifest, prompter, segmentor, tile, given.points))
        agreed.append(agreement(reference.predict(tile), given))
    found = largest(differences)
    for name, limit in TOLERANCE.items():
        if not found.get(name, 0.0) <= limit:  # nor is NaN
            raise PnsegError(
                f"{name} of the exported graph differs from PyTorch by {found[name]:.2g}, allowed is {limit:g}."
            )
    if not (quality := overall_pq(agreed)) >= LEAST_PQ:
        raise PnsegError(
            f"The nuclei of the exported graphs have a PQ of {quality:.4f} against PyTorch's, "
            f"at least {LEAST_PQ:g} is needed."
        )
    return {
        "tiles": len(tiles),
        "largest_difference": found,
        "nuclei_pytorch": sum(int(row["nuclei_reference"]) for row in agreed),
        "nuclei_graphs": sum(int(row["nuclei"]) for row in agreed),
        "pq_against_pytorch": min((row["pq"] for row in agreed), default=1.0),
    }
