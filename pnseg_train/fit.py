"""The training loop: seeded by step, so that a run that stops goes on exactly where it was."""

from __future__ import annotations

import hashlib
import json
import logging
import math
import os
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
from lightning_fabric import Fabric
from pydantic import ValidationError
from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn
from safetensors import SafetensorError
from torch import Tensor, nn
from torch.optim.swa_utils import AveragedModel, get_ema_multi_avg_fn

from pnseg_runtime.errors import OutputError, PnsegError, one_line
from pnseg_train.checkpoints import Card, read_card, replace_recipe, save_checkpoint
from pnseg_train.crops import Crop, Crops, item_seed, loader
from pnseg_train.datasets import Sample
from pnseg_train.models.sizes import backbone_parameters
from pnseg_train.recipes import Plan, Recipe
from pnseg_train.tasks import Task

if TYPE_CHECKING:
    from torch.utils.tensorboard import SummaryWriter

log = logging.getLogger(__name__)
STATE, METRICS, BOARD = "state.pt", "metrics.jsonl", "tensorboard"


def learning_rate(step: int, plan: Plan) -> float:
    """The rate at a step: linear warm-up, then the plan's schedule."""
    if step < plan.warmup:
        return plan.lr * (step + 1) / plan.warmup
    if plan.schedule == "cosine":
        progress = (step - plan.warmup) / max(plan.steps - plan.warmup, 1)
        return plan.lr * (0.01 + 0.99 * 0.5 * (1 + math.cos(math.pi * progress)))
    return plan.lr * (0.1 if plan.schedule == "step" and step >= plan.step_at else 1.0)


