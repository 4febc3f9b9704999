"""One core of a slide: pixels → the nuclei whose points it owns."""

from __future__ import annotations

import io
import json
from dataclasses import dataclass, replace
from typing import Any, BinaryIO
from zipfile import BadZipFile

import numpy as np
from numpy.typing import NDArray

from pnseg_runtime.clock import Clock
from pnseg_runtime.masks import Boxes, DecodedMasks
from pnseg_runtime.nuclei import Mask
from pnseg_runtime.prompts import PointPrompts
from pnseg_runtime.segmenter import Segmenter
from pnseg_runtime.slide.area import Area
from pnseg_runtime.slide.plan import Core
from pnseg_runtime.slide.readers.base import Box
from pnseg_runtime.slide.resolution import Look, Resolution
from pnseg_runtime.windows import Part


@dataclass(frozen=True)
class Found:
    """What a core has found, before its neighbours have their say.

    Attributes:
        origin: (x, y) of the view, work px of the slide; everything else is in px of the view.
        points: all points of its own, with the classes that the segmentor tells where it tells them.
        ious: (N,) float32, predicted IoU, 0 where a point has no mask.
        boxes: (N, 4) int32, empty where a point has no mask.
        masks: N masks.
        unreadable: boxes in px of level 0 that could not be decoded, with the reason.
        timings: seconds spent in each stage.
    """

    origin: tuple[int, int]
    points: PointPrompts
    ious: NDArray[np.float32]
    boxes: Boxes
    masks: tuple[Mask, ...]
    unreadable: tuple[tuple[Box, str], ...] = ()
    timings: dict[str, float] | None = None


def find_nuclei(look: Look, core: Core, segmenter: Segmenter, resolution: Resolution, area: Area) -> Found:
    """Points of a view, masks of those that the core owns and that lie where nuclei are looked for."""
    clock = Clock()
    with clock("total"):
        origin = core.view[:2]
        points = segmenter.pipeline.find_points(look.seen.prompter, clock)
        place = points.coords.astype(np.float64) + origin
        x0, y0, x1, y1 = core.core
        owned: NDArray[np.bool_] = np.asarray(((place >= (x0, y0)) & (place < (x1, y1))).all(axis=1))
        owned[owned] = area.holds(resolution.full_edges(place[owned] + 0.5))
        window = segmenter.manifest.masking.window
        part = Part.of(core.view, resolution.shape, window, segmenter.settings.overlap)
        found = segmenter.pipeline.decode_part(look.seen.segmentor, points, owned, part, clock)
    return _gathered(points, owned, found, look.unreadable, origin, clock.seconds)


def _gathered(
    points: PointPrompts,
    owned: NDArray[np.bool_],
    found: DecodedMasks,
    unreadable: tuple[tuple[Box, str], ...],
    origin: tuple[int, int],
    timings: dict[str, float],
) -> Found:
    ious, boxes = np.zeros(len(points), np.float32), np.zeros((len(points), 4), np.int32)
    masks: list[Mask] = [np.zeros((0, 0), np.bool_)] * len(points)
    ious[found.points], boxes[found.points] = found.ious, found.boxes
    for point, mask in zip(found.points, found.masks, strict=True):
        masks[point] = mask
    if found.classes is not None:
        classes = points.classes.copy()
        classes[found.points] = found.classes
        points = replace(points, classes=classes)
    kept = np.flatnonzero(owned)
    return Found(
        origin, points.select(kept), ious[kept], boxes[kept], tuple(masks[i] for i in kept), unreadable, timings
    )


def pack_masks(masks: tuple[Mask, ...] | list[Mask]) -> list[bytes]:
    """Each mask as bits, row by row."""
    return [np.packbits(mask).tobytes() for mask in masks]


def unpack_mask(bits: bytes | NDArray[np.uint8], shape: tuple[int, int]) -> Mask:
    """What :func:`pack_masks` has made of a mask of (height, width) ``shape``."""
    data = np.frombuffer(bits, np.uint8) if isinstance(bits, bytes) else bits
    return np.unpackbits(data, count=shape[0] * shape[1]).reshape(shape).astype(np.bool_)


def save(found: Found, stream: BinaryIO) -> None:
    """Write to a file without pickles; see :func:`load`."""
    packed = pack_masks(found.masks)
    facts = {"origin": found.origin, "unreadable": found.unreadable, "timings": found.timings}
    np.savez(
        stream,
        facts=np.frombuffer(json.dumps(facts).encode(), np.uint8),
        coords=found.points.coords,
        classes=found.points.classes,
        scores=found.points.scores,
        ious=found.ious,
        boxes=found.boxes,
        bits=np.frombuffer(b"".join(packed), np.uint8),
    )


def load(data: bytes) -> Found:
    """Read what :func:`save` has written.

    Raises:
        ValueError: it is damaged.
    """
    try:
        return _load(data)
    except (OSError, KeyError, EOFError, RuntimeError, BadZipFile) as error:
        # RuntimeError: where a flag says that a file is encrypted, or packed in a way that is not known.
        raise ValueError(str(error)) from error


def _load(data: bytes) -> Found:
    with np.load(io.BytesIO(data), allow_pickle=False) as arrays:
        facts: dict[str, Any] = json.loads(arrays["facts"].tobytes())
        boxes = arrays["boxes"]
        sides = boxes[:, 2:] - boxes[:, :2]
        ends = np.cumsum(-(-sides.prod(axis=1) // 8))
        pieces = np.split(arrays["bits"], ends[:-1]) if len(boxes) else []
        masks = [unpack_mask(bits, (int(h), int(w))) for bits, (w, h) in zip(pieces, sides, strict=True)]
        return Found(
            origin=(int(facts["origin"][0]), int(facts["origin"][1])),
            points=PointPrompts(arrays["coords"], arrays["classes"], arrays["scores"]),
            ious=arrays["ious"],
            boxes=boxes,
            masks=tuple(masks),
            unreadable=tuple((tuple(box), reason) for box, reason in facts["unreadable"]),
            timings=facts["timings"],
        )
