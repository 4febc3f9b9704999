"""The folder of a run: its state, from which it goes on, its log of steps, and what it must not be taken for."""

from __future__ import annotations

import hashlib
import json
import logging
import math
import os
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from lightning_fabric.plugins.precision import Precision
from pydantic import ValidationError
from safetensors import SafetensorError
from torch import nn
from torch.optim.swa_utils import AveragedModel

from pnseg_runtime.errors import OutputError, PnsegError, one_line
from pnseg_runtime.outputs.atomic import draft_of
from pnseg_train.checkpoints import Card
from pnseg_train.datasets import Sample
from pnseg_train.recipes import Recipe

log = logging.getLogger(__name__)
STATE, METRICS = "state.pt", "metrics.jsonl"


@contextmanager
def one_sentence(run: Path) -> Iterator[None]:
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


# How far a run is: what of its state is neither of its networks nor of its optimiser.
COUNTED = ("step", "best", "seconds", "judged_by")


@dataclass
class RunState:
    """What a run goes on from: what it is made of, what it has learned, and how far it is.

    Attributes:
        origin: as ``origin_of`` gives it.
        average: the moving average of ``network``.
        precision: the fabric's; that of 16-mixed has a scaler with a state.
        judged_by: settings of the inference by which ``best`` was measured.
        step: steps that are done.
        best: the highest score of a validation.
        seconds: spent on the steps, over all times that the run was started.
    """

    recipe: Recipe
    origin: dict[str, str]
    network: nn.Module
    optimizer: torch.optim.Optimizer
    average: AveragedModel
    precision: Precision
    judged_by: dict[str, Any]
    step: int = 0
    best: float = -math.inf
    seconds: float = 0.0


def save_state(run: Path, state: RunState) -> None:
    """Write what is needed to go on, whole or not at all.

    Raises:
        OSError: the disk is full.
    """
    document = {
        "network": state.network.state_dict(),
        "optimizer": state.optimizer.state_dict(),
        "average": state.average.state_dict(),
        "state": {name: getattr(state, name) for name in COUNTED},
        "recipe": state.recipe.training(),
        "origin": state.origin,
        "scaler": state.precision.state_dict(),  # of 16-mixed; otherwise empty
    }
    with draft_of(run / STATE) as draft, draft.open("wb") as stream:
        try:
            torch.save(document, stream)
        except RuntimeError as error:  # what torch makes of a disk that is full
            raise OSError(f"{draft.name} is not written whole") from error
        stream.flush()
        os.fsync(stream.fileno())  # or a machine that goes down may leave an empty file under the name


def refuse_lost_state(run: Path) -> None:
    """See that a folder without a state has no checkpoint that a run from the start would replace.

    Raises:
        PnsegError: it has.
    """
    kept = [folder.name for folder in (run / "best", run / "last", *sorted(run.glob("step-*"))) if folder.exists()]
    if kept:
        raise PnsegError(
            f"{run}: holds {' and '.join(kept)}, but no {STATE} to go on from, and a run from the start would replace "
            "them; give another --out, or delete the folder to start anew."
        )


def resume(run: Path, state: RunState) -> None:
    """Bring network, optimiser, average and what is counted to where the folder's run was.

    Raises:
        PnsegError: a state that cannot be read, or a run of another recipe, network, or anything else of ``ORIGIN``.
    """
    document = _read_state(run)
    if not _same_training(document["recipe"], state.recipe):
        raise PnsegError(
            f"{run}: holds a run of another recipe; give another --out, or remove the folder to start anew."
        )
    if "origin" not in document:
        log.warning("%s: its state does not say on which data it was trained; taken to be these", run)
    for name, was in document.get("origin", state.origin).items():
        if was != state.origin[name]:
            raise PnsegError(
                f"{run}: holds a run that differs in the {ORIGIN[name]}: {was or 'none'}, "
                f"now {state.origin[name] or 'none'}; give another --out, or remove the folder to start anew."
            )
    if document["network"].keys() != state.network.state_dict().keys():  # of a state that does not say of which network
        raise PnsegError(
            f"{run}: holds a run of another network; give another --out, or remove the folder to start anew."
        )
    state.network.load_state_dict(document["network"])
    state.optimizer.load_state_dict(document["optimizer"])
    state.average.load_state_dict(document["average"])
    if document.get("scaler"):
        state.precision.load_state_dict(document["scaler"])
    for name in document["state"].keys() & COUNTED:
        setattr(state, name, document["state"][name])


def compare_like_with_like(run: Path, state: RunState, judged_by: dict[str, Any]) -> None:
    """Forget the best score if it was measured by other settings, those of the inference that validation follows.

    It says nothing about scores to come, so the next step that is validated is the best until a better one comes.
    """
    was = state.judged_by
    changed = [f"{name} {was[name]}, now {value}" for name, value in judged_by.items() if was.get(name, value) != value]
    if changed and state.best > -math.inf:
        log.warning("%s: its best step was chosen with inference.%s; it is chosen anew", run, ", ".join(changed))
        state.best = -math.inf
    state.judged_by = judged_by


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


def forget_after(metrics: Path, step: int) -> None:
    """Drop the records of later steps: what was logged after the state was saved will be done again.

    Raises:
        PnsegError: a line that is no record. The last one may be cut off, of a process that was killed or on a disk
            that was full; it is behind the state, which was written after all before it.
    """
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
    with draft_of(metrics) as draft:
        draft.write_text("".join(kept), encoding="utf-8")


def append(path: Path, record: dict[str, Any]) -> None:
    """Add a record to a file of JSON lines."""
    with path.open("a", encoding="utf-8") as stream:
        stream.write(json.dumps(record) + "\n")
