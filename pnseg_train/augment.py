"""Augmentation of a crop: geometry for image and maps together, colour for the image alone.

Everything is a torchvision v2 transform on tv_tensors, drawn from torch's global generator, so a
seeded item is always the same crop.
"""

from __future__ import annotations

import math
from typing import Any

import numpy as np
import torch
from scipy import ndimage
from torch import Tensor
from torchvision import tv_tensors
from torchvision.transforms import v2
from torchvision.transforms.v2 import functional as VF

from pnseg_train.datasets.sample import Sample

# Optical densities of haematoxylin, eosin and a residual (Ruifrok & Johnston 2001), rows are stains.
_HED = torch.tensor([[0.65, 0.70, 0.29], [0.07, 0.99, 0.11], [0.27, 0.57, 0.78]])


class StainJitter(v2.Transform):
    """Scale and shift the amount of each stain (Tellez et al. 2018)."""

    def __init__(self, scale: float = 0.25, shift: float = 0.05):
        super().__init__()
        self.scale, self.shift = scale, shift

    def make_params(self, flat_inputs: list[Any]) -> dict[str, Any]:
        factor = 1 + self.scale * (2 * torch.rand(3) - 1)
        return {"factor": factor, "offset": self.shift * (2 * torch.rand(3) - 1)}

    def transform(self, inpt: Any, params: dict[str, Any]) -> Any:
        if not isinstance(inpt, tv_tensors.Image):
            return inpt
        stains = -torch.log10((inpt.float() + 1.0) / 256.0).flatten(1).T @ torch.linalg.inv(_HED)
        stains = stains * params["factor"] + params["offset"]
        pixels = 256.0 * torch.pow(10.0, -(stains @ _HED)) - 1.0
        return tv_tensors.Image(pixels.T.reshape(inpt.shape).clamp(0, 255).to(inpt.dtype))


class ZoomCrop(v2.Transform):
    """A square crop at a random scale, resized to ``size``.

    The scale is drawn so that the image's median nucleus gets a diameter around ``diameter``
    (log-normal, ``spread`` in the log) in half of the cases, and around the image's own scale in
    the other half: nuclei of every set are seen at the sizes that other scanners would give them.
    With a ``diameter`` of 0 every crop is around the image's own scale.
    """

    def __init__(self, size: int, median_diameter: float, diameter: float, spread: float, limits: tuple[float, float]):
        super().__init__()
        self.size, self.median_diameter = size, median_diameter
        self.diameter, self.spread, self.limits = diameter, spread, limits

    def make_params(self, flat_inputs: list[Any]) -> dict[str, Any]:
        height, width = VF.get_size(flat_inputs[0])
        side = round(self.size / self._scale())
        # A crop is never mostly mirror; and mirroring needs less padding than there are pixels.
        side = min(side, int(1.5 * min(height, width)))
        pad_y, pad_x = max(0, side - height), max(0, side - width)
        top = int(torch.randint(0, max(height - side, 0) + 1, ()))
        left = int(torch.randint(0, max(width - side, 0) + 1, ()))
        before_y, before_x = int(torch.randint(0, pad_y + 1, ())), int(torch.randint(0, pad_x + 1, ()))
        padding = [before_x, before_y, pad_x - before_x, pad_y - before_y]
        return {"padding": padding, "top": top, "left": left, "side": side}

    def _scale(self) -> float:
        jitter = math.exp(self.spread * float(torch.randn(())))
        known = self.median_diameter > 0 and self.diameter > 0
        towards = self.diameter / self.median_diameter if float(torch.rand(())) < 0.5 and known else 1.0
        return min(max(towards * jitter, self.limits[0]), self.limits[1])

    def transform(self, inpt: Any, params: dict[str, Any]) -> Any:
        if any(params["padding"]):
            inpt = VF.pad(inpt, params["padding"], padding_mode="reflect")
        place = [params["top"], params["left"], params["side"], params["side"]]
        if isinstance(inpt, tv_tensors.Mask):
            return tv_tensors.wrap(nearest(VF.crop(inpt, *place), self.size), like=inpt)
        return VF.resized_crop(inpt, *place, [self.size, self.size], antialias=True)


