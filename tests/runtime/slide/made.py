"""Slides made of the sample images."""

from __future__ import annotations

from pathlib import Path

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from tests.runtime.made import sample

Pixels = NDArray[np.uint8]


def save_image(path: Path, pixels: Pixels) -> Path:
    """Write pixels as the kind that the path's suffix names."""
    Image.fromarray(pixels).save(path)
    return path


def sample_mosaic() -> Pixels:
    """384×512 of two real H&E tiles, mirrored at their seams as tissue goes on."""
    tile = sample("he_pink")[:192, :256]
    other = sample("purple_crowded")[:192, :256]
    return np.concatenate(
        [np.concatenate([tile, tile[:, ::-1]], axis=1), np.concatenate([other, other[:, ::-1]], axis=1)]
    )


def giant_slide(folder: Path, side: int = 100_000, patches: int = 3, patch: int = 1600) -> Path:
    """An OME-Zarr of ``side``² px at 0.25 µm, white but for patches of real tissue along its diagonal.

    Chunks that are white are not stored, so it takes a few megabytes.
    """
    import zarr

    tissue = np.tile(sample_mosaic(), (-(-patch // 384), -(-patch // 512), 1))[:patch, :patch]
    places = np.linspace(0, side - patch, patches).astype(int)
    group = zarr.open_group(str(folder), mode="w", zarr_format=3)
    factors = (1, 4, 16, 64)
    for level, factor in enumerate(factors):
        size = side // factor
        array = group.create_array(
            str(level), shape=(3, size, size), chunks=(3, 512, 512), dtype="uint8", fill_value=255
        )
        small = np.asarray(Image.fromarray(tissue).reduce(factor)).transpose(2, 0, 1)
        for place in places // factor:
            stop = min(place + small.shape[1], size)
            array[:, place:stop, place:stop] = small[:, : stop - place, : stop - place]
    axes = [{"name": "c", "type": "channel"}, *({"name": n, "type": "space", "unit": "micrometer"} for n in "yx")]
    sets = [
        {"path": str(level), "coordinateTransformations": [{"type": "scale", "scale": [1, 0.25 * f, 0.25 * f]}]}
        for level, f in enumerate(factors)
    ]
    group.attrs["ome"] = {"version": "0.5", "multiscales": [{"axes": axes, "datasets": sets}]}
    return folder
