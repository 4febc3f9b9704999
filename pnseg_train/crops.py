"""Augmented crops for training, each determined by the seed and its number alone.

Because item i is always the same crop, a run that stops and resumes goes on exactly.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import NamedTuple

import numpy as np
import torch
from torch import Tensor
from torch.utils.data import DataLoader, Dataset, Sampler
from torchvision import tv_tensors

from pnseg_train.augment import as_tv, colour, geometry, separate
from pnseg_train.clumps import add_clumps
from pnseg_train.datasets import Sample
from pnseg_train.recipes import Augment
from pnseg_train.scans import TwoFiles, seen, stored

IMAGENET_MEAN = (0.485, 0.456, 0.406)
IMAGENET_STD = (0.229, 0.224, 0.225)


class Crop(NamedTuple):
    """A crop and what is in it.

    Attributes:
        image: (3, S, S) float32, normalised.
        instances: (S, S) int64, 1..N.
        classes: (S, S) int64.
        other: (3, S, S) float32, the image as another file holds it; (0,) where the recipe asks for none.
    """

    image: Tensor
    instances: Tensor
    classes: Tensor
    other: Tensor = torch.empty(0)


def normalise(image: Tensor) -> Tensor:
    """uint8 RGB (..., 3, H, W) → float32 with ImageNet's mean and deviation."""
    mean = torch.tensor(IMAGENET_MEAN).view(3, 1, 1)
    std = torch.tensor(IMAGENET_STD).view(3, 1, 1)
    return (image.float() / 255.0 - mean) / std


class Crops(Dataset[Crop]):
    """An endless set of crops over several sets of samples.

    A sample is drawn in proportion to its pixels.
    """

    def __init__(self, samples: list[Sample], augment: Augment, seed: int, length: int):
        self.samples, self.seed, self.length = samples, seed, length
        self.maps = [as_tv(sample) for sample in samples]
        self.geometry = [
            geometry(
                sample.median_diameter(), augment.crop, augment.diameter, augment.spread, augment.limits, augment.turns
            )
            for sample in samples
        ]
        self.colour = colour(augment.colour)
        self.stored, self.seen = stored(augment.compression), seen(augment.compression)
        self.clumps, self.compression = augment.clumps, augment.compression
        self.pairs, self.files = augment.pairs, TwoFiles()
        self.weights = torch.tensor([float(sample.instances.size) for sample in samples])

    def __len__(self) -> int:
        return self.length

    def __getitem__(self, index: int) -> Crop:
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(item_seed(self.seed, index))
            chosen = int(torch.multinomial(self.weights, 1))
            image, maps = self.maps[chosen]
            if self.compression:
                image = self.stored(image)
            image, maps = self.geometry[chosen](image, maps)
            instances, classes = separate(maps[0].as_subclass(Tensor)), maps[1].as_subclass(Tensor)
            if float(torch.rand(())) < self.clumps:
                image, instances, classes = _with_clumps(image, instances, classes)
            image = self.colour(image)
            if self.compression:
                image = self.seen(image)
            image, other = self.files(image) if float(torch.rand(())) < self.pairs else (image, image)
        crop = Crop(normalise(image.as_subclass(Tensor)), instances.long(), classes.long())
        return crop._replace(other=normalise(other.as_subclass(Tensor))) if self.pairs else crop


def _with_clumps(
    image: tv_tensors.Image, instances: Tensor, classes: Tensor
) -> tuple[tv_tensors.Image, Tensor, Tensor]:
    pixels = image.permute(1, 2, 0).contiguous().numpy()
    pixels, labels, kinds = add_clumps(pixels, instances.numpy(), classes.numpy())
    return (
        tv_tensors.Image(torch.from_numpy(pixels).permute(2, 0, 1)),
        separate(torch.from_numpy(labels)),  # a copy may hide a nucleus or cut it in two
        torch.from_numpy(kinds),
    )


def item_seed(seed: int, index: int) -> int:
    """A seed for item ``index`` of a run, well mixed."""
    return int(np.random.SeedSequence([seed, index]).generate_state(1, np.uint64)[0] >> 1)


class _From(Sampler[int]):
    # Items start, start + 1, …: where a resumed run goes on.
    def __init__(self, start: int, stop: int, stride: int, offset: int):
        self.items = range(start + offset, stop, stride)

    def __iter__(self) -> Iterator[int]:
        return iter(self.items)

    def __len__(self) -> int:
        return len(self.items)


def loader(
    crops: Crops, batch: int, first_step: int, rank: int = 0, world: int = 1, workers: int = 0
) -> DataLoader[Crop]:
    """Batches from ``first_step`` on; with several processes each takes every ``world``-th item."""
    items = _From(first_step * batch * world, len(crops), world, rank)
    return DataLoader(crops, batch_size=batch, sampler=items, num_workers=workers, drop_last=True)
