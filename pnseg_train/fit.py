"""The training loop: seeded by step, so that a run that stops goes on exactly where it was."""

from __future__ import annotations

import logging
import math
import time
from collections.abc import Callable
from contextlib import nullcontext
from pathlib import Path
from typing import Any

import torch
from lightning_fabric import Fabric
from torch import Tensor, nn
from torch.optim.swa_utils import AveragedModel, get_ema_multi_avg_fn

from pnseg_runtime.errors import PnsegError
from pnseg_train.checkpoints import Card, read_card, replace_recipe, save_checkpoint
from pnseg_train.crops import Crop, Crops, item_seed, loader
from pnseg_train.datasets import Sample
from pnseg_train.progress import Display, open_board, show
from pnseg_train.recipes import Plan
from pnseg_train.run_folder import (
    METRICS,
    STATE,
    RunState,
    append,
    compare_like_with_like,
    forget_after,
    one_sentence,
    origin_of,
    refuse_lost_state,
    resume,
    save_state,
)
from pnseg_train.schedule import learning_rate, make_optimizer
from pnseg_train.tasks import Task

log = logging.getLogger(__name__)


def fit(
    task: Task,
    network: nn.Module,
    card: Card,
    train: list[Sample],
    validation: list[Sample],
    run: Path,
    fabric: Fabric,
    on_step: Callable[[int, dict[str, float]], None] | None = None,
    workers: int = 0,
    on_start: Callable[[], None] | None = None,
) -> Card:
    """Train ``network`` and keep the last and the best checkpoint of its moving average in ``run``.

    Without validation images nothing tells which is best, and the last is all there is.

    Args:
        run: folder of the run; holds ``state.pt`` (to resume), ``metrics.jsonl``, ``best/``, ``last/``, and
            ``step-N/`` for each step of ``plan.keep``.
            A run that was stopped goes on from its last state, and its checkpoints predict by ``card``'s recipe.
        on_step: called after every step with the losses.
        workers: processes that prepare crops ahead; they change no crop.
        on_start: called by the first process when it is clear that the folder's run, if any, is this one.

    Returns:
        the card of the best checkpoint, without validation of the last.

    Raises:
        PnsegError: the folder holds a run of another network or recipe, on other data, from other weights or of other
            processes, checkpoints without a run to go on from, or a state that cannot be read; the training diverges,
            which leaves the checkpoints as they were before; or a file cannot be written.
    """
    with one_sentence(run):
        plan = task.plan
        bare = network.to(fabric.device)
        learner = Learner(task, network)
        wrapped, optimizer = fabric.setup(learner, make_optimizer(network, plan))
        average = AveragedModel(bare, multi_avg_fn=get_ema_multi_avg_fn(plan.ema), use_buffers=True)
        judged_by = card.recipe.inference.model_dump(include=set(task.judged_by))
        best = card
        run.mkdir(parents=True, exist_ok=True)
        origin = origin_of(card, train, validation, fabric.world_size)
        state = RunState(card.recipe, origin, bare, optimizer, average, fabric.strategy.precision, judged_by)
        if (run / STATE).is_file():
            resume(run, state)
            if fabric.is_global_zero:
                forget_after(run / METRICS, state.step)
                # The inference may be another, and the cards are what predicts.
                for kept in (run / "best", run / "last", *run.glob("step-*")):
                    replace_recipe(kept, card.recipe)
            log.info("resumed %s at step %d", run, state.step)
            if state.best > -math.inf:
                best = read_card(run / "best", card.network)
            if state.step < plan.steps:
                compare_like_with_like(run, state, judged_by)
        else:
            refuse_lost_state(run)
            if fabric.is_global_zero:
                (run / METRICS).unlink(missing_ok=True)  # of a run that was stopped before its first state
        if on_start and fabric.is_global_zero:
            on_start()
        crops = Crops(train, card.recipe.augment, plan.seed, plan.steps * plan.batch * fabric.world_size)
        batches = iter(loader(crops, plan.batch, state.step, fabric.global_rank, fabric.world_size, workers))
        if not validation and (run / "last").is_dir():
            best = read_card(run / "last", card.network)
        board = open_board(run, state.step) if fabric.is_global_zero else None
        # What is logged is on the disk however the training ends.
        with nullcontext() if board is None else board, Display(fabric, plan) as advance:
            for step in range(state.step, plan.steps):
                started = time.perf_counter()
                for group in optimizer.param_groups:
                    group["lr"] = learning_rate(step, plan) * group["factor"]
                torch.manual_seed(item_seed(plan.seed + 1, step * fabric.world_size + fabric.global_rank))
                losses = train_step(wrapped, optimizer, Crop(*fabric.to_device(next(batches))), fabric, plan)
                if plan.ema and step >= plan.ema_from:
                    average.update_parameters(bare)
                else:
                    average.module.load_state_dict(bare.state_dict())
                kept_then = average.module if _keeps(step, plan) else None
                _refuse_divergence(run, step + 1, losses["loss"], kept_then, fabric)
                state.step = step + 1
                state.seconds += time.perf_counter() - started
                record: dict[str, Any] = {"step": step + 1, "lr": optimizer.param_groups[0]["lr"], **losses}
                if fabric.is_global_zero and ((step + 1) % plan.validate_every == 0 or step + 1 == plan.steps):
                    metrics = _validate(task, average.module, validation) if validation else {}
                    record |= {f"val_{name}": value for name, value in metrics.items()}
                    now = card.model_copy(update={"step": step + 1, "metrics": metrics})
                    save_checkpoint(run / "last", average.module, now)
                    if not validation:
                        best = now
                    elif metrics[task.score] > state.best:
                        state.best, best = metrics[task.score], now
                        save_checkpoint(run / "best", average.module, now)
                    told = ", ".join(f"{name} {value:.4f}" for name, value in metrics.items()) or "kept"
                    log.info("step %d: %s", step + 1, told)
                if fabric.is_global_zero and step + 1 in plan.keep:
                    now = card.model_copy(update={"step": step + 1})
                    save_checkpoint(run / f"step-{step + 1}", average.module, now)
                if board is not None:
                    show(board, record)
                    append(run / METRICS, record | {"seconds": round(state.seconds, 2)})
                    if (step + 1) % plan.checkpoint_every == 0 or step + 1 == plan.steps:
                        save_state(run, state)
                advance(step + 1, losses)
                if on_step:
                    on_step(step + 1, losses)
        fabric.barrier()
        return best


