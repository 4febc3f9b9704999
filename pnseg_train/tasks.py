"""What is trained: a network, its loss on a batch of crops, and its score on validation images."""

from __future__ import annotations

from collections.abc import Iterator
from typing import NamedTuple, Protocol

import numpy as np
import torch
import torch.nn.functional as F
from numpy.typing import NDArray
from torch import Tensor, nn

from pnseg_runtime.metrics import match_points
from pnseg_runtime.pipeline import Pipeline
from pnseg_runtime.softening import Blurs, see
from pnseg_runtime.windows import cut, most_central, windows
from pnseg_train.augment import separate
from pnseg_train.crops import Crop, normalise
from pnseg_train.datasets import Sample
from pnseg_train.inference import JUDGING_POINTS, points_pipeline
from pnseg_train.losses import class_focal_loss, disagreement, prompter_losses, segmentor_losses, soft_iou, vote_losses
from pnseg_train.models.features import ImageFeatures
from pnseg_train.models.prompter import Prompter, PrompterOutput
from pnseg_train.models.segmentor import WINDOW, Prompts, full_size
from pnseg_train.models.shared import SharedPair
from pnseg_train.recipes import Plan, Recipe
from pnseg_train.targets import (
    Pixels,
    VoteTargets,
    centroids,
    contacts,
    label_centroids,
    mask_targets,
    nucleus_classes,
    pixels_by_nucleus,
    random_prompts,
    vote_targets,
)


class Task(Protocol):
    """A network with its loss and its validation.

    Attributes:
        score: the metric that chooses the best.
        judged_by: settings of the recipe's ``inference`` that the validation follows.
    """

    score: str
    judged_by: tuple[str, ...]
    plan: Plan
    frozen: tuple[str, ...]

    def losses(self, network: nn.Module, crop: Crop) -> dict[str, Tensor]: ...

    def validate(self, network: nn.Module, samples: list[Sample]) -> dict[str, float]: ...


# What a recipe calls the parts of a prompter → its modules.
PROMPTER_PARTS = {
    "backbone": ("backbone.backbone",),
    "points": ("backbone.neck", "deform_layer", "reg_head", "cls_head", "conv"),
    "region": ("backbone.neck1", "mask_head"),
}


class PrompterTask:
    """Points and classes (Eq. 3 and 4), judged by detection within 12 px."""

    score = "f1"
    judged_by: tuple[str, ...] = JUDGING_POINTS

    def __init__(self, recipe: Recipe):
        self.whole, self.recipe, self.plan = recipe, recipe.prompter, recipe.prompter.plan
        self.frozen = tuple(module for part in recipe.prompter.frozen for module in PROMPTER_PARTS[part])
        self.tells_classes = recipe.class_by == "prompter"

    def losses(self, network: nn.Module, crop: Crop) -> dict[str, Tensor]:
        if not self.recipe.agreement:
            return self.losses_of(network(crop.image), crop)
        # One pass, so that batch norms take both alike.
        both = network(torch.cat([crop.image, crop.other]))
        output, other = (PrompterOutput(*parts) for parts in zip(*(part.chunk(2) for part in both), strict=True))
        apart = disagreement(output, other, self.recipe.point_weight, self.recipe.region_weight)
        return self.losses_of(output, crop) | {"agreement": self.recipe.agreement * apart}

    def losses_of(self, output: PrompterOutput, crop: Crop) -> dict[str, Tensor]:
        """The terms of Eq. 4 for a prompter's outputs on a batch of crops."""
        pixels = [pixels_by_nucleus(instances) for instances in crop.instances.cpu()]
        kinds = [nucleus_classes(p, classes) for p, classes in zip(pixels, crop.classes.cpu(), strict=True)]
        if not self.tells_classes:
            kinds = [torch.zeros_like(kind) for kind in kinds]
        device = crop.image.device
        return prompter_losses(
            output,
            [centroids(p).to(device) for p in pixels],
            [kind.to(device) for kind in kinds],
            (crop.instances > 0).float()[:, None],
            self.recipe.background_weight,
            self.recipe.point_weight,
            self.recipe.region_weight,
        )

    def validate(self, network: nn.Module, samples: list[Sample]) -> dict[str, float]:
        assert isinstance(network, Prompter)
        hits = proposed = present = 0
        pipeline = points_pipeline(network, self.whole)
        for sample in samples:
            found = find_points(pipeline, sample.image)
            truth = label_centroids(sample.instances)
            hits += len(match_points(truth, found).pairs)
            proposed, present = proposed + len(found), present + len(truth)
        precision, recall = hits / max(proposed, 1), hits / max(present, 1)
        return {"precision": precision, "recall": recall, "f1": 2 * hits / max(proposed + present, 1)}


