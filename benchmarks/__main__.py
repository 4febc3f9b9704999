"""``python -m benchmarks``: each measurement is a verb that is imported when it is run."""

from __future__ import annotations

from importlib import import_module
from typing import Any

import click

from pnseg_runtime.errors import PnsegError

# Verb → the module that holds its command under the same name, and its line of help.
VERBS = {
    "table5": "The paper's Table 5 on this machine: parameters, MACs and FPS beside its rivals'.",
    "table1": "bPQ and mPQ on PanNuke, beside the paper's.",
    "table4": "AJI and PQ on Kumar and CPM-17, beside the paper's.",
    "table6": "What each of the method's ideas adds, beside the paper's.",
    "table7": "Negative prompts in training and testing, with predicted and with true points.",
    "table8": "Classes told by the prompter or by the segmentor, beside the paper's.",
    "compare": "Two machines or two versions: how much faster is the second?",
    "merge": "Join what was measured in several goes on one machine.",
    "report": "Plots and pages of measurements.",
    "roofline": "The least time on cards that are not at hand: modelled, not measured.",
    "guard": "Counts that must not get worse: MACs, nodes, bytes, calls, registers.",
    "ablation": "The paper's ablations (Tables 6 and 7) at nano scale, trained and evaluated.",
    "latency": "Pixels to instance map, against two plain pipelines on the same weights.",
    "macs": "Multiply-accumulates of the exported networks, against the plain ones.",
    "rewrites": "Time of the exact rewrites against the plain networks on this machine.",
    "engines": "Build engines of a size with random weights: time, size, census.",
}


#: Package → the extra that brings it.
EXTRAS = {"matplotlib": "bench", "psutil": "bench", "torch": "train", "timm": "train", "onnx": "export"}


class Verbs(click.Group):
    """The group; listing its verbs imports none."""

    def list_commands(self, ctx: click.Context) -> list[str]:
        return list(VERBS)

    def get_command(self, ctx: click.Context, cmd_name: str) -> click.Command | None:
        if cmd_name not in VERBS:
            return None
        try:
            command: click.Command = getattr(import_module(f"benchmarks.{cmd_name}"), cmd_name)
        except ModuleNotFoundError as error:
            extra = EXTRAS.get(error.name or "", "train,export,bench")
            raise click.ClickException(f"{cmd_name} needs {error.name}; run: pip install '.[{extra}]'") from error
        return command

    def invoke(self, ctx: click.Context) -> Any:
        try:
            return super().invoke(ctx)
        except PnsegError as error:
            raise click.ClickException(str(error)) from error
        except KeyboardInterrupt:
            click.echo("Interrupted.", err=True)
            ctx.exit(130)

    def format_commands(self, ctx: click.Context, formatter: click.HelpFormatter) -> None:
        with formatter.section("Commands"):
            formatter.write_dl(list(VERBS.items()))


@click.group(cls=Verbs)
def main() -> None:
    """Measure pnseg's networks."""


if __name__ == "__main__":
    main(prog_name="python -m benchmarks")
