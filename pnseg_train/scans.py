"""What scanners and files leave of an image: augmentation for the image alone, drawn from torch's global generator."""

from __future__ import annotations

from typing import Any

import torch
from torchvision import tv_tensors
from torchvision.transforms import v2
from torchvision.transforms.v2 import functional as VF

from pnseg_runtime.softening import Blur, soften


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
        return _softened(inpt, params["blur"])


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


class TwoFiles(v2.Transform):
    """An image as two files hold it, the second made from the first: two images in place of one.

    Three in four are of a scanner of lower magnification. Colour is softened in both alike, as before inference.
    """

    def make_params(self, flat_inputs: list[Any]) -> dict[str, Any]:
        drawn = torch.rand(5).tolist()
        return {
            "factor": 1.4 + 0.8 * drawn[0] if drawn[1] < 0.75 else 1.0,
            "quality": (round(60 + 35 * drawn[2]), round(30 + 65 * drawn[3])),
            "blur": 0.5 + 2.5 * drawn[4],
        }

    def transform(self, inpt: Any, params: dict[str, Any]) -> Any:
        if not isinstance(inpt, tv_tensors.Image):
            return inpt
        size = list(VF.get_size(inpt))
        one = _resized(inpt, [max(round(side / params["factor"]), 1) for side in size])
        files = []
        for quality in params["quality"]:
            one = VF.jpeg(one, quality)
            files.append(_softened(_resized(one, size), params["blur"]))
        return tuple(files)


def _resized(image: Any, size: list[int]) -> Any:
    return VF.resize(image, size, interpolation=VF.InterpolationMode.BICUBIC, antialias=True)


def _softened(image: Any, blur: float) -> Any:
    soft = soften(image.permute(1, 2, 0).contiguous().numpy(), Blur(colour=blur))
    return tv_tensors.Image(torch.from_numpy(soft).permute(2, 0, 1))


def stored(share: float) -> v2.Transform:
    """What files leave of ``share`` of the images before they are cut and scaled; half of them are of 20× scanners."""
    compressed = v2.RandomApply([v2.JPEG(quality=(20, 95))], p=0.7)
    return v2.RandomApply([v2.RandomChoice([compressed, CoarseScan((1.4, 2.2), compressed)])], p=share)


def seen(share: float) -> v2.Transform:
    """What files leave of crops at the model's resolution: half of ``share`` compressed, colour softer in ``share``."""
    compressed = v2.RandomApply([v2.JPEG(quality=(20, 95))], p=share / 2)
    return v2.Compose([compressed, v2.RandomApply([SoftColour((0.5, 4.0))], p=share)])
