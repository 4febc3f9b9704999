"""``pnseg average``: several steps of a run become one checkpoint."""

from __future__ import annotations

from pathlib import Path

import click

from pnseg_train.average import average

EXAMPLES = """
\b
Examples:
  pnseg average runs/nano/segmentor/best runs/nano/segmentor/last --out runs/nano/segmentor/mean
"""


@click.command("average", epilog=EXAMPLES)
@click.argument("checkpoints", nargs=-1, required=True, type=click.Path(path_type=Path))
@click.option(
    "--out", required=True, type=click.Path(file_okay=False, path_type=Path), help="Folder of the new checkpoint."
)
def average_(checkpoints: tuple[Path, ...], out: Path) -> None:
    """Write the checkpoint whose weights are the mean of those of CHECKPOINTS, steps of one run.

    Measure it with pnseg evaluate before it is taken: as a rule it is better than each, but not always.
    """
    average(checkpoints, out)
    click.echo(out)
