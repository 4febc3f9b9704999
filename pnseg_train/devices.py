"""The devices that a training runs on, and what they compute in."""

from __future__ import annotations

import os
from typing import Any

import torch
from lightning_fabric import Fabric
from lightning_fabric.strategies.ddp import DDPStrategy

from pnseg_runtime.errors import PnsegError, one_line


def open_fabric(accelerator: str, devices: str, precision: Any) -> Fabric:
    """Lightning Fabric on one device, on several, or as one of torchrun's processes.

    Args:
        devices: their number, or ``auto`` for all there are; torchrun's processes count instead of it.

    Raises:
        PnsegError: not such a number, or an accelerator or a precision that there is not.
    """
    if "LOCAL_WORLD_SIZE" in os.environ:  # started by torchrun, which says how many there are
        here, everywhere = int(os.environ["LOCAL_WORLD_SIZE"]), int(os.environ["WORLD_SIZE"])
    else:
        here = everywhere = device_count(accelerator, devices)
    # SAM's decoder has parts that no single mask needs, and a crop without a nucleus has no masks at all: these
    # parameters get no gradient.
    several: dict[str, Any] = {"num_nodes": everywhere // here, "strategy": DDPStrategy(find_unused_parameters=True)}
    try:
        return Fabric(accelerator=accelerator, devices=here, precision=precision, **(several if everywhere > 1 else {}))
    except (ValueError, RuntimeError) as error:
        raise PnsegError(
            f"--accelerator {accelerator}, --devices {here} and plan.precision {precision} do not go here "
            f"({one_line(error)}); --accelerator cpu --devices 1 goes everywhere."
        ) from error


def device_count(accelerator: str, devices: str) -> int:
    """How many devices ``--devices`` means: a number, or all of CUDA's for ``auto``.

    Raises:
        PnsegError: neither of them.
    """
    if devices == "auto":
        return max(torch.cuda.device_count(), 1) if accelerator in {"auto", "cuda", "gpu"} else 1
    if not devices.isdecimal() or int(devices) < 1:
        raise PnsegError(
            f"--devices {devices}: give the number of devices, or auto for all; CUDA_VISIBLE_DEVICES says which."
        )
    return int(devices)
