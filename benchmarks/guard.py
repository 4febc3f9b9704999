"""A change that makes any figure worse fails with the figure; ``--accept`` takes the new one on purpose."""

from __future__ import annotations

import json
import sys
from pathlib import Path

import click

from benchmarks.guarded import GROUPS, Figures, compare
from pnseg_runtime.errors import PnsegError

ACCEPTED = Path(__file__).parent / "guard.json"

EXAMPLES = """
\b
Examples:
  python -m benchmarks guard                        # what the tests run
  python -m benchmarks guard --accept nano tile     # after another nano was put in
  python -m benchmarks guard --accept all
"""


def read_accepted(path: Path = ACCEPTED) -> dict[str, Figures]:
    """Group → the figures that were accepted; empty where there is no file yet.

    Raises:
        PnsegError: a file that is none of these.
    """
    if not path.is_file():
        return {}
    try:
        document = json.loads(path.read_text(encoding="utf-8"))
        return {group: {name: int(value) for name, value in figures.items()} for group, figures in document.items()}
    except (ValueError, AttributeError, TypeError) as error:
        raise PnsegError(f"{path}: not a file of figures ({error}); restore it from the history.") from error


def accept(groups: tuple[str, ...], path: Path = ACCEPTED) -> dict[str, Figures]:
    """Measure the groups and keep their figures; the others stay as they are.

    Raises:
        PnsegError: there is no such group.
    """
    chosen = tuple(GROUPS) if "all" in groups else groups
    if unknown := sorted(set(chosen) - set(GROUPS)):
        raise PnsegError(f"{', '.join(unknown)}: no such group of figures; choose of {', '.join(GROUPS)}, or all.")
    kept = read_accepted(path) | {group: GROUPS[group]() for group in chosen}
    path.write_text(json.dumps({group: kept[group] for group in GROUPS if group in kept}, indent=1) + "\n", "utf-8")
    return kept


def failures(path: Path = ACCEPTED) -> tuple[list[str], list[str]]:
    """Sentences about figures that are worse or unknown, and about those that are better."""
    accepted = read_accepted(path)
    changes = [change for group, measure in GROUPS.items() for change in compare(accepted.get(group, {}), measure())]
    return [text for kind, text in changes if kind != "better"], [text for kind, text in changes if kind == "better"]


@click.command(epilog=EXAMPLES)
@click.option("--accept", "accepting", is_flag=True, help="Take the figures of the named groups as they are now.")
@click.argument("groups", nargs=-1)
def guard(accepting: bool, groups: tuple[str, ...]) -> None:
    """Hold multiply-accumulates, parameters, nodes, bytes, calls and registers against those accepted before.

    None of them depends on the machine. GROUPS are nano (the shipped bundle), tile (calls and bytes
    of a tile), B, L, H, two blocks (nodes of a small SAM) and kernels (CUDA), or all.
    """
    if accepting:
        accept(groups or ("all",))
        click.echo(
            f"Accepted in {ACCEPTED.relative_to(Path.cwd()) if ACCEPTED.is_relative_to(Path.cwd()) else ACCEPTED}."
        )
        return
    worse, better = failures()
    for text in better:
        click.echo(f"better  {text}")
    for text in worse:
        click.echo(f"WORSE   {text}", err=True)
    if worse:
        click.echo("If it must be so: python -m benchmarks guard --accept GROUP, and say why in the commit.", err=True)
        sys.exit(1)
    click.echo("No figure is worse than accepted." + (" Accept the better ones." if better else ""))
