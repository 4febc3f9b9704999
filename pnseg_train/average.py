"""The mean of several checkpoints' weights: steps of one training err differently and are better together."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import torch

from pnseg_runtime.errors import PnsegError
from pnseg_train.checkpoints import load_checkpoint, save_checkpoint, weights_digest


@torch.no_grad()
def average(checkpoints: Sequence[Path], out: Path) -> None:
    """Write the checkpoint whose weights are the mean of others'.

    What is no number to be averaged (counters), the recipe and the card are the last one's; the card names all.

    Args:
        checkpoints: at least two of one architecture, steps of one run or of runs that start from the same weights.
        out: folder of the new one.

    Raises:
        PnsegError: one that is no checkpoint or does not fit the others, or ``out`` holds one already.
    """
    if len(checkpoints) < 2:
        raise PnsegError("one checkpoint has no mean; give two or more, such as a run's best and last.")
    if out.exists() and any(out.iterdir()):
        raise PnsegError(f"{out}: is there already; give another folder with --out.")
    loaded = [load_checkpoint(folder) for folder in checkpoints]
    network, card = loaded[-1]
    own = network.state_dict()
    states = [other.state_dict() for other, _ in loaded]
    for folder, (_, other_card), state in zip(checkpoints, loaded, states, strict=True):
        shapes = {name: tensor.shape for name, tensor in state.items()}
        if other_card.network != card.network or shapes != {name: tensor.shape for name, tensor in own.items()}:
            raise PnsegError(f"{folder}: is of another architecture than {checkpoints[-1]}; give steps of one run.")
    for name, tensor in own.items():
        if tensor.is_floating_point():
            tensor.copy_(sum(state[name].double() for state in states) / len(states))
    averaged = [weights_digest(folder) for folder in checkpoints]
    save_checkpoint(out, network, card.model_copy(update={"averaged": averaged, "metrics": {}}))
