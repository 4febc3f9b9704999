"""``pnseg import``: published checkpoints become native ones."""

from __future__ import annotations

from pathlib import Path

import click
from rich.console import Console
from rich.table import Table

from pnseg_runtime.errors import PnsegError
from pnseg_train.checkpoints import CARD, save_checkpoint
from pnseg_train.cli.options import assignment
from pnseg_train.published import NONE, MisfitError, fill, read_state, recipe_of, recognise

SHOWN = 40  # rows of the table of what does not fit

EXAMPLES = """
\b
Examples:
  pnseg import sam_vit_b_01ec64.pth --out checkpoints/sam_b
  pnseg import prompter_pannuke123.pth --out checkpoints/prompter
  pnseg import prompter_cpm17.pth --recipe cpm17 --out checkpoints/cpm17
  pnseg import segmentor_h.pth --out checkpoints/segmentor --set inference.negatives=0
  pnseg import segmentor_kumar.pth --recipe kumar --out checkpoints/kumar_segmentor
"""


@click.command("import", epilog=EXAMPLES)
@click.argument("file", type=click.Path(path_type=Path, exists=True, dir_okay=False))
@click.option("--out", type=click.Path(path_type=Path, file_okay=False), required=True, help="The new checkpoint.")
@click.option("--recipe", help="What the weights were trained by [default: guessed from the tensors' shapes].")
@click.option(
    "--set", "overrides", multiple=True, metavar="FIELD=VALUE", help="Override a field of the recipe; may be repeated."
)
@click.option("--overwrite", is_flag=True, help="Replace a checkpoint that is there.")
def import_(file: Path, out: Path, recipe: str | None, overrides: tuple[str, ...], overwrite: bool) -> None:
    """Bring in a published checkpoint: the authors' prompter or segmentor, or Meta's SAM.

    FILE is recognised by its tensors. Every tensor has to find its place; nothing is unpickled
    but tensors.
    """
    if (out / CARD).exists() and not overwrite:
        raise PnsegError(f"{out}: holds a checkpoint already; give another --out, or --overwrite.")
    state = read_state(file)
    kind = recognise(file, state)
    try:
        chosen = recipe_of(kind, state, recipe, dict(assignment(text) for text in overrides))
    except PnsegError as error:
        raise PnsegError(f"{file}: {error}") from error
    try:
        network, card = fill(file, kind, state, chosen)
    except MisfitError as error:
        print_misfits(error)
        raise
    save_checkpoint(out, network, card)
    number = sum(parameter.numel() for parameter in network.parameters()) / 1e6
    said = f"λ {chosen.prompter.spacing}, L {chosen.prompter.levels}, classes {', '.join(chosen.classes)}"
    click.echo(f"{out}: {kind.title}, size {chosen.size}, {number:.1f} M parameters, {len(state)} tensors")
    if kind.network == "prompter":
        guess = "" if recipe else "; λ stands in no tensor: it follows from L as in the paper, --recipe chooses another"
        click.echo(f"  {said}{guess}")
    else:
        masks = chosen.inference
        guess = "" if recipe else "; these stand in no tensor: they are PanNuke's, --recipe and --set choose others"
        click.echo(f"  K {masks.negatives}, mask NMS {masks.nms_iou:g}, overlap {masks.overlap} px{guess}")


def print_misfits(error: MisfitError) -> None:
    """The tensors that do not fit, on standard error."""
    table = Table("tensor", "in the file", "in the network", box=None)
    for name, given, wanted in error.rows[:SHOWN]:
        table.add_row(name, given if given != NONE else "missing", wanted if wanted != NONE else "unexpected")
    console = Console(stderr=True, highlight=False, markup=False, emoji=False)
    console.width = max(console.width, 120)
    console.print(table)
    if len(error.rows) > SHOWN:
        console.print(f"… and {len(error.rows) - SHOWN} more")
