"""``pnseg info``: what a bundle holds."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Any

import click

from pnseg_runtime.bundle import Bundle, Manifest

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
    yield "negative prompts", str(prompting.negatives)
    yield "windows", f"{masking.window} px, overlap {masking.overlap} px"
    for part, graph in manifest.graphs.items():
        yield f"graph {part}", f"{graph.file}, {graph.precision}, {graph.bytes / 1e6:.1f} MB"
    yield "all graphs", f"{sum(graph.bytes for graph in manifest.graphs.values()) / 1e6:.1f} MB"
    yield "licence of weights", origin.weights_licence
    yield "licences of data", ", ".join(origin.data_licences) or "unknown"
    for source in origin.attribution:
        yield "attribution", source
    for title, figures in (("accuracy", manifest.accuracy), ("parity", manifest.parity), ("made with", origin.tools)):
        for name, value in flatten(figures):
            yield f"{title} {name}", value


def flatten(figures: Mapping[str, Any], prefix: str = "") -> Iterator[tuple[str, str]]:
    """Nested figures → dotted name and printable value."""
    for name, value in figures.items():
        if isinstance(value, Mapping):
            yield from flatten(value, f"{prefix}{name}.")
        else:
            yield f"{prefix}{name}", f"{value:.4g}" if isinstance(value, float) else str(value)
