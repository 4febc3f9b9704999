"""The plan of a slide: its cores, and the fingerprint that tells whether earlier work belongs to it."""

from __future__ import annotations

import hashlib
import json
import math
import os
from collections.abc import Iterator
from dataclasses import asdict, dataclass
from functools import cached_property
from typing import Any

import numpy as np

from pnseg_runtime import __version__
from pnseg_runtime.hashes import take_in
from pnseg_runtime.options import COARSEST_STRIDE
from pnseg_runtime.slide.area import Area
from pnseg_runtime.slide.options import SlideOptions
from pnseg_runtime.slide.readers.base import Box, SlideReader
from pnseg_runtime.slide.resolution import Resolution
from pnseg_runtime.windows import macro_tiles

#: About the side of a core where nothing limits what the prompter is shown, px of the model.
USUAL_CORE = 1920

#: Raised when files of work change in a way that older ones cannot be read, or what they hold is no longer right.
WORK_FORMAT = 2


@dataclass(frozen=True)
class Core:
    """A part of a slide that is done in one go.

    Attributes:
        row, column: its place on the grid.
        core: points in this box are its own, work px; where tissue fills a part of its square, that part.
        view: what is read, work px.
    """

    row: int
    column: int
    core: Box
    view: Box

    @property
    def name(self) -> str:
        return f"{self.row:04d}_{self.column:04d}"


