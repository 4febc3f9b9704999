"""Checkpoints run by the runtime's own pipeline, in PyTorch instead of an exported graph."""

from __future__ import annotations

import logging
import math
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray

from pnseg_runtime.bundle import Bundle
from pnseg_runtime.errors import PnsegError
from pnseg_runtime.options import Options
from pnseg_runtime.pipeline import Pipeline
from pnseg_runtime.segmenter import Segmenter
from pnseg_runtime.sessions import Runner, Sessions
from pnseg_train.checkpoints import load_checkpoint, read_card
from pnseg_train.manifests import manifest_of
from pnseg_train.models.features import ImageFeatures
from pnseg_train.models.prompter import Prompter
from pnseg_train.models.segmentor import Prompts, Segmentor
from pnseg_train.recipes import NO_SPLIT, Recipe

log = logging.getLogger(__name__)
Arrays = dict[str, NDArray[Any]]

# Settings of the prediction that are the prompter's; all others are the segmentor's.
OF_POINTS = ("sensitivity", "region_filter", "pad_multiple", "nms_radius")
# Those that the points of an image at the model's resolution depend on: by them a prompter is validated.
JUDGING_POINTS = (*OF_POINTS, "colour_blur")


def torch_sessions(prompter: Prompter, segmentor: Segmentor, device: torch.device | None = None) -> Sessions:
    """The three networks under the names and tensors of an exported bundle.

    Args:
        device: where both networks are, and arrays are taken to and from; None for the CPU.
    """

    def encode(image: torch.Tensor) -> dict[str, torch.Tensor]:
        return {k: v for k, v in segmentor.encode(image)._asdict().items() if v is not None}

    return Sessions(
        prompter=_runner(lambda image: prompter(image)._asdict(), device),
        encoder=_runner(encode, device),
        decoder=_runner(lambda **tensors: _decode(segmentor, **tensors), device),
    )


def points_pipeline(prompter: Prompter, recipe: Recipe) -> Pipeline:
    """The runtime's pipeline as far as the points, for a prompter that is being trained; it has no other network."""

    def absent(_: Arrays) -> Arrays:
        raise RuntimeError("There is no segmentor beside a prompter that is being trained.")

    network = _runner(lambda image: prompter(image)._asdict(), next(prompter.parameters()).device)
    return Pipeline(manifest_of(recipe), Options(), Sessions(prompter=network, encoder=absent, decoder=absent))


def _decode(
    segmentor: Segmentor,
    point_coords: torch.Tensor,
    point_labels: torch.Tensor,
    image_index: torch.Tensor,
    **features: torch.Tensor,
) -> dict[str, torch.Tensor]:
    output = segmentor.decode(ImageFeatures(**features), Prompts(point_coords, point_labels, image_index))
    return {name: tensor for name, tensor in output._asdict().items() if tensor is not None}


def _runner(network: Any, device: torch.device | None = None) -> Runner:
    @torch.no_grad()
    def run(inputs: Arrays) -> Arrays:
        tensors = {name: torch.from_numpy(np.ascontiguousarray(array)).to(device) for name, array in inputs.items()}
        return {name: tensor.cpu().numpy() for name, tensor in network(**tensors).items()}

    return run


def open_checkpoints(prompter: Path, segmentor: Path, options: Options | None = None) -> Segmenter:
    """The runtime's pipeline on two checkpoints. The threads of the options become PyTorch's in this process.

    Raises:
        PnsegError: a folder that is not such a checkpoint.
    """
    first, second, recipe = load_pair(prompter, segmentor)
    if options and options.threads:
        torch.set_num_threads(options.threads)
    return Segmenter(Bundle(prompter, manifest_of(recipe)), options, sessions=torch_sessions(first, second))


def load_pair(prompter: Path, segmentor: Path) -> tuple[Prompter, Segmentor, Recipe]:
    """Both networks, and the recipe of the pair as :func:`pair_recipe` puts it together.

    Raises:
        PnsegError: a folder that is not such a checkpoint, or two that do not go together.
    """
    first, first_card = load_checkpoint(prompter)
    second, second_card = load_checkpoint(segmentor)
    if not isinstance(first, Prompter):
        raise PnsegError(f"{prompter}: holds a {first_card.network}; give the prompter's checkpoint first.")
    if not isinstance(second, Segmentor):
        raise PnsegError(f"{segmentor}: holds a {second_card.network}; give the segmentor's checkpoint second.")
    if first_card.recipe.class_by != second_card.recipe.class_by:
        raise PnsegError(
            f"{prompter} and {segmentor}: one was trained with class_by: prompter, the other with class_by: segmentor; "
            "give two of one kind."
        )
    return first, second, pair_recipe(prompter, first_card.recipe, segmentor, second_card.recipe)


def validation_split(prompter: Path, segmentor: Path) -> str:
    """The split that chose the steps of two checkpoints, and that neither has been trained on.

    Raises:
        PnsegError: there is none, or each has another.
    """
    splits = {read_card(folder).recipe.splits.val for folder in (prompter, segmentor)}
    if len(splits) > 1:
        raise PnsegError(f"{prompter} and {segmentor}: each held out another ({', '.join(splits)}); give --split.")
    if NO_SPLIT in splits:
        raise PnsegError(f"{prompter} and {segmentor}: trained with no images held out; give --split.")
    return splits.pop()


def pair_recipe(prompter: Path, points: Recipe, segmentor: Path, masks: Recipe) -> Recipe:
    """The recipe of a pair, from those of both checkpoints.

    Each network brings what is its own: the prompter the settings of points, the segmentor the size's name (B, L
    and H have one prompter), K and the settings of masks and windows, and the one that tells the classes their names.
    Where the other checkpoint has another setting, the log says which is taken.

    Raises:
        PnsegError: the two see images at different resolutions.
    """
    if not math.isclose(points.mpp, masks.mpp):
        raise PnsegError(
            f"{prompter} and {segmentor}: one was trained at {points.mpp:g} µm per pixel, the other at {masks.mpp:g}; "
            "give two of one resolution."
        )
    tells = points if points.class_by == "prompter" else masks
    own: dict[str, Any] = {
        "size": masks.size,
        "classes": tells.classes,
        "colors": tells.colors,
        "segmentor": masks.segmentor,
        "inference": points.inference.model_copy(update=masks.inference.model_dump(exclude=set(OF_POINTS))),
    }
    for name, taken in own["inference"].model_dump().items():
        for folder, recipe in ((prompter, points), (segmentor, masks)):
            if getattr(recipe.inference, name) != taken:
                left = getattr(recipe.inference, name)
                log.warning("%s: its inference.%s of %s is not taken, but %s of the other", folder, name, left, taken)
    return points.model_copy(update=own)
