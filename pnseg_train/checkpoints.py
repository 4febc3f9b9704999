"""Native checkpoints: a folder with ``model.safetensors`` and ``model.json``. Nothing is unpickled."""

from __future__ import annotations

import hashlib
import json
import logging
from pathlib import Path
from typing import Any, Literal

from pydantic import BaseModel, ConfigDict, Field, ValidationError
from safetensors import SafetensorError
from safetensors.torch import load_file, save_file
from torch import Tensor, nn

from pnseg_runtime.errors import PnsegError, one_line
from pnseg_runtime.hashes import sha256_of
from pnseg_runtime.outputs.atomic import draft_of
from pnseg_train.models.prompter import Prompter
from pnseg_train.models.segmentor import Segmentor
from pnseg_train.models.shared import SharedPair
from pnseg_train.models.sizes import build_prompter, build_segmentor
from pnseg_train.recipes import Recipe, same_classes

log = logging.getLogger(__name__)
WEIGHTS, CARD = "model.safetensors", "model.json"


class Card(BaseModel):
    """What a checkpoint is: enough to rebuild the network and to say where it came from."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    network: Literal["prompter", "segmentor", "shared"]
    recipe: Recipe
    step: int = 0
    metrics: dict[str, float] = Field(default_factory=dict)
    data: list[str] = Field(default_factory=list, description="names of the training sets")
    licences: list[str] = Field(default_factory=list)
    tuned_from: str = Field("", description="SHA-256 of the weights that the training started from, if of a checkpoint")
    imported: str = Field("", description="name and SHA-256 of the published file that the weights come from")
    averaged: list[str] = Field(
        default_factory=list, description="SHA-256 of the weights that these are the mean of, if they are one"
    )

    @property
    def tells(self) -> list[str]:
        """Names of the classes that the network tells apart; none if its nuclei are of one class alone."""
        own = self.recipe.classes if self.network == self.recipe.class_by else []
        return own if len(own) > 1 else []


def build_pair(card: Card, pretrained: bool = False) -> SharedPair:
    """Both networks over one image encoder, with fresh weights."""
    halves = {half: build(card.model_copy(update={"network": half}), pretrained) for half in ("prompter", "segmentor")}
    assert isinstance(halves["prompter"], Prompter)
    assert isinstance(halves["segmentor"], Segmentor)
    return SharedPair(halves["prompter"], halves["segmentor"])


def build(card: Card, pretrained: bool = False) -> Prompter | Segmentor:
    """The prompter or segmentor that a card describes, with fresh weights."""
    recipe = card.recipe
    if card.network == "segmentor":
        return build_segmentor(recipe.size, pretrained=pretrained, num_classes=recipe.segmentor_classes)
    return build_prompter(
        recipe.size,
        levels=recipe.prompter.levels,
        spacing=recipe.prompter.spacing,
        num_classes=recipe.prompter_classes,
        pretrained=pretrained,
        shared=recipe.shared_encoder,
    )


def save_checkpoint(folder: Path, network: nn.Module, card: Card) -> None:
    """Write weights and card; each file appears whole or not at all, the card last.

    A shared pair becomes two checkpoints, ``prompter`` and ``segmentor``, each whole.
    """
    if isinstance(network, SharedPair):
        for half, part in network.parts().items():
            save_checkpoint(folder / half, part, card.model_copy(update={"network": half}))
        return
    folder.mkdir(parents=True, exist_ok=True)
    weights = {name: tensor.detach().cpu().contiguous() for name, tensor in network.state_dict().items()}
    with draft_of(folder / WEIGHTS) as draft:
        save_file(weights, draft)
    _write_card(folder, card)


def replace_recipe(folder: Path, recipe: Recipe) -> None:
    """Write another recipe into the card of a checkpoint, or into both of a shared pair; nothing where there is none.

    Raises:
        PnsegError: a card that is not one.
    """
    for part in (folder, folder / "prompter", folder / "segmentor"):
        if (part / CARD).is_file():
            _write_card(part, read_card(part).model_copy(update={"recipe": recipe}))


def _write_card(folder: Path, card: Card) -> None:
    with draft_of(folder / CARD) as draft:
        draft.write_text(card.model_dump_json(indent=1) + "\n", encoding="utf-8")


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


# Heads that are a matter of the classes: a network that is tuned to others starts them anew, be they as many or not. So
# does one whose region branch has another width: nano's has, since its second stage of training.
CLASS_HEADS = ("cls_head.layers.3.", "mask_decoder.class_token.", "mask_decoder.class_head.")
REGION_BRANCH = ("backbone.neck1.", "mask_head.")


def start_from(folder: Path, network: nn.Module, card: Card) -> list[str]:
    """Copy a checkpoint's weights into a network to be tuned.

    Args:
        folder: the checkpoint.
        network: takes its weights.
        card: what the network is to be.

    Returns:
        the tensors that start fresh, since the checkpoint's classes, by name and order, or the width of its region
        branch are others.

    Raises:
        PnsegError: no checkpoint, or weights that are not of such a network.
    """
    others = not same_classes(read_card(folder).tells, card.tells)
    own = network.state_dict()
    given = _read_weights(folder)
    fresh = [
        name
        for name, tensor in own.items()
        if ((name not in given or others) and name.startswith(CLASS_HEADS))
        or (name in given and given[name].shape != tensor.shape and name.startswith(CLASS_HEADS + REGION_BRANCH))
    ]
    kept = {name: tensor for name, tensor in given.items() if name in own or not name.startswith(CLASS_HEADS)}
    _fill(folder, network, kept | {name: own[name] for name in fresh})
    return fresh


def tune_from(folder: Path, network: nn.Module, card: Card) -> str:
    """Copy a checkpoint's weights into a network to be tuned, or those of both of a pair into a pair.

    Args:
        folder: the checkpoint, or the pair's, with ``prompter`` and ``segmentor``; a single one is the segmentor's.
        network: takes its weights.
        card: what the network is to be.

    Returns:
        the SHA-256 of the weights, of a pair's two joined by a space.

    Raises:
        PnsegError: no checkpoint, or weights that are not of such a network.
    """
    if isinstance(network, SharedPair):
        # The segmentor last: the image encoder of both is its.
        folders = {half: folder / half for half in ("prompter", "segmentor") if (folder / half).is_dir()}
        if not folders:
            folders = {"segmentor": folder}
        parts = network.parts()
        return " ".join(
            tune_from(own, parts[half], card.model_copy(update={"network": half})) for half, own in folders.items()
        )
    fresh = start_from(folder, network, card)
    if fresh:
        log.info("%s: other classes or widths, so these start anew: %s", folder, ", ".join(fresh))
    return weights_digest(folder)


def copy_weights(folder: Path, network: nn.Module) -> None:
    """Copy a checkpoint's weights into a network.

    Raises:
        PnsegError: they are not of such a network.
    """
    _fill(folder, network, _read_weights(folder))


def _read_weights(folder: Path) -> dict[str, Tensor]:
    try:
        return load_file(folder / WEIGHTS)
    except (OSError, SafetensorError) as error:
        raise PnsegError(
            f"{folder / WEIGHTS}: not readable weights ({one_line(error)}); give a checkpoint's folder, such as "
            "runs/mine/best."
        ) from error


def _fill(folder: Path, network: nn.Module, weights: dict[str, Tensor]) -> None:
    try:
        network.load_state_dict(weights, strict=True)
    except RuntimeError as error:
        raise PnsegError(
            f"{folder / WEIGHTS}: the weights do not fit the network ({one_line(error)}); train or import it again."
        ) from error


def read_card(folder: Path, network: str = "") -> Card:
    """A checkpoint's card alone; for ``shared`` that of the pair, from its prompter's.

    Raises:
        PnsegError: not a checkpoint.
    """
    if network == "shared":
        return read_card(folder / "prompter").model_copy(update={"network": network})
    try:
        document: Any = json.loads((folder / CARD).read_text(encoding="utf-8"))
        return Card.model_validate(document)
    except (OSError, ValueError, ValidationError) as error:
        raise PnsegError(
            f"{folder}: not a checkpoint ({one_line(error)}); expected {WEIGHTS} and {CARD} of a training run."
        ) from error


def checkpoint_digest(folder: Path) -> str:
    """SHA-256 of a checkpoint's weights and card: another for other weights, and for another recipe.

    Raises:
        PnsegError: not a checkpoint.
    """
    try:
        return hashlib.sha256((folder / CARD).read_bytes() + (folder / WEIGHTS).read_bytes()).hexdigest()
    except OSError as error:
        raise PnsegError(
            f"{folder}: not a checkpoint ({error.strerror}); expected {WEIGHTS} and {CARD} of a training run."
        ) from error


def weights_digest(folder: Path) -> str:
    """SHA-256 of a checkpoint's weights."""
    return sha256_of(folder / WEIGHTS)
