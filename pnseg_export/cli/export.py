"""``pnseg export``: two checkpoints become a bundle."""

from __future__ import annotations

from pathlib import Path

import click

from pnseg_export.bundle import describe_pair, export_bundle
from pnseg_export.cli.options import precisions_option, tiles_option
from pnseg_export.cli.quantise import describe
from pnseg_export.folders import is_bundle, new_folder
from pnseg_export.graphs.rewrites import TARGETS
from pnseg_export.precision.feeds import read_tiles
from pnseg_export.precision.int8 import SCHEMES
from pnseg_export.precision.variants import Int8Choices, Reduced, add_variants
from pnseg_runtime.bundle import Bundle
from pnseg_train.inference import validation_split

# What to do about a precision that falls short of its gates.
LATER = "or export without --precision {0} and add it by pnseg quantise, which has {1}"
REMEDIES: dict[Reduced, str] = {
    "float16": f"give more --tiles, {LATER.format('float16', '--accept')}",
    "int8": f"give more --tiles, {LATER.format('int8', '--tolerance and --accept')}",
}

EXAMPLES = """
\b
Examples:
  pnseg export runs/nano/prompter/best runs/nano/segmentor/best --out bundles/mine
  pnseg export P S --out bundles/mine --tiles validation/images --validate TNBC
  pnseg export P S --out bundles/mine-gpu --target gpu --precision float16
"""


@click.command(epilog=EXAMPLES)
@click.argument("prompter", type=click.Path(path_type=Path))
@click.argument("segmentor", type=click.Path(path_type=Path))
@click.option("--out", type=click.Path(path_type=Path), required=True, help="Folder of the bundle.")
@click.option("--name", help="Name of the model [default: its size].")
@tiles_option(" on which graphs and PyTorch are compared")
@click.option(
    "--target",
    type=click.Choice(list(TARGETS)),
    default="cpu",
    show_default=True,
    help="Where the graphs are to run: least arithmetic, or fewest kernels; plain leaves the networks as they were "
    "trained. Any runs everywhere, with the same nuclei.",
)
@click.option(
    "--validate",
    "validation",
    type=click.Path(path_type=Path, exists=True, file_okay=False),
    multiple=True,
    help="Annotated data set; the accuracy on its validation images goes into the manifest. May be repeated.",
)
@click.option("--split", help="Of those data sets [default: what the checkpoints' recipes held out].")
@precisions_option("Add graphs of this precision too, as pnseg quantise does")
@click.option("--licence", default="unknown", show_default=True, help="Licence of the weights.")
@click.option("--attribution", multiple=True, help="Whom to name: a data set or pretrained weights; may be repeated.")
@click.option("--overwrite", is_flag=True, help="Replace a bundle that is there, and nothing else.")
def export(
    prompter: Path,
    segmentor: Path,
    out: Path,
    name: str | None,
    tiles: Path,
    target: str,
    validation: tuple[Path, ...],
    split: str | None,
    precisions: tuple[Reduced, ...],
    licence: str,
    attribution: tuple[str, ...],
    overwrite: bool,
) -> None:
    """Turn the checkpoints PROMPTER and SEGMENTOR into a bundle of ONNX graphs.

    The graphs are compared with PyTorch on real tiles; a bundle that differs is not written, nor is one of which a
    --precision falls short of its gates.
    """
    images = read_tiles(tiles)
    first, second, manifest = describe_pair(prompter, segmentor)
    told = {"weights_licence": licence, "attribution": list(attribution), "target": target}
    provenance = manifest.provenance.model_copy(update=told)
    manifest = manifest.model_copy(update={"provenance": provenance, "model": name or manifest.model})
    measured = split or (validation_split(prompter, segmentor) if validation else "")
    with new_folder(out, overwrite, "bundle", is_bundle) as folder:
        manifest = export_bundle(first, second, manifest, folder, images, True, TARGETS[target], validation, measured)
        if precisions:
            choices = Int8Choices(SCHEMES["gpu" if target == "gpu" else "cpu"])
            manifest = add_variants(Bundle.open(folder), folder, precisions, images, choices, remedies=REMEDIES)
    for graph, file in manifest.graphs.items():
        click.echo(f"{graph:9} {file.file:16} {file.bytes / 1e6:6.1f} MB")
    differences = ", ".join(f"{k} {v:.1e}" for k, v in manifest.parity["largest_difference"].items())
    click.echo(f"largest difference from PyTorch on {len(images)} tiles: {differences}")
    for precision in precisions:
        describe(manifest, precision)
    click.echo(f"{out}: {sum(file.bytes for file in manifest.files()) / 1e6:.1f} MB")
