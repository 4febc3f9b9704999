"""Published checkpoints: recognise them and fill native ones.

Known are the authors' prompter (ConvNeXt-S with two pyramids), the authors' segmentor and Meta's SAM, both
with ViT-B, L or H. Nothing but tensors is read: pickled files with ``weights_only=True``, or safetensors.
"""

from __future__ import annotations

import pickle
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

import torch
from safetensors import SafetensorError
from safetensors.torch import load_file
from torch import Tensor, nn

from pnseg_runtime.errors import PnsegError, one_line
from pnseg_runtime.hashes import sha256_of
from pnseg_train.checkpoints import Card, build
from pnseg_train.models.sizes import SEGMENTOR_SIZES, VitSize
from pnseg_train.recipes import Recipe, read_recipe

State = Mapping[str, Tensor]

# What a published file may hold besides the parameters, none of it needed.
BUFFERS = ("pixel_mean", "pixel_std")


class MisfitError(PnsegError):
    """A file whose tensors are not those of the network that it looks like.

    Attributes:
        rows: (tensor, in the file, in the network) of each that does not fit; "–" stands for none.
    """

    def __init__(self, message: str, rows: list[tuple[str, str, str]]):
        super().__init__(message)
        self.rows = rows


@dataclass(frozen=True)
class Kind:
    """A kind of published checkpoint.

    Attributes:
        title: for people.
        network: what it becomes.
        recognises: whether a state dict is of this kind, by its tensors' names.
        recipe: a name of a shipped recipe and the fields that the tensors' shapes tell.
    """

    title: str
    network: Literal["prompter", "segmentor"]
    recognises: Callable[[State], bool]
    recipe: Callable[[State], tuple[str, dict[str, Any]]]


def _prompter_recipe(state: State) -> tuple[str, dict[str, Any]]:
    # L is the number of pyramid levels, C + 1 the rows of the class head; λ is in no tensor. The
    # paper's pairs are L = 3 with λ = 8 (PanNuke) and L = 4 with λ = 16 (Kumar and CPM-17).
    levels = sum(name.startswith("backbone.neck.fpn_convs.") and name.endswith(".weight") for name in state)
    head = state.get("cls_head.layers.3.weight")
    number = 1 if head is None else head.shape[0] - 1
    name = "pannuke-123" if levels == 3 else "kumar"
    return name, {"prompter.levels": levels} | _classes(name, number)


def _classes(recipe: str, number: int) -> dict[str, Any]:
    own = read_recipe(recipe)
    if len(own.classes) == number:
        return {}
    names = ["nucleus"] if number == 1 else [f"class {index + 1}" for index in range(number)]
    colors = [own.colors[index % len(own.colors)] for index in range(number)]
    return {"classes": names, "colors": colors}


def _segmentor_recipe(state: State) -> tuple[str, dict[str, Any]]:
    width = state["image_encoder.pos_embed"].shape[-1]
    sizes = {spec.embed_dim: name for name, spec in SEGMENTOR_SIZES.items() if isinstance(spec, VitSize)}
    if width not in sizes:
        known = ", ".join(f"{name} ({number})" for number, name in sizes.items())
        raise PnsegError(f"a SAM of width {width}, which is none of the known sizes: {known}.")
    return "pannuke-123", {"size": sizes[width]}


KINDS: tuple[Kind, ...] = (
    Kind(
        "the authors' prompter",
        "prompter",
        lambda state: (
            any(name.startswith("backbone.neck1.") for name in state) and "deform_layer.layers.0.weight" in state
        ),
        _prompter_recipe,
    ),
    Kind(
        "a SAM, of Meta or of the authors",
        "segmentor",
        lambda state: "image_encoder.pos_embed" in state and any(name.startswith("mask_decoder.") for name in state),
        _segmentor_recipe,
    ),
)


