"""An image on its way to the GPU, and its parts as networks see them."""

from __future__ import annotations

from dataclasses import dataclass
from math import prod
from typing import NamedTuple

import numpy as np

from pnseg_runtime.bundle import Manifest, Normalisation
from pnseg_runtime.cuda.streams import THREADS, Streams
from pnseg_runtime.options import Options, Settings
from pnseg_runtime.softening import Seen
from pnseg_runtime.windows import MacroTile, Origins, macro_tiles, windows


class Rules(NamedTuple):
    """What a prediction follows: of the model, of the caller, and of both."""

    manifest: Manifest
    options: Options
    settings: Settings


@dataclass(frozen=True)
class Frame:
    """An image on its way to the GPU.

    Attributes:
        slot: which of the two places for images it has.
        shape: (height, width), px.
        tiles: of the prompter.
        origins: of the windows.
        image, softer: addresses of the pixels as the segmentor and as the prompter sees them.
        frame, views, origins_at: addresses of height and width, and of the tiles' and windows' tables.
        everywhere: whether every anchor is taken for a nucleus, so that there is something to decode.
    """

    slot: int
    shape: tuple[int, int]
    tiles: list[MacroTile]
    origins: Origins
    image: int
    softer: int
    frame: int
    views: int
    origins_at: int
    everywhere: bool = False


def send(streams: Streams, rules: Rules, seen: Seen, slot: int, everywhere: bool) -> Frame:
    """Send an image to its place on the GPU; twice, if the networks do not see the same."""
    rgb = seen.segmentor
    shape = (rgb.shape[0], rgb.shape[1])
    tiles = macro_tiles(shape, rules.options.macro_tile, rules.options.context)
    origins = windows(shape, rules.manifest.masking.window, rules.settings.overlap)
    views = [(x0, y0, x1 - x0, y1 - y0) for x0, y0, x1, y1 in (tile.view for tile in tiles)]
    # The windows' table is at the same place for every image, since graphs have its address.
    plan = np.concatenate([np.array(shape), np.ravel(origins), np.ravel(views)]).astype(np.int32)
    frame_at = streams.at(f"plan{slot}", plan.nbytes)
    image = streams.at(f"image{slot}", rgb.nbytes)
    softer = image if seen.prompter is rgb else streams.at(f"softer{slot}", rgb.nbytes)
    frame = Frame(
        slot=slot,
        shape=shape,
        tiles=tiles,
        origins=origins,
        image=image,
        softer=softer,
        frame=frame_at,
        views=frame_at + 8 + 8 * len(origins),
        origins_at=frame_at + 8,
        everywhere=everywhere,
    )
    # The last image of this slot has been waited for, so its staging memory is free.
    streams.upload(f"image{slot}", rgb, image)
    if softer != image:
        streams.upload(f"softer{slot}", seen.prompter, softer)
    streams.upload(f"plan{slot}", plan, frame.frame)
    streams.record_upload(streams.uploaded[slot])
    return frame


def normalise(
    streams: Streams,
    image: int,
    frame: int,
    norm: Normalisation,
    views: int,
    count: int,
    size: tuple[int, int],
    out: int,
) -> None:
    """Parts of an image as a network's batch.

    Args:
        image, frame: addresses of the pixels, and of height and width.
        views: address of (count, 4) int32: x, y, width and height of each part, px; what lies beyond is mirrored.
        count: parts.
        size: (height, width) of the network's input, px.
        out: address of (count, 3, height, width) float32.
    """
    blocks = min(-(-prod(size) // THREADS), 1024)
    streams.launch("normalise_windows", (blocks, count), THREADS, image, frame, views, *size, *norm.mean,
                   *norm.std, out)  # fmt: skip