def nearest(maps: Tensor, size: int) -> Tensor:
    """Maps (C, S, S) of integers resized to (C, size, size): each pixel takes the one its centre falls into.

    torchvision's own resizing of masks takes the one its upper left corner falls into, which moves
    maps against their image by half a pixel on average, and by a whole one at scales just over 1.
    """
    centres = (torch.arange(size) + 0.5) * (maps.shape[-1] / size)
    index = centres.long().clamp_max(maps.shape[-1] - 1)
    return maps[:, index][:, :, index]


class QuarterTurn(v2.Transform):
    """Rotation by a random multiple of 90 degrees."""

    def make_params(self, flat_inputs: list[Any]) -> dict[str, Any]:
        return {"turns": int(torch.randint(0, 4, ()))}

    def transform(self, inpt: Any, params: dict[str, Any]) -> Any:
        return tv_tensors.wrap(torch.rot90(inpt, params["turns"], (-2, -1)), like=inpt)


def geometry(
    median_diameter: float, size: int, diameter: float, spread: float, limits: tuple[float, float], turns: bool = True
) -> v2.Transform:
    """Crop, scale, turn, flip and bend: image and maps alike; without ``turns`` crops stay upright."""
    orientation = [QuarterTurn(), v2.RandomHorizontalFlip()] if turns else []
    return v2.Compose([
        ZoomCrop(size, median_diameter, diameter, spread, limits),
        *orientation,
        v2.RandomApply([v2.ElasticTransform(alpha=30.0, sigma=6.0)], p=0.15),
    ])  # fmt: skip


def colour(strength: float) -> v2.Transform:
    """Stain, colour, blur, noise and compression: what laboratories and scanners change."""
    s = strength
    return v2.Compose([
        v2.RandomApply([StainJitter(0.3 * s, 0.06 * s)], p=0.7),
        v2.RandomApply([v2.ColorJitter(0.25 * s, 0.3 * s, 0.4 * s, 0.06 * s)], p=0.7),
        v2.RandomGrayscale(p=0.03 * s),
        v2.RandomApply([v2.GaussianBlur(7, sigma=(0.3, 1.6))], p=0.25 * s),
        v2.RandomApply([v2.RandomAdjustSharpness(2.5, p=1.0)], p=0.15 * s),
        v2.RandomApply([v2.JPEG(quality=(35, 95))], p=0.15 * s),
        v2.RandomApply([v2.GaussianNoise(sigma=0.03)], p=0.2 * s),
    ])  # fmt: skip


def as_tv(sample: Sample) -> tuple[tv_tensors.Image, tv_tensors.Mask]:
    """Image (3, H, W) uint8 and maps (2, H, W) int32: instances, classes."""
    maps = np.stack([sample.instances, sample.classes.astype(np.int32)])
    return tv_tensors.Image(torch.from_numpy(sample.image).permute(2, 0, 1)), tv_tensors.Mask(torch.from_numpy(maps))


def separate(instances: Tensor, minimum: int = 16) -> Tensor:
    """Give each connected piece of an instance its own id, 1..N, and drop pieces below ``minimum`` px.

    Mirroring at an image border repeats ids, and a crop may cut a nucleus in two.
    """
    source = instances.numpy()
    result = np.zeros_like(source)
    count = 0
    for value, place in enumerate(ndimage.find_objects(source), start=1):
        if place is None:
            continue
        pieces, number = ndimage.label(source[place] == value)
        areas = np.bincount(pieces.ravel(), minlength=number + 1)
        for piece in range(1, number + 1):
            if areas[piece] >= minimum:
                count += 1
                result[place][pieces == piece] = count
    return torch.from_numpy(result)
