"""What scanners and files leave of an image: augmentation for the image alone, drawn from torch's global generator."""

from __future__ import annotations

from typing import Any

import torch
from torchvision import tv_tensors
from torchvision.transforms import v2
from torchvision.transforms.v2 import functional as VF

from pnseg_runtime.pixels import soften_colour


class SoftColour(v2.Transform):
    """Differences of colour blurred by a random Gaussian, as files of scanners keep them (standard deviation, px)."""

    def __init__(self, blur: tuple[float, float]):
        super().__init__()
        self.blur = blur

    def make_params(self, flat_inputs: list[Any]) -> dict[str, Any]:
        low, high = self.blur
        return {"blur": low + (high - low) * float(torch.rand(()))}

    def transform(self, inpt: Any, params: dict[str, Any]) -> Any:
        if not isinstance(inpt, tv_tensors.Image):
            return inpt
        soft = soften_colour(inpt.permute(1, 2, 0).contiguous().numpy(), params["blur"])
        return tv_tensors.Image(torch.from_numpy(soft).permute(2, 0, 1))


class CoarseScan(v2.Transform):
    """An image as a scanner of lower magnification had stored it, enlarged to its size again.

    Args:
        factors: how much lower, at least and at most.
        file: what the file did to it.
    """

    def __init__(self, factors: tuple[float, float], file: v2.Transform):
        super().__init__()
        self.factors, self.file = factors, file

    def make_params(self, flat_inputs: list[Any]) -> dict[str, Any]:
        low, high = self.factors
        return {"factor": low + (high - low) * float(torch.rand(()))}

    def transform(self, inpt: Any, params: dict[str, Any]) -> Any:
        if not isinstance(inpt, tv_tensors.Image):
            return inpt
        size = list(VF.get_size(inpt))
        small = VF.resize(inpt, [max(round(side / params["factor"]), 1) for side in size], antialias=True)
        return VF.resize(self.file(small), size, antialias=True)


def stored(share: float) -> v2.Transform:
    """What files leave of ``share`` of the images before they are cut and scaled; half of them are of 20× scanners."""
    compressed = v2.RandomApply([v2.JPEG(quality=(20, 95))], p=0.7)
    return v2.RandomApply([v2.RandomChoice([compressed, CoarseScan((1.4, 2.2), compressed)])], p=share)


def seen(share: float) -> v2.Transform:
    """What files leave of crops at the model's resolution: half of ``share`` compressed, colour softer in ``share``."""
    compressed = v2.RandomApply([v2.JPEG(quality=(20, 95))], p=share / 2)
    return v2.Compose([compressed, v2.RandomApply([SoftColour((0.5, 4.0))], p=share)])
