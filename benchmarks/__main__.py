"""``python -m benchmarks``: each measurement is a verb that is imported when it is run."""

from __future__ import annotations

from importlib import import_module

import click

# Verb → the module that holds its command under the same name, and its line of help.
VERBS = {
    "macs": "Multiply-accumulates of the exported networks, against the plain ones.",
    "rewrites": "Time of the exact rewrites against the plain networks on this machine.",
    "engines": "Build engines of a size with random weights: time, size, census.",
}


class Verbs(click.Group):
    """The group; listing its verbs imports none."""

    def list_commands(self, ctx: click.Context) -> list[str]:
        return list(VERBS)

    def get_command(self, ctx: click.Context, cmd_name: str) -> click.Command | None:
        if cmd_name not in VERBS:
            return None
        command: click.Command = getattr(import_module(f"benchmarks.{cmd_name}"), cmd_name)
        return command

    def format_commands(self, ctx: click.Context, formatter: click.HelpFormatter) -> None:
        with formatter.section("Commands"):
            formatter.write_dl(list(VERBS.items()))


@click.group(cls=Verbs)
def main() -> None:
    """Measure pnseg's networks."""


if __name__ == "__main__":
    main(prog_name="python -m benchmarks")
