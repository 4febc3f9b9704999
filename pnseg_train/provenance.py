"""What a run leaves of how it came about: its log, its recipe, and the versions that it was trained with."""

from __future__ import annotations

import json
import logging
import platform
from collections.abc import Iterator
from contextlib import contextmanager
from importlib.metadata import version
from pathlib import Path

import torch
import yaml

from pnseg_train.recipes import Recipe

TOOLS = ("torch", "torchvision", "timm", "segment-anything", "lightning-fabric", "numpy")


@contextmanager
def logged_to(path: Path) -> Iterator[None]:
    """What the training logs goes into a file, too, and its progress is told besides its warnings."""
    ours = logging.getLogger("pnseg_train")
    file, level = logging.FileHandler(path, encoding="utf-8"), ours.level
    file.setFormatter(logging.Formatter("%(asctime)s %(levelname)s %(message)s"))
    ours.addHandler(file)
    ours.setLevel(min(ours.getEffectiveLevel(), logging.INFO))
    try:
        yield
    finally:
        ours.setLevel(level)
        ours.removeHandler(file)
        file.close()


def describe_run(out: Path, recipe: Recipe) -> None:
    """Write the recipe and the environment of a run into its folder."""
    (out / "recipe.yaml").write_text(yaml.safe_dump(recipe.model_dump(mode="json"), sort_keys=False), encoding="utf-8")
    environment = {tool: version(tool) for tool in TOOLS}
    environment |= {
        "python": platform.python_version(),
        "machine": platform.machine(),
        "threads": str(torch.get_num_threads()),
    }
    (out / "environment.json").write_text(json.dumps(environment, indent=1) + "\n", encoding="utf-8")
