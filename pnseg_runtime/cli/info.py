"""``pnseg info``: what a bundle holds."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Any

import click

from pnseg_runtime.bundle import Bundle, Manifest, Masking

EXAMPLES = """
\b
Examples:
  pnseg info nano
  pnseg info bundles/mine
"""


@click.command(epilog=EXAMPLES)
@click.argument("bundle")
def info(bundle: str) -> None:
    """Show what a bundle holds and where it comes from.

    BUNDLE is a shipped bundle's name (nano) or a bundle's folder. Its files are checked against the
    manifest first.
    """
    opened = Bundle.open(bundle)
    rows = [("folder", str(opened.folder)), *describe(opened.manifest)]
    width = max(len(name) for name, _ in rows)
    for name, value in rows:
        click.echo(f"{name:<{width}}  {value}")


def describe(manifest: Manifest) -> Iterator[tuple[str, str]]:
    """Name and value of everything a user may want to know about a model, in reading order."""
    prompting, masking, origin = manifest.prompting, manifest.masking, manifest.provenance
    yield "model", manifest.model
    yield "microns per pixel", f"{manifest.mpp:g}"
    yield "of files that state none", manifest.unknown_mpp
    yield "classes", ", ".join(manifest.classes.names)
    yield "anchor spacing", f"{prompting.anchor_spacing} px"
    yield "point NMS radius", f"{prompting.nms_radius:g} px"
    yield "mask-aided filtering", "on" if prompting.region_filter else "off"
    yield "sensitivity", f"{prompting.sensitivity:g}"
    yield "negative prompts", str(prompting.negatives)
    yield "windows", f"{masking.window} px, overlap {masking.overlap} px"
    yield "mask NMS", _nms(masking)
    yield "colour blur", f"{manifest.colour_blur:g} px"
    yield "enlarged blur", "brightness {:g} px, colour {:g} px".format(*manifest.enlarged_blur)
    precisions = (manifest.graphs, *manifest.variants.values())  # of which one may keep another's graph as it is
    files = {graph.file: (part, graph) for graphs in precisions for part, graph in graphs.items()}
    sizes = {file: sum(each.bytes for each in (graph, *graph.data)) for file, (_, graph) in files.items()}
    for file, (part, graph) in files.items():
        yield f"graph {part}", f"{file}, {graph.precision}, {sizes[file] / 1e6:.1f} MB"
    yield "all graphs", f"{sum(sizes.values()) / 1e6:.1f} MB"
    for engine in manifest.engines:
        yield f"engine {engine.graph}", f"{engine.file}, {engine.precision}, {engine.bytes / 1e6:.1f} MB"
    yield "licence of weights", origin.weights_licence
    yield "licences of data", ", ".join(origin.data_licences) or "unknown"
    for source in origin.attribution:
        yield "attribution", source
    for title, figures in (("accuracy", manifest.accuracy), ("parity", manifest.parity), ("made with", origin.tools)):
        for name, value in flatten(figures):
            yield f"{title} {name}", value


def _nms(masking: Masking) -> str:
    if masking.nms_overlap is None:
        return f"boxes with an IoU over {masking.nms_iou:g}"
    return f"masks that share more than {masking.nms_overlap:.0%} of the smaller one"


def flatten(figures: Mapping[str, Any], prefix: str = "") -> Iterator[tuple[str, str]]:
    """Nested figures → dotted name and printable value."""
    for name, value in figures.items():
        if isinstance(value, Mapping):
            yield from flatten(value, f"{prefix}{name}.")
        else:
            yield f"{prefix}{name}", f"{value:.4g}" if isinstance(value, float) else str(value)