def make_optimizer(network: nn.Module, plan: Plan) -> torch.optim.Optimizer:
    """Adam or AdamW; the pretrained backbone at its own rate; no decay on norms and biases."""
    groups: dict[tuple[float, float], list[nn.Parameter]] = {}
    backbone = {id(parameter) for parameter in backbone_parameters(network)}
    for parameter in network.parameters():
        if parameter.requires_grad:
            factor = plan.backbone_lr if id(parameter) in backbone else 1.0
            decay = plan.weight_decay if parameter.ndim > 1 or plan.optimizer == "adam" else 0.0
            groups.setdefault((factor, decay), []).append(parameter)
    settings = [
        {"params": params, "factor": factor, "weight_decay": decay} for (factor, decay), params in groups.items()
    ]
    kind = torch.optim.AdamW if plan.optimizer == "adamw" else torch.optim.Adam
    return kind(settings, lr=plan.lr)


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
            processes, or checkpoints without a run to go on from; the training diverges, which leaves the checkpoints
            as they were before; or a file cannot be written.
    """
    with _one_sentence(run):
        plan = task.plan
        bare = network.to(fabric.device)
        learner = Learner(task, network)
        wrapped, optimizer = fabric.setup(learner, make_optimizer(network, plan))
        average = AveragedModel(bare, multi_avg_fn=get_ema_multi_avg_fn(plan.ema), use_buffers=True)
        judged_by = card.recipe.inference.model_dump(include=set(task.judged_by))
        best = card
        state: dict[str, Any] = {"step": 0, "best": -math.inf, "seconds": 0.0, "judged_by": judged_by}
        run.mkdir(parents=True, exist_ok=True)
        origin = origin_of(card, train, validation, fabric.world_size)
        if (run / STATE).is_file():
            _resume(run, card, origin, bare, optimizer, average, state, fabric)
            if fabric.is_global_zero:
                _forget_after(run / METRICS, int(state["step"]))
                # The inference may be another, and the cards are what predicts.
                for kept in (run / "best", run / "last", *run.glob("step-*")):
                    replace_recipe(kept, card.recipe)
            log.info("resumed %s at step %d", run, state["step"])
            if state["best"] > -math.inf:
                best = read_card(run / "best", card.network)
            if state["step"] < plan.steps:
                _compare_like_with_like(run, state, judged_by)
        else:
            _refuse_lost_state(run)
            if fabric.is_global_zero:
                (run / METRICS).unlink(missing_ok=True)  # of a run that was stopped before its first state
        if on_start and fabric.is_global_zero:
            on_start()
        crops = Crops(train, card.recipe.augment, plan.seed, plan.steps * plan.batch * fabric.world_size)
        batches = iter(loader(crops, plan.batch, int(state["step"]), fabric.global_rank, fabric.world_size, workers))
        if not validation and (run / "last").is_dir():
            best = read_card(run / "last", card.network)
        board = open_board(run, int(state["step"])) if fabric.is_global_zero else None
        with _Progress(fabric, plan) as advance:
            for step in range(int(state["step"]), plan.steps):
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
                state["step"] = step + 1
                state["seconds"] += time.perf_counter() - started
                record: dict[str, Any] = {"step": step + 1, "lr": optimizer.param_groups[0]["lr"], **losses}
                if fabric.is_global_zero and ((step + 1) % plan.validate_every == 0 or step + 1 == plan.steps):
                    metrics = _validate(task, average.module, validation) if validation else {}
                    record |= {f"val_{name}": value for name, value in metrics.items()}
                    now = card.model_copy(update={"step": step + 1, "metrics": metrics})
                    save_checkpoint(run / "last", average.module, now)
                    if not validation:
                        best = now
                    elif metrics[task.score] > state["best"]:
                        state["best"], best = metrics[task.score], now
                        save_checkpoint(run / "best", average.module, now)
                    told = ", ".join(f"{name} {value:.4f}" for name, value in metrics.items()) or "kept"
                    log.info("step %d: %s", step + 1, told)
                if fabric.is_global_zero and step + 1 in plan.keep:
                    now = card.model_copy(update={"step": step + 1})
                    save_checkpoint(run / f"step-{step + 1}", average.module, now)
                if board is not None:
                    _show(board, record)
                    _append(run / METRICS, record | {"seconds": round(state["seconds"], 2)})
                    if (step + 1) % plan.checkpoint_every == 0 or step + 1 == plan.steps:
                        _save_state(run, card, origin, bare, optimizer, average, state, fabric)
                advance(step + 1, losses)
                if on_step:
                    on_step(step + 1, losses)
        if board is not None:
            board.close()
        fabric.barrier()
        return best


@contextmanager
def _one_sentence(run: Path) -> Iterator[None]:
    """What a disk refuses, as a sentence that names the run.

    Raises:
        OutputError: a file of the run cannot be read or written.
    """
    try:
        yield
    except (OSError, SafetensorError) as error:  # safetensors has its own for a disk that is full
        reason = getattr(error, "strerror", None) or " ".join(str(error).split())
        raise OutputError(
            f"{run}: the training cannot go on ({reason}); make room or mend the folder, and the same command goes on "
            "from the last state."
        ) from error


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


# What a run is made of besides its recipe, and what each is called when it is another.
ORIGIN = {
    "network": "network",
    "data": "data sets",
    "splits": "splits for training and validation",
    "licences": "licences of the data",
    "images": "images or labels (SHA-256, as the model sees them)",
    "tuned_from": "weights to start from (SHA-256)",
    "processes": "number of processes",
}


def origin_of(card: Card, train: list[Sample], validation: list[Sample], processes: int) -> dict[str, str]:
    """What a run is made of besides its recipe: the same under each name of ``ORIGIN``, so that it goes on exactly.

    The digest is of the samples at the model's microns per pixel, so another ``--mpp`` changes it, too.
    """
    digest = hashlib.sha256()
    for part in (train, validation):
        digest.update(f"{len(part)} images".encode())
        for sample in part:
            for pixels in (sample.image, sample.instances, sample.classes):
                digest.update(f"{pixels.shape}".encode())
                digest.update(np.ascontiguousarray(pixels).data)
    return {
        "network": card.network,
        "data": ", ".join(card.data),
        "splits": f"{card.recipe.splits.train}, {card.recipe.splits.val}",
        "licences": ", ".join(card.licences),
        "images": digest.hexdigest(),
        "tuned_from": card.tuned_from,
        "processes": str(processes),
    }


def _save_state(
    run: Path,
    card: Card,
    origin: dict[str, str],
    network: nn.Module,
    optimizer: torch.optim.Optimizer,
    average: AveragedModel,
    state: dict[str, Any],
    fabric: Fabric,
) -> None:
    part = run / (STATE + ".part")
    document = {
        "network": network.state_dict(),
        "optimizer": optimizer.state_dict(),
        "average": average.state_dict(),
        "state": state,
        "recipe": card.recipe.training(),
        "origin": origin,
        "scaler": fabric.strategy.precision.state_dict(),  # of 16-mixed; otherwise empty
    }
    with part.open("wb") as stream:
        try:
            torch.save(document, stream)
        except RuntimeError as error:  # what torch makes of a disk that is full
            raise OSError(f"{part.name} is not written whole") from error
        stream.flush()
        os.fsync(stream.fileno())  # or a machine that goes down may leave an empty file under the name
    part.replace(run / STATE)


def _refuse_lost_state(run: Path) -> None:
    kept = [folder.name for folder in (run / "best", run / "last", *sorted(run.glob("step-*"))) if folder.exists()]
    if kept:
        raise PnsegError(
            f"{run}: holds {' and '.join(kept)}, but no {STATE} to go on from, and a run from the start would replace "
            "them; give another --out, or delete the folder to start anew."
        )


def _resume(
    run: Path,
    card: Card,
    origin: dict[str, str],
    network: nn.Module,
    optimizer: torch.optim.Optimizer,
    average: AveragedModel,
    state: dict[str, Any],
    fabric: Fabric,
) -> None:
    document = _read_state(run)
    if not _same_training(document["recipe"], card.recipe):
        raise PnsegError(
            f"{run}: holds a run of another recipe; give another --out, or remove the folder to start anew."
        )
    if "origin" not in document:
        log.warning("%s: its state does not say on which data it was trained; taken to be these", run)
    for name, was in document.get("origin", origin).items():
        if was != origin[name]:
            raise PnsegError(
                f"{run}: holds a run that differs in the {ORIGIN[name]}: {was or 'none'}, "
                f"now {origin[name] or 'none'}; give another --out, or remove the folder to start anew."
            )
    if document["network"].keys() != network.state_dict().keys():  # of a state that does not say of which network
        raise PnsegError(
            f"{run}: holds a run of another network; give another --out, or remove the folder to start anew."
        )
    network.load_state_dict(document["network"])
    optimizer.load_state_dict(document["optimizer"])
    average.load_state_dict(document["average"])
    if document.get("scaler"):
        fabric.strategy.precision.load_state_dict(document["scaler"])
    state.update(document["state"])


def _compare_like_with_like(run: Path, state: dict[str, Any], judged_by: dict[str, Any]) -> None:
    # Scores of other settings say nothing about those to come; the first step that is validated is then the best.
    was = state["judged_by"]
    changed = [f"{name} {was[name]}, now {value}" for name, value in judged_by.items() if was.get(name, value) != value]
    if changed and state["best"] > -math.inf:
        log.warning("%s: its best step was chosen with inference.%s; it is chosen anew", run, ", ".join(changed))
        state["best"] = -math.inf
    state["judged_by"] = judged_by


def _read_state(run: Path) -> dict[str, Any]:
    try:
        document = torch.load(run / STATE, map_location="cpu", weights_only=True)
        missing = {"network", "optimizer", "average", "state", "recipe"} - document.keys()
        if missing:
            raise ValueError(f"it has no {' or '.join(sorted(missing))}")
    except Exception as error:  # a damaged file raises anything
        last = run / "last"
        start = f"start another --out from {last} by --init" if last.is_dir() else "give another --out"
        raise PnsegError(
            f"{run / STATE}: cannot be read, so the run does not go on ({one_line(error)}); {start}, or remove the "
            "folder to start anew."
        ) from error
    return document


def _same_training(saved: str, recipe: Recipe) -> bool:
    # Validated anew, so that a field that has come since with a default does not tell the two apart.
    try:
        earlier = Recipe.model_validate(json.loads(saved) | {"inference": recipe.inference})
    except ValidationError:
        return False
    return earlier.training() == recipe.training()


def _forget_after(metrics: Path, step: int) -> None:
    # What was logged after the state was saved will be done again. Of a process that was killed, or on a disk that was
    # full, the last line may not be whole; it is behind the state, which was written after all before it.
    if not metrics.is_file():
        return
    lines = metrics.read_text(encoding="utf-8", errors="replace").splitlines()
    kept = []
    for number, line in enumerate(lines, start=1):
        try:
            logged = int(json.loads(line)["step"])
        except (ValueError, TypeError, KeyError) as error:
            if number == len(lines):
                break
            raise PnsegError(
                f"{metrics}: line {number} is not a step's record; delete the line, and the run goes on."
            ) from error
        if logged <= step:
            kept.append(line + "\n")
    part = metrics.with_name(metrics.name + ".part")
    part.write_text("".join(kept), encoding="utf-8")
    part.replace(metrics)


def open_board(run: Path, step: int) -> SummaryWriter:
    """A TensorBoard log of the run that goes on behind ``step``; what an earlier process logged later is dropped."""
    from torch.utils.tensorboard import SummaryWriter

    return SummaryWriter(run / BOARD, purge_step=step + 1, flush_secs=30)


def _show(board: SummaryWriter, record: dict[str, Any]) -> None:
    for name, value in record.items():
        if name.startswith("val_"):
            board.add_scalar(f"validation/{name.removeprefix('val_')}", value, record["step"])
        elif name != "step":
            board.add_scalar(name if name == "lr" else f"loss/{name}", value, record["step"])


def _append(path: Path, record: dict[str, Any]) -> None:
    with path.open("a", encoding="utf-8") as stream:
        stream.write(json.dumps(record) + "\n")


class _Progress:
    # A progress bar on a terminal, a log line now and then elsewhere.
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
