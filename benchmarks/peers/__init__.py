"""The methods that the paper compares with: a registry that is data, one small file a method.

A method's module has a function ``peer()`` that gives a :class:`Peer`. None of it is imported until
it is asked for. The networks are built from the papers, to the parameters and multiply-accumulates
that PromptNucSeg's Table 5 prints: ``cellseg-models-pytorch`` has networks of the same names, but
modern ones of other sizes (its StarDist on a ResNet-50 has 30.7 M parameters and 24.4 GMACs where
the paper measured 122.8 M and 263.6 G, its HoVer-Net 35.9 M and 31.3 G in place of 37.6 M and
150.0 G). The post-processing is that library's wherever it has the method's own.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from importlib import import_module
from typing import Any

import numpy as np
from numpy.typing import NDArray
from torch import Tensor, nn

Labels = NDArray[np.int32]
Arrays = Mapping[str, NDArray[Any]]

#: Classes of nuclei in PanNuke, without background.
CLASSES = 5

#: Method → the module of its :class:`Peer`.
PEERS = {
    "StarDist": "benchmarks.peers.stardist",
    "HoVer-Net": "benchmarks.peers.hovernet",
    "CPP-Net": "benchmarks.peers.cppnet",
    "PointNu-Net": "benchmarks.peers.pointnunet",
    "CellViT-B": "benchmarks.peers.cellvit",
}


def as_arrays(maps: Arrays, _: str) -> Arrays:
    """Post-processing on the CPU reads arrays."""
    return maps


@dataclass(frozen=True)
class Peer:
    """A method, from pixels to instances.

    Attributes:
        build: its network with random weights: normalised images (B, 3, 256, 256) float32 → raw maps by name.
        activate: raw maps → what its post-processing reads, still on the device.
        maps: (H, W) label map and (H, W) class map → the maps that a perfect network would give,
            float32, as ``activate`` gives them for one image, without the axis of the batch.
        finish: such maps → (H, W) int32 instances, by the method's own post-processing.
        outputs: names of the raw maps, in order.
        place: made maps → where the post-processing has them, outside of what is timed; most have them as arrays.
        origin: where network and post-processing come from.
        difference: why its counts are not exactly the paper's.
    """

    build: Callable[[], nn.Module]
    activate: Callable[[Mapping[str, Tensor]], Mapping[str, Tensor]]
    maps: Callable[[Labels, Labels], Arrays]
    finish: Callable[[Any], Labels]
    outputs: tuple[str, ...]
    origin: str
    difference: str
    place: Callable[[Arrays, str], Any] = as_arrays


def open_peer(method: str) -> Peer:
    """A method of :data:`PEERS`.

    Raises:
        ImportError: a library that its post-processing comes from is not installed.
    """
    found: Peer = import_module(PEERS[method]).peer()
    return found
