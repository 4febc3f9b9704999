"""Exports take most of the time here, so what several tests look at is exported once."""

from __future__ import annotations

import gc
import os
from collections.abc import Callable, Iterator
from pathlib import Path

import numpy as np
import pytest
from filelock import FileLock

from pnseg_export.bundle import describe_pair, export_bundle, export_segmentor
from pnseg_export.comparison.suspects import export_again
from pnseg_export.graphs.rewrites import TARGETS
from pnseg_runtime.bundle import Bundle
from pnseg_runtime.images import read_image
from pnseg_train.checkpoints import Card, save_checkpoint
from pnseg_train.recipes import read_recipe
from tests import golden
from tests.export.networks import network, prompter, segmentor

Once = Callable[[str, Callable[[Path], object]], Path]


@pytest.fixture(scope="session", autouse=True)
def rarer_collections() -> Iterator[None]:
    """PyTorch's exporter makes millions of objects and hardly a cycle; looking for cycles is a tenth of an export."""
    usual = gc.get_threshold()
    gc.set_threshold(50_000, 20, 20)
    yield
    gc.set_threshold(*usual)


@pytest.fixture(scope="session")
def once(tmp_path_factory) -> Once:
    """Name, maker → a folder that is made by whichever of pytest-xdist's processes asks first. Not to be changed."""
    base = tmp_path_factory.getbasetemp()
    root = (base.parent if "PYTEST_XDIST_WORKER" in os.environ else base) / "once"
    root.mkdir(exist_ok=True)

    def made(name: str, make: Callable[[Path], object]) -> Path:
        with FileLock(root / f"{name}.lock"):
            if not (root / name).exists():
                scratch = root / f"{name}.unfinished"
                scratch.mkdir()
                make(scratch)
                scratch.rename(root / name)
        return root / name

    return made


@pytest.fixture(scope="session")
def tiles() -> list[np.ndarray]:
    return [read_image(path).pixels for path in sorted((golden.TILES / "images").iterdir())[:2]]


@pytest.fixture(scope="session")
def checkpoints(once) -> tuple[Path, Path]:
    """Prompter and segmentor of a nano with random weights. Its points are far apart, so that there are few."""

    def save(folder: Path) -> None:
        changes = {"classes": ["one", "other"], "colors": [[0, 0, 0], [9, 9, 9]], "inference.region_filter": False}
        recipe = read_recipe("nano", {**changes, "inference.nms_radius": 40})
        for part, made in (("prompter", prompter()), ("segmentor", segmentor("nano"))):
            save_checkpoint(folder / part, made, Card(network=part, recipe=recipe, licences=["CC0-1.0"]))

    folder = once("checkpoints", save)
    return folder / "prompter", folder / "segmentor"


@pytest.fixture(scope="session")
def bundle_folder(once, checkpoints, tiles) -> Path:
    """Those checkpoints' bundle."""
    return once("nano", lambda folder: export_bundle(*describe_pair(*checkpoints), folder / "bundle", tiles)) / "bundle"


@pytest.fixture(scope="session")
def exported_again(once, bundle_folder, checkpoints) -> dict[str, Path]:
    """Graph → its file, exported a second time from the same checkpoints."""
    folder = once("again", lambda folder: export_again(Bundle.open(bundle_folder), checkpoints, folder))
    return {path.stem: path for path in folder.glob("*.onnx")}


@pytest.fixture(scope="session")
def exported(once, request) -> Callable[[tuple[str, str]], Path]:
    """(network, target) → the folder of its graphs."""

    def folder(kind: tuple[str, str]) -> Path:
        if kind == ("nano", "cpu"):
            found: Path = request.getfixturevalue("bundle_folder")
            return found
        name, target = kind
        return once("-".join(kind), lambda folder: export_segmentor(network(name), folder, TARGETS[target]))

    return folder
