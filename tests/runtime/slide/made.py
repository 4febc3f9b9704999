"""Slides made of the sample images."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import tifffile
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


def two_pieces(path: Path, height: int, coarse: bool = False) -> Path:
    """A tiled TIFF, glass with tissue at its top and at its end; ``coarse``: with a level of half the size."""
    image = np.full((height, 512, 3), 240, np.uint8)
    image[:384] = image[-384:] = sample_mosaic()
    tiled = {"tile": (128, 128), "photometric": "rgb", "compression": "deflate", "metadata": None}
    with tifffile.TiffWriter(path) as writer:
        writer.write(image, **tiled)
        if coarse:
            writer.write(np.ascontiguousarray(image[::2, ::2]), subfiletype=1, **tiled)
    return path


def spoil_lower_half(path: Path, level: int) -> None:
    """Zero the tiles of the lower half of a level."""
    with tifffile.TiffFile(path) as tif:
        page = tif.pages[level]
        tiles = list(zip(page.dataoffsets, page.databytecounts, strict=True))
    with path.open("r+b") as stream:
        for offset, count in tiles[len(tiles) // 2 :]:
            stream.seek(offset)
            stream.write(bytes(count))
