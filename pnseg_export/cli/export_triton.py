"""``pnseg export-triton``: a model repository for NVIDIA Triton Inference Server."""

from __future__ import annotations

from pathlib import Path
from typing import Literal

import click

from pnseg_export.triton.repository import export_triton as write_repository
from pnseg_runtime.bundle import GRAPH_PRECISIONS, Bundle

EXAMPLES = """
\b
Examples:
  pnseg export-triton nano triton/models
  tritonserver --model-repository triton/models
"""


@click.command(name="export-triton", epilog=EXAMPLES)
@click.argument("bundle")
@click.argument("out", type=click.Path(path_type=Path))
@click.option(
    "--backend",
    type=click.Choice(["onnxruntime", "tensorrt"]),
    default="onnxruntime",
    show_default=True,
    help="Of the networks; tensorrt needs engines of classic TensorRT in the bundle.",
)
@click.option(
    "--precision",
    type=click.Choice(GRAPH_PRECISIONS),
    default="float32",
    show_default=True,
    help="Of the graphs or engines.",
)
@click.option("--overwrite", is_flag=True, help="Replace a repository of one bundle that is there, and nothing else.")
def export_triton(
    bundle: str, out: Path, backend: Literal["onnxruntime", "tensorrt"], precision: str, overwrite: bool
) -> None:
    """Write BUNDLE as a model repository into the folder OUT.

    Four models: prompter and encoder (with dynamic batching), decoder, and the pipeline, which takes a
    uint8 image (H, W, 3) and gives its label map, points, classes, scores, predicted IoU and boxes. The
    server's Python needs pnseg: pip install pnseg.
    """
    for name in write_repository(Bundle.open(bundle), out, backend, precision, overwrite):
        click.echo(f"{out / name}")