class Learner(nn.Module):
    """A network together with its loss, so that several processes see one forward pass a step.

    Frozen parts get no gradients and stay in evaluation mode, so that their statistics stay, too; so do those of all
    batch norms with ``plan.fixed_norms``.
    """

    def __init__(self, task: Task, network: nn.Module):
        super().__init__()
        self.task, self.network = task, network
        for part in task.frozen:
            network.get_submodule(part).requires_grad_(False)

    def forward(self, *crop: Tensor) -> dict[str, Tensor]:
        """The terms of the loss on a batch of crops."""
        return self.task.losses(self.network, Crop(*crop))

    def train(self, mode: bool = True) -> Learner:
        """As any module's, but for the frozen parts."""
        super().train(mode)
        for part in self.task.frozen:
            self.network.get_submodule(part).eval()
        if self.task.plan.fixed_norms:
            for module in self.network.modules():
                if isinstance(module, nn.modules.batchnorm._BatchNorm):
                    module.eval()
        return self


def train_step(
    learner: Any, optimizer: torch.optim.Optimizer, crop: Crop, fabric: Fabric, plan: Plan
) -> dict[str, float]:
    """One update; the losses, and their sum as ``loss``."""
    learner.train()
    optimizer.zero_grad(set_to_none=True)
    with fabric.autocast():
        losses = learner(*crop)
    total = torch.stack([term.float() for term in losses.values()]).sum()
    fabric.backward(total)
    if plan.clip:
        fabric.clip_gradients(learner, optimizer, max_norm=plan.clip, error_if_nonfinite=False)
    optimizer.step()
    return {name: round(float(term.detach()), 5) for name, term in losses.items()} | {
        "loss": round(float(total.detach()), 5)
    }


def _keeps(step: int, plan: Plan) -> bool:
    # Whether a checkpoint or a state is written behind this step, counted from 0.
    return step + 1 in (plan.steps, *plan.keep) or any(
        (step + 1) % every == 0 for every in (plan.validate_every, plan.checkpoint_every)
    )


def _refuse_divergence(run: Path, step: int, loss: float, kept: nn.Module | None, fabric: Fabric) -> None:
    # A finite loss may still have a gradient that is not, so weights that are to be kept are looked at, too. The loss
    # is that of all processes, so that all of them stop.
    summed = fabric.all_reduce(fabric.to_device(torch.tensor(loss)), reduce_op="sum")
    assert isinstance(summed, Tensor)
    total = float(summed)
    if math.isfinite(total) and (kept is None or _is_finite(kept)):
        return
    what = f"the loss is {total}" if not math.isfinite(total) else "weights are not finite"
    last = run / "last"
    start = f"go on from {last} by --init" if last.is_dir() else "train anew"
    raise PnsegError(
        f"{run}: the training has diverged ({what} at step {step}); {start} with a lower plan.lr and another --out."
    )


def _is_finite(network: nn.Module) -> bool:
    return all(bool(tensor.isfinite().all()) for tensor in network.state_dict().values())


def _validate(task: Task, network: nn.Module, samples: list[Sample]) -> dict[str, float]:
    network.eval()
    return task.validate(network, samples)
