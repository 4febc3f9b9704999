"""Small data sets in the layouts that people download, written by the tests."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import cv2
import numpy as np
import tifffile
from numpy.typing import NDArray
from scipy.io import savemat

Box = tuple[int, int, int, int]


def picture(height: int = 40, width: int = 50, seed: int = 0) -> NDArray[np.uint8]:
    """Noise: (H, W, 3)."""
    return np.random.default_rng(seed).integers(0, 256, (height, width, 3), dtype=np.uint8)


def boxes_map(boxes: dict[int, Box], shape: tuple[int, int] = (40, 50)) -> NDArray[np.int32]:
    """A label map with a rectangle (x0, y0, x1, y1) for each id."""
    labels = np.zeros(shape, np.int32)
    for label, (x0, y0, x1, y1) in boxes.items():
        labels[y0:y1, x0:x1] = label
    return labels


def write_png(path: Path, pixels: NDArray[np.generic]) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    assert cv2.imwrite(str(path), pixels[:, :, ::-1] if pixels.ndim == 3 else pixels)


def aperio(regions: Sequence[Sequence[tuple[float, float]]], head: str = "") -> str:
    """The XML of one annotation layer."""
    vertices = [
        f'<Region Id="{number}"><Attributes/><Vertices>'
        + "".join(f'<Vertex X="{x}" Y="{y}"/>' for x, y in region)
        + "</Vertices></Region>"
        for number, region in enumerate(regions, start=1)
    ]
    body = f"<Regions>{''.join(vertices)}</Regions>"
    return f'{head}<Annotations MicronsPerPixel="0.25"><Annotation Id="1">{body}</Annotation></Annotations>'


def write_tile(folder: Path, stem: str, seed: int = 0) -> NDArray[np.uint8]:
    """A .tif with a printer's resolution, and an .xml with two squares, the second over the first."""
    folder.mkdir(parents=True, exist_ok=True)
    pixels = picture(seed=seed)
    tifffile.imwrite(folder / f"{stem}.tif", pixels, photometric="rgb", resolution=(72, 72), resolutionunit=2)
    squares = [[(4, 4), (14, 4), (14, 14), (4, 14)], [(10, 10), (20.2, 10), (20.2, 20.2), (10, 20.2)]]
    (folder / f"{stem}.xml").write_text(aperio(squares), encoding="utf-8")
    return pixels


def write_mat(path: Path, **content: NDArray[np.generic]) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    savemat(path, content, do_compression=True)


def write_fold(folder: Path, number: int, masks: NDArray[np.float64], types: Sequence[str]) -> NDArray[np.float64]:
    """A fold of PanNuke; returns its images, of grey value 0, 1, 2 …"""
    images = np.stack([np.full((*masks.shape[1:3], 3), 10.0 * number + index) for index in range(len(masks))])
    name = f"fold{number}"
    for kind, arrays in {"images": {"images": images, "types": np.array(types)}, "masks": {"masks": masks}}.items():
        place = folder / f"Fold {number}" / kind / name
        place.mkdir(parents=True, exist_ok=True)
        for file, array in arrays.items():
            np.save(place / f"{file}.npy", array)
    return images


def pannuke_masks(tiles: int, size: int = 16) -> NDArray[np.float64]:
    """(N, size, size, 6): per tile two nuclei of class 1 and one of class 4, with the ids of other classes."""
    masks = np.zeros((tiles, size, size, 6))
    masks[:, 1:5, 1:5, 0] = 7
    masks[:, 1:5, 5:9, 0] = 300
    masks[:, 8:12, 2:6, 3] = 7
    masks[..., 5] = (masks[..., :5] == 0).all(axis=-1)
    return masks


def write_plain(folder: Path, name: str, image: NDArray[np.uint8], labels: NDArray[np.generic]) -> None:
    write_png(folder / "images" / f"{name}.png", image)
    write_png(folder / "labels" / f"{name}.png", labels.astype(np.uint16))


def write_index(folder: Path, rows: Sequence[tuple[str, str, str]]) -> None:
    lines = ["id,split,group", *(",".join(row) for row in rows)]
    (folder / "index.csv").write_text("\n".join(lines) + "\n", encoding="utf-8")
