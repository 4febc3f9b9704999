"""Native checkpoints: a folder with ``model.safetensors`` and ``model.json``. Nothing is unpickled."""

from __future__ import annotations

import hashlib
import json
from pathlib import Path
from typing import Any, Literal

from pydantic import BaseModel, ConfigDict, Field, ValidationError
from safetensors import SafetensorError
from safetensors.torch import load_file, save_file
from torch import nn

from pnseg_runtime.errors import PnsegError
from pnseg_train.models.prompter import Prompter
from pnseg_train.models.segmentor import Segmentor
from pnseg_train.models.sizes import build_prompter, build_segmentor
from pnseg_train.recipes import Recipe

WEIGHTS, CARD = "model.safetensors", "model.json"


class Card(BaseModel):
    """What a checkpoint is: enough to rebuild the network and to say where it came from."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    network: Literal["prompter", "segmentor"]
    recipe: Recipe
    step: int = 0
    metrics: dict[str, float] = Field(default_factory=dict)
    data: list[str] = Field(default_factory=list, description="names of the training sets")
    licences: list[str] = Field(default_factory=list)
    tuned_from: str = Field("", description="SHA-256 of the weights that the training started from, if of a checkpoint")


def build(card: Card, pretrained: bool = False) -> Prompter | Segmentor:
    """The network a card describes, with fresh weights."""
    recipe = card.recipe
    if card.network == "segmentor":
        return build_segmentor(recipe.size, pretrained=pretrained)
    return build_prompter(
        recipe.size,
        levels=recipe.prompter.levels,
        spacing=recipe.prompter.spacing,
        num_classes=len(recipe.classes),
        pretrained=pretrained,
    )


def save_checkpoint(folder: Path, network: nn.Module, card: Card) -> None:
    """Write weights and card; each file appears whole or not at all, the card last."""
    folder.mkdir(parents=True, exist_ok=True)
    weights = folder / (WEIGHTS + ".part")
    save_file({name: tensor.detach().cpu().contiguous() for name, tensor in network.state_dict().items()}, weights)
    weights.replace(folder / WEIGHTS)
    text = folder / (CARD + ".part")
    text.write_text(card.model_dump_json(indent=1) + "\n", encoding="utf-8")
    text.replace(folder / CARD)


def load_checkpoint(folder: Path) -> tuple[Prompter | Segmentor, Card]:
    """The network in evaluation mode, and its card.

    Raises:
        PnsegError: not a checkpoint, or weights that do not fit the card.
    """
    card = read_card(folder)
    network = build(card)
    copy_weights(folder, network)
    network.eval()
    return network, card


def copy_weights(folder: Path, network: nn.Module) -> None:
    """Copy a checkpoint's weights into a network.

    Raises:
        PnsegError: they are not of such a network.
    """
    try:
        network.load_state_dict(load_file(folder / WEIGHTS), strict=True)
    except (OSError, RuntimeError, SafetensorError) as error:
        first = str(error).splitlines()[0]
        raise PnsegError(
            f"{folder / WEIGHTS}: the weights do not fit the network ({first}); train or import it again."
        ) from error


def read_card(folder: Path) -> Card:
    """A checkpoint's card alone.

    Raises:
        PnsegError: not a checkpoint.
    """
    try:
        document: Any = json.loads((folder / CARD).read_text(encoding="utf-8"))
        return Card.model_validate(document)
    except (OSError, ValueError, ValidationError) as error:
        first = str(error).splitlines()[0]
        raise PnsegError(
            f"{folder}: not a checkpoint ({first}); expected {WEIGHTS} and {CARD} of a training run."
        ) from error


def weights_digest(folder: Path) -> str:
    """SHA-256 of a checkpoint's weights."""
    return hashlib.sha256((folder / WEIGHTS).read_bytes()).hexdigest()