class SegmentorTask:
    """Masks of point prompts (Eq. 2), judged by the IoU of prompts on centroids."""

    score = "iou"
    judged_by: tuple[str, ...] = ()

    def __init__(self, recipe: Recipe):
        self.recipe, self.plan = recipe.segmentor, recipe.segmentor.plan
        self.frozen: tuple[str, ...] = tuple(self.recipe.frozen)

    def losses(self, network: nn.Module, crop: Crop) -> dict[str, Tensor]:
        return self.losses_of(network, network.encode(crop.image), crop)  # type: ignore[operator]

    def losses_of(self, network: nn.Module, features: ImageFeatures, crop: Crop) -> dict[str, Tensor]:
        """The terms of Eq. 2, and of the network's own extras, on encoded crops."""
        recipe, device = self.recipe, crop.image.device
        pixels = [pixels_by_nucleus(instances) for instances in crop.instances.cpu()]
        drawn = [
            random_prompts(p, image, recipe.instances, recipe.negatives, recipe.drop_negatives, recipe.central)
            for image, p in enumerate(pixels)
        ]
        prompts = Prompts(
            *(torch.cat(part).to(device) for part in zip(*(prompts for prompts, _ in drawn), strict=True))
        )
        ids = torch.cat([chosen + 1 for _, chosen in drawn]).to(device)

        terms: dict[str, Tensor] = {}
        if recipe.vote_weight and features.votes is not None and features.detail is not None:
            targets = vote_targets(crop.instances.cpu(), [centroids(p) for p in pixels])
            targets = VoteTargets(*(part.to(device) for part in targets))
            dense = vote_losses(features.votes, features.detail[:, 0].float(), targets)
            terms |= {name: recipe.vote_weight * term for name, term in dense.items()}
        if len(ids):
            output = network.decode(features, prompts)  # type: ignore[operator]
            logits = full_size(output.mask_logits) if recipe.full_size else output.mask_logits.float()
            target = mask_targets(crop.instances, prompts, ids, logits.shape[-1])
            weight = self._pixel_weights(crop.instances, logits.shape[-1])
            weight = weight if weight is None else weight[prompts.image_index]
            terms |= segmentor_losses(
                logits,
                output.iou.float(),
                target,
                recipe.dice_each,
                recipe.focal_weight,
                weight=weight,
                dice_weight=recipe.dice_weight,
            )
            if output.class_logits is not None:
                kinds = [
                    nucleus_classes(p, c)[own] for p, c, (_, own) in zip(pixels, crop.classes.cpu(), drawn, strict=True)
                ]
                told = class_focal_loss(output.class_logits, torch.cat(kinds).to(device))
                terms["class"] = recipe.class_weight * told
        if not any(term.requires_grad for term in terms.values()):
            terms |= dict.fromkeys(("focal", "dice", "iou"), _nothing(network))
        return terms

    def _pixel_weights(self, instances: Tensor, side: int) -> Tensor | None:
        # (B, side, side): places where nuclei touch count more.
        if not self.recipe.contact_weight:
            return None
        touching = F.avg_pool2d(contacts(instances)[:, None], instances.shape[-1] // side)[:, 0]
        return 1.0 + self.recipe.contact_weight * touching

    def validate(self, network: nn.Module, samples: list[Sample]) -> dict[str, float]:
        ious = torch.cat([oracle_ious(network, sample) for sample in samples])
        matched = ious > 0.5
        number = max(len(ious), 1)  # of no nucleus there is no mean, and a card holds numbers alone
        return {
            "iou": float(ious.sum()) / number,
            "oracle_dq": float(matched.sum()) / number,
            "oracle_sq": float(ious[matched].mean()) if matched.any() else 0.0,
        }


class SharedTask:
    """Both networks over one image encoder, end to end: the sum of both losses, judged by both scores' mean.

    The plan is the segmentor's.
    """

    score = "both"
    judged_by: tuple[str, ...] = JUDGING_POINTS

    def __init__(self, recipe: Recipe):
        self.points, self.masks = PrompterTask(recipe), SegmentorTask(recipe)
        self.plan = recipe.segmentor.plan
        halves: dict[str, Task] = {"prompter": self.points, "segmentor": self.masks}
        self.frozen = tuple(f"{half}.{part}" for half, task in halves.items() for part in task.frozen)

    def losses(self, network: nn.Module, crop: Crop) -> dict[str, Tensor]:
        assert isinstance(network, SharedPair)
        features = network.encode(crop.image)
        height, width = crop.image.shape[2:]
        points = self.points.losses_of(network.propose(features, (height, width)), crop)
        masks = self.masks.losses_of(network, features, crop)
        return {f"prompter_{name}": term for name, term in points.items()} | masks

    def validate(self, network: nn.Module, samples: list[Sample]) -> dict[str, float]:
        assert isinstance(network, SharedPair)
        metrics = self.points.validate(network.prompter, samples) | self.masks.validate(network.segmentor, samples)
        return metrics | {"both": (metrics["f1"] + metrics["iou"]) / 2}


def _nothing(network: nn.Module) -> Tensor:
    # 0 with a gradient of 0 for all that is trained: crops without a nucleus say nothing about masks, and still
    # make a step, in which each of several processes has the gradients that the others wait for.
    return torch.stack([p.flatten()[:0].sum() for p in network.parameters() if p.requires_grad]).sum()


def find_points(pipeline: Pipeline, image: NDArray[np.uint8]) -> NDArray[np.float32]:
    """(N, 2) points of an image of any size at the model's resolution, px, as the runtime finds them."""
    seen = see(image, Blurs.of(pipeline.settings, 1.0))
    return pipeline.find_points(seen.prompter).coords


class JudgedWindow(NamedTuple):
    """A window on which a segmentor is validated.

    Attributes:
        image: (WINDOW, WINDOW, 3) uint8 RGB, mirrored beyond the sample.
        instances: (WINDOW, WINDOW), 1..N.
        pixels: of these nuclei.
    """

    image: NDArray[np.uint8]
    instances: Tensor
    pixels: Pixels


def judged_windows(sample: Sample) -> Iterator[JudgedWindow]:
    """Windows over a sample, each with the nuclei that it holds most centrally, so that every nucleus counts once.

    Connected pieces are nuclei, as large as :func:`~pnseg_train.augment.separate` keeps them; of one that a window
    cuts, what lies inside counts. Windows without any are left out.
    """
    nuclei = separate(torch.from_numpy(sample.instances)).numpy()
    origins = windows(nuclei.shape, WINDOW, overlap=0)
    owner = most_central(label_centroids(nuclei), origins, WINDOW, nuclei.shape)
    beyond = np.pad(nuclei, [(0, max(WINDOW - side, 0)) for side in nuclei.shape])
    parts = zip(cut(sample.image, origins, WINDOW), cut(beyond, origins, WINDOW), strict=True)
    for window, (image, labels) in enumerate(parts):
        owned = np.isin(labels, np.flatnonzero(owner == window) + 1)
        instances = separate(torch.from_numpy(np.where(owned, labels, 0)))
        pixels = pixels_by_nucleus(instances.long())
        if len(pixels.area):
            yield JudgedWindow(image, instances, pixels)


@torch.no_grad()
def oracle_ious(network: nn.Module, sample: Sample) -> Tensor:
    """IoU of the masks of prompts on centroids, of every nucleus in the window that owns it: (N,)."""
    device = next(network.parameters()).device
    ious = [torch.zeros(0)]
    for image, instances, pixels in judged_windows(sample):
        points = centroids(pixels)[:, None]
        prompts = Prompts(points, torch.ones(points.shape[:2]), torch.zeros(len(points), dtype=torch.int64))
        window = normalise(torch.from_numpy(image).permute(2, 0, 1))[None]
        output = network(window.to(device), Prompts(*(part.to(device) for part in prompts)))
        masks = (full_size(output.mask_logits) > 0).float().cpu()
        truth = (instances == torch.arange(1, len(points) + 1)[:, None, None]).float()
        ious.append(soft_iou(masks, truth))
    return torch.cat(ious)


def task_of(network: nn.Module, recipe: Recipe) -> Task:
    """The task that trains a network."""
    if isinstance(network, SharedPair):
        return SharedTask(recipe)
    return PrompterTask(recipe) if isinstance(network, Prompter) else SegmentorTask(recipe)