def read_state(path: Path) -> dict[str, Tensor]:
    """The state dict in a published file, under the names of the network, nothing unpickled but tensors.

    It may be the whole file or stand in it as ``model`` or ``state_dict``; a leading ``module.``, which
    training on several devices leaves, is taken off.

    Raises:
        PnsegError: the file is missing, damaged, or holds more than tensors and plain values.
    """
    try:
        if path.suffix == ".safetensors":
            content: Any = load_file(path)
        else:
            content = torch.load(path, map_location="cpu", weights_only=True, mmap=_can_map(path))
    except pickle.UnpicklingError as error:
        raise PnsegError(
            f"{path}: holds Python objects besides tensors, which are never unpickled here; "
            "keep its state dict alone: torch.save({'model': checkpoint['model']}, ...)."
        ) from error
    except (OSError, RuntimeError, ValueError, EOFError, SafetensorError) as error:
        raise PnsegError(f"{path}: cannot be read as a checkpoint ({one_line(error)}); download it again.") from error
    for key in ("model", "state_dict"):
        if isinstance(content, dict) and isinstance(content.get(key), dict):
            content = content[key]
    if not isinstance(content, dict) or not all(isinstance(value, Tensor) for value in content.values()) or not content:
        raise PnsegError(f"{path}: holds no state dict of tensors; give the published .pth or .safetensors file.")
    return {name.removeprefix("module."): tensor for name, tensor in content.items() if name not in BUFFERS}


def recognise(path: Path, state: State) -> Kind:
    """The kind of a published checkpoint.

    Raises:
        PnsegError: none that is known.
    """
    found = next((kind for kind in KINDS if kind.recognises(state)), None)
    if found is None:
        known = " nor ".join(kind.title for kind in KINDS)
        first = ", ".join(list(state)[:3])
        raise PnsegError(f"{path}: neither {known}; its tensors are named {first} and so on.")
    return found


def recipe_of(kind: Kind, state: State, name: str | None = None, overrides: dict[str, Any] | None = None) -> Recipe:
    """The recipe of an imported network: a shipped one by the tensors' shapes, or one by name.

    Raises:
        PnsegError: a size that is not known, or no such recipe or field.
    """
    guessed, told = kind.recipe(state)
    return read_recipe(name or guessed, {**told, **(overrides or {})})


def fill(path: Path, kind: Kind, state: State, recipe: Recipe) -> tuple[nn.Module, Card]:
    """The native network with a published file's tensors, and its card.

    Raises:
        MisfitError: tensors that are missing, unexpected or of another shape.
    """
    card = Card(network=kind.network, recipe=recipe, imported=f"{path.name} {sha256_of(path)}")
    network = build(card)
    own = network.state_dict()
    fresh = [name for name in own if name.startswith(("mask_decoder.class_token.", "mask_decoder.class_head."))]
    expected = {name: tensor for name, tensor in own.items() if name not in fresh or name in state}
    rows = misfits(state, expected)
    if rows:
        missing = sum(given == NONE for _, given, _ in rows)
        unexpected = sum(wanted == NONE for _, _, wanted in rows)
        raise MisfitError(
            f"{path}: looks like {kind.title} of size {recipe.size}, but {missing} tensors are missing, "
            f"{unexpected} unexpected and {len(rows) - missing - unexpected} of another shape.",
            rows,
        )
    network.load_state_dict({**own, **state}, strict=True)
    return network, card


NONE = "–"


def misfits(state: State, expected: State) -> list[tuple[str, str, str]]:
    """(tensor, shape in the file, shape in the network) of those that differ, "–" for none."""
    return [
        (name, _shape(state.get(name)), _shape(expected.get(name)))
        for name in dict.fromkeys([*expected, *state])
        if _shape(state.get(name)) != _shape(expected.get(name))
    ]


def _shape(tensor: Tensor | None) -> str:
    return NONE if tensor is None else " × ".join(map(str, tensor.shape)) or "scalar"


def _can_map(path: Path) -> bool:
    # Only files of the zip format can be mapped; the older format is read whole.
    with path.open("rb") as stream:
        return stream.read(2) == b"PK"