@dataclass(frozen=True)
class Plan:
    """What is to be done.

    Attributes:
        cores: those with anything to look at, row by row.
        side: of a whole core, work px.
        reach: how far from a core a nucleus can be and still matter to its own, work px.
        fingerprint: hex, of everything that the result depends on.
        facts: what the fingerprint is made of.
    """

    cores: tuple[Core, ...]
    side: int
    reach: int
    fingerprint: str
    facts: dict[str, Any]

    def neighbours(self, core: Core) -> list[Core]:
        """The cores whose nuclei can meet those of a core, itself among them, in the order of the plan."""
        rings = -(-self.reach // self.side)
        steps = range(-rings, rings + 1)
        near = [(core.row + dy, core.column + dx) for dy in steps for dx in steps]
        return [self._places[place] for place in near if place in self._places]

    @cached_property
    def _places(self) -> dict[tuple[int, int], Core]:
        return {(core.row, core.column): core for core in self.cores}


def grid(options: SlideOptions, window: int, overlap: int, longest: int | None = None) -> tuple[int, int]:
    """(side of a core, margin), px, as near to what is wanted as windows and anchors allow.

    Args:
        options: what is wanted.
        window: of the segmentor, px.
        overlap: of two windows, px.
        longest: side of the largest view that the prompter can be shown, px; None if there is no limit. Where no
            core is asked for, core and margins fit into it.

    Cores start on the grid of the windows and on that of the prompter's coarsest features, so that
    both lie in every view where they lie in the whole slide. The margin holds every window that a
    point of the core can be most central in.
    """
    stride = window - overlap
    unit = math.lcm(stride, COARSEST_STRIDE)
    # A point is at most half a window and half a stride from the far end of its most central window, which begins on
    # the grid as the core does; and a core at the slide's border has to be seen with a whole window.
    least = max(options.margin, (window + stride) // 2 // stride * stride)
    wanted = options.core or USUAL_CORE
    if options.core is None and longest is not None:
        wanted = min(wanted, (longest - 2 * _coarse(least)) // unit * unit)
    side = max(round(wanted / unit), 1) * unit
    return side, _coarse(max(least, window - side))


def _coarse(length: int) -> int:
    return -(-length // COARSEST_STRIDE) * COARSEST_STRIDE


def cut(resolution: Resolution, area: Area, side: int, margin: int, unit: int) -> tuple[Core, ...]:
    """The cores that hold anything to look at, each no larger than that needs."""
    return tuple(_cut(resolution, area, side, margin, unit))


def _cut(resolution: Resolution, area: Area, side: int, margin: int, unit: int) -> Iterator[Core]:
    height, width = resolution.shape
    for tile in macro_tiles(resolution.shape, side + 2 * margin, margin):
        full = resolution.full_edges(np.array(tile.core))
        outer = (math.floor(full[0]), math.floor(full[1]), math.ceil(full[2]), math.ceil(full[3]))
        found = area.bounds_within(outer)
        if found is None:
            continue
        x0, y0, x1, y1 = resolution.work_edges(np.array(found)).tolist()
        cx0, cy0, cx1, cy1 = tile.core
        # Whole units, so that a smaller core has its windows and anchors where the square has them.
        core = (
            max(math.floor(x0 / unit) * unit, cx0),
            max(math.floor(y0 / unit) * unit, cy0),
            min(math.ceil(x1 / unit) * unit, cx1),
            min(math.ceil(y1 / unit) * unit, cy1),
        )
        if core[0] >= core[2] or core[1] >= core[3]:
            continue
        view = tile.view if core == tile.core else _view(core, margin, width, height)
        yield Core(cy0 // side, cx0 // side, core, view)


def _view(core: Box, margin: int, width: int, height: int) -> Box:
    x0, y0, x1, y1 = core
    left = margin if x1 - x0 >= margin else 2 * margin
    above = margin if y1 - y0 >= margin else 2 * margin
    return max(x0 - left, 0), max(y0 - above, 0), min(x1 + margin, width), min(y1 + margin, height)


def fingerprint_of(facts: dict[str, Any]) -> str:
    """32 hex digits of everything that a result depends on."""
    return hashlib.sha256(json.dumps(facts, sort_keys=True).encode()).hexdigest()[:32]


def slide_hash(reader: SlideReader) -> str:
    """Hex SHA-256 of a slide's files and of what identifies it beside them."""
    digest = hashlib.sha256(reader.facts.identity.encode())
    for file in reader.facts.files:
        digest.update(b"/%s:%d/" % (os.fsencode(file.name), file.stat().st_size))
        take_in(digest, file)
    return digest.hexdigest()


def facts_of(
    slide_sha256: str,
    reader: SlideReader,
    resolution: Resolution,
    options: SlideOptions,
    area: Area,
    model: dict[str, Any],
) -> dict[str, Any]:
    """Everything that the result depends on, in words that a message can use."""
    chosen = asdict(options)
    roi = None if area.roi is None else [[ring.tolist() for ring in rings] for rings in area.roi.polygons]
    return {
        "slide": slide_sha256,
        "reader": reader.name,
        "resolution": {"slide_mpp": resolution.slide_mpp, "work_mpp": resolution.work_mpp, "scale": resolution.scale},
        # What is read again after an error of the disk may show other tissue, and so give other cores.
        "tissue": None if area.tissue is None else hashlib.sha256(np.packbits(area.tissue).tobytes()).hexdigest(),
        "roi": None if roi is None else hashlib.sha256(json.dumps(roi).encode()).hexdigest(),
        "options": {name: chosen[name] for name in ("tissue", "core", "margin")},
        "model": model,
        "pnseg": __version__,
        "work_format": WORK_FORMAT,
    }


def changes(before: dict[str, Any], after: dict[str, Any], prefix: str = "") -> list[str]:
    """What differs between the facts of two runs, in words."""
    found = []
    for name in sorted(before.keys() | after.keys()):
        old, new = before.get(name), after.get(name)
        if isinstance(old, dict) and isinstance(new, dict):
            found += changes(old, new, f"{prefix}{name}.")
        elif old != new:
            short = f" ({old} → {new})" if len(f"{old}{new}") < 40 else ""
            found.append(f"{prefix}{name}{short}")
    return found


def plan_of(
    resolution: Resolution, area: Area, options: SlideOptions, *, window: int, overlap: int, facts: dict[str, Any]
) -> Plan:
    """Cut a slide into cores.

    Args:
        resolution: of the slide.
        area: what is looked at.
        options: how large cores are.
        window: of the segmentor, px.
        overlap: of two windows, px.
        facts: from :func:`facts_of`.
    """
    side, margin = grid(options, window, overlap)
    cores = cut(resolution, area, side, margin, math.lcm(window - overlap, COARSEST_STRIDE))
    # A nucleus lies within a window of its point, and what covers it within another.
    return Plan(cores, side, 2 * window, fingerprint_of(facts), facts)
