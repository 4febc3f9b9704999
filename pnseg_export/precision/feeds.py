"""What the three networks are really given: the inputs of every call while a bundle predicts on tiles."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from pnseg_runtime.bundle import PROMPT_INPUTS, Bundle
from pnseg_runtime.errors import PnsegError
from pnseg_runtime.images import read_image
from pnseg_runtime.segmenter import Segmenter
from pnseg_runtime.sessions import Runner, Sessions, open_sessions

Tile = NDArray[np.uint8]
Arrays = dict[str, NDArray[Any]]

SAMPLES = Path(__file__).parents[2] / "pnseg_runtime" / "samples"
SUFFIXES = {".png", ".jpg", ".jpeg", ".tif", ".tiff"}

#: Calls with more prompts than this are cut, so that a crowded tile weighs no more than others.
MOST_PROMPTS = 32


@dataclass(frozen=True)
class Feeds:
    """Inputs of each network, one entry a call."""

    prompter: list[Arrays] = field(default_factory=list)
    encoder: list[Arrays] = field(default_factory=list)
    decoder: list[Arrays] = field(default_factory=list)

    def of(self, graph: str) -> list[Arrays]:
        """Those of the network called ``graph``."""
        calls: list[Arrays] = getattr(self, graph)
        return calls


def read_tiles(folder: Path) -> list[Tile]:
    """All images of a folder, in the order of their names.

    Raises:
        PnsegError: there is none.
    """
    paths = sorted(path for path in folder.iterdir() if path.suffix.lower() in SUFFIXES)
    if not paths:
        raise PnsegError(f"{folder}: holds no image ({', '.join(sorted(SUFFIXES))}); name another folder of tiles.")
    return [read_image(path).pixels for path in paths]


def record(bundle: Bundle, tiles: Iterable[Tile], threads: int | None = None) -> Feeds:
    """Predict on real tiles with the float32 graphs and keep what each network was given.

    A window's features and the prompts of its nuclei so come as they are at work. In a tile where
    nothing is found (random weights, an empty or extreme tile), a grid of prompts stands in.

    Args:
        bundle: an opened bundle.
        tiles: (H, W, 3) uint8 RGB.
        threads: of an operator.
    """
    feeds, sessions = Feeds(), open_sessions(bundle, threads=threads, cache=False)
    recording = Sessions(
        prompter=_recorded(sessions.prompter, feeds.prompter),
        encoder=_recorded(sessions.encoder, feeds.encoder),
        decoder=_recorded(sessions.decoder, feeds.decoder),
    )
    segmenter = Segmenter(bundle, sessions=recording)
    for tile in tiles:
        decoded = len(feeds.decoder)
        segmenter.predict(tile)
        if len(feeds.decoder) == decoded:
            image = _window(feeds.prompter[-1]["image"], bundle.manifest.masking.window)
            recording.decoder(recording.encoder({"image": image}) | grid_of_prompts(bundle.manifest.masking.window))
    return feeds


def _recorded(run: Runner, calls: list[Arrays]) -> Runner:
    def call(inputs: Arrays) -> Arrays:
        calls.append({name: array[:MOST_PROMPTS] if name in PROMPT_INPUTS else array for name, array in inputs.items()})
        return run(inputs)

    return call


def _window(image: NDArray[Any], side: int) -> NDArray[Any]:
    repeats = [1, 1, *(-(-side // size) for size in image.shape[2:])]
    return np.ascontiguousarray(np.tile(image, repeats)[:, :, :side, :side])


def grid_of_prompts(side: int, count: int = 4) -> Arrays:
    """count² prompts over a window, each with one negative: what the decoder is given where no point is found."""
    places = (np.arange(count, dtype=np.float32) + 0.5) * side / count
    coords = np.stack(np.meshgrid(places, places), axis=-1).reshape(-1, 1, 2)
    negatives = np.roll(coords, 1, axis=0)
    labels = np.tile(np.array([[1, 0]], np.float32), (len(coords), 1))
    return {
        "point_coords": np.concatenate([coords, negatives], axis=1),
        "point_labels": labels,
        "image_index": np.zeros(len(coords), np.int64),
    }


def stress_tiles(side: int) -> list[Tile]:
    """Tiles that drive values to extremes, (side, side, 3): white, black, saturated colours, a checkerboard, noise."""
    colours = [(255, 255, 255), (0, 0, 0), (255, 0, 0), (0, 255, 0), (0, 0, 255), (255, 0, 255)]
    flat = [np.full((side, side, 3), colour, np.uint8) for colour in colours]
    rows, columns = np.indices((side, side))
    checks = np.repeat(((rows // 8 + columns // 8) % 2 * 255).astype(np.uint8)[..., None], 3, axis=2)
    generator = np.random.default_rng(0)
    noise = generator.integers(0, 256, (side, side, 3), dtype=np.uint8)
    extremes = 255 * generator.integers(0, 2, (side, side, 3), dtype=np.uint8)
    return [*flat, checks, noise, extremes]
