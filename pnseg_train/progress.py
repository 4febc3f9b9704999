"""How a training shows where it is: a progress bar or lines of the log, and TensorBoard."""

from __future__ import annotations

import logging
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING, Any

from lightning_fabric import Fabric
from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn

from pnseg_train.recipes import Plan

if TYPE_CHECKING:
    from torch.utils.tensorboard import SummaryWriter

log = logging.getLogger(__name__)
BOARD = "tensorboard"


class Display:
    """A progress bar on a terminal, a log line now and then elsewhere; entered, it takes every step and its losses."""

    def __init__(self, fabric: Fabric, plan: Plan):
        columns = (TextColumn("{task.description}"), BarColumn(), MofNCompleteColumn(), TimeRemainingColumn())
        console = Console(stderr=True)
        self.bar = Progress(*columns, console=console, disable=not (fabric.is_global_zero and console.is_terminal))
        self.plan = plan

    def __enter__(self) -> Callable[[int, dict[str, float]], None]:
        self.bar.start()
        shown = self.bar.add_task("training", total=self.plan.steps)

        def advance(step: int, losses: dict[str, float]) -> None:
            self.bar.update(shown, completed=step, description=f"loss {losses['loss']:.3f}")
            if self.bar.disable and step % 50 == 0:
                log.info("step %d/%d: %s", step, self.plan.steps, ", ".join(f"{k} {v:.4f}" for k, v in losses.items()))

        return advance

    def __exit__(self, *_: object) -> None:
        self.bar.stop()


def open_board(run: Path, step: int) -> SummaryWriter:
    """A TensorBoard log of the run that goes on behind ``step``; what an earlier process logged later is dropped."""
    from torch.utils.tensorboard import SummaryWriter

    return SummaryWriter(run / BOARD, purge_step=step + 1, flush_secs=30)


def show(board: SummaryWriter, record: dict[str, Any]) -> None:
    """Add a step's record, as it stands in ``metrics.jsonl``, to a TensorBoard log."""
    for name, value in record.items():
        if name.startswith("val_"):
            board.add_scalar(f"validation/{name.removeprefix('val_')}", value, record["step"])
        elif name != "step":
            board.add_scalar(name if name == "lr" else f"loss/{name}", value, record["step"])
