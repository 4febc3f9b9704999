"""What parity found, for people: a table, JSON, and a page with the worst masks side by side."""

from __future__ import annotations

import base64
import html
from collections.abc import Sequence
from dataclasses import dataclass
from itertools import chain
from typing import Any

import cv2
import numpy as np
from numpy.typing import NDArray

from pnseg_export.agreement import Tile, shown
from pnseg_export.comparison.compare import Result
from pnseg_runtime.nuclei import Nuclei

#: Column → key of a result's document.
COLUMNS = {
    "points moved (px)": "points_moved_mean_px",
    "lost": "points_lost",
    "lost > 0.6": "points_lost_confident",
    "gained": "points_gained",
    "nuclei lost": "nuclei_lost",
    "nuclei gained": "nuclei_gained",
    "mask IoU": "mask_iou_mean",
    "5th percentile": "mask_iou_p5",
    "PQ to reference": "pq_against_reference",
    "PQ": "pq",
    "AJI": "aji",
    "PQ change": "pq_change",
}
WORST = 8  # pairs of masks a participant
MARGIN, ZOOM = 12, 5  # px around a nucleus; screen px a px
REFERENCE_COLOUR, OTHER_COLOUR = (40, 200, 60), (230, 40, 160)


def cells(result: Result) -> dict[str, str]:
    """A result's row."""
    document = result.document()
    return {title: shown(document[key]) for title, key in COLUMNS.items() if key in document}


def document(
    bundle: str, results: Sequence[Result], failures: Sequence[Sequence[str]], departures: Sequence[str]
) -> dict[str, Any]:
    """What was found, as JSON values; ``failures`` are the sentences on each result."""
    return {
        "bundle": bundle,
        "reference": results[0].name,
        "participants": [result.document(said) for result, said in zip(results, failures, strict=True)],
        "failures": list(chain(*failures)),
        "departures": list(departures),
    }


@dataclass(frozen=True)
class Pair:
    """A nucleus as two models outline it: tile, indices in both, and their IoU."""

    tile: int
    first: int
    second: int
    iou: float


def worst_pairs(result: Result, count: int = WORST) -> list[Pair]:
    """The nuclei whose masks agree least."""
    pairs = [
        Pair(tile, int(i), int(j), float(iou))
        for tile, each in enumerate(result.agreement.tiles)
        for (i, j), iou in zip(each.pairs, each.ious, strict=True)
    ]
    return sorted(pairs, key=lambda pair: pair.iou)[:count]


def picture(tile: Tile, first: tuple[Nuclei, int], second: tuple[Nuclei, int]) -> bytes:
    """PNG of one nucleus: the reference's outline on the left, the other's on the right."""
    boxes = np.stack([nuclei.boxes[index] for nuclei, index in (first, second)]).astype(int)
    height, width = tile.shape[:2]
    x0, y0 = np.maximum(boxes[:, :2].min(0) - MARGIN, 0)
    x1, y1 = np.minimum(boxes[:, 2:].max(0) + MARGIN, (width, height))
    views = []
    for (nuclei, index), colour in ((first, REFERENCE_COLOUR), (second, OTHER_COLOUR)):
        view = cv2.resize(tile[y0:y1, x0:x1], None, fx=ZOOM, fy=ZOOM, interpolation=cv2.INTER_CUBIC)
        mask = _on_canvas(nuclei, index, (height, width))[y0:y1, x0:x1]
        large = cv2.resize(mask.astype(np.uint8), None, fx=ZOOM, fy=ZOOM, interpolation=cv2.INTER_NEAREST)
        contours, _ = cv2.findContours(large, cv2.RETR_LIST, cv2.CHAIN_APPROX_NONE)
        views.append(cv2.drawContours(np.ascontiguousarray(view), contours, -1, colour, 2))
    gap = np.full((views[0].shape[0], ZOOM, 3), 255, np.uint8)
    image = np.concatenate([views[0], gap, views[1]], axis=1)
    done, data = cv2.imencode(".png", cv2.cvtColor(image, cv2.COLOR_RGB2BGR))
    assert done
    return bytes(data)


def _on_canvas(nuclei: Nuclei, index: int, shape: tuple[int, int]) -> NDArray[np.bool_]:
    canvas = np.zeros(shape, bool)
    x0, y0, x1, y1 = nuclei.boxes[index]
    canvas[y0:y1, x0:x1] = nuclei.masks[index]
    return canvas


STYLE = """
body { font: 15px/1.5 system-ui, sans-serif; margin: 2rem auto; max-width: 70rem; padding: 0 1rem; color: #222 }
table { border-collapse: collapse; margin: 1rem 0; display: block; overflow-x: auto }
th, td { padding: .3rem .7rem; border-bottom: 1px solid #ddd; text-align: right; white-space: nowrap }
th:first-child, td:first-child { text-align: left }
figure { display: inline-block; margin: .5rem; vertical-align: top } figcaption { color: #555; font-size: 13px }
.bad { color: #b00020 } .good { color: #1b7a2f } .ref { color: #28a83c } .other { color: #c9288f }
"""


def as_html(
    bundle: str, results: Sequence[Result], tiles: Sequence[Tile], failures: Sequence[str], departures: Sequence[str]
) -> str:
    """A page that needs nothing beside it."""
    reference = results[0]
    nuclei = sum(len(finding.nuclei) for finding in reference.findings)
    parts = [
        "<!doctype html><html lang='en'><meta charset='utf-8'>",
        f"<title>Parity of {html.escape(bundle)}</title><style>{STYLE}</style>",
        f"<h1>Parity of {html.escape(bundle)}</h1>",
        f"<p>{len(tiles)} tiles; the reference is {html.escape(reference.name)}, with {nuclei} nuclei.</p>",
        *(f"<p class='bad'>{html.escape(sentence)}</p>" for sentence in failures),
        "" if failures else "<p class='good'>Every participant is within its limits.</p>",
        *(f"<p>{html.escape(sentence)}</p>" for sentence in departures),
        _table([{"": result.name, **cells(result)} for result in results]),
        "<h2>Tensors</h2>",
        _table([_tensor_row(result) for result in results[1:]]),
    ]
    for result in results[1:]:
        parts.append(f"<h2>{html.escape(result.name)}: worst masks</h2><p>{_legend(reference.name, result.name)}</p>")
        for pair in worst_pairs(result):
            first = (reference.findings[pair.tile].nuclei, pair.first)
            second = (result.findings[pair.tile].nuclei, pair.second)
            data = base64.b64encode(picture(tiles[pair.tile], first, second)).decode()
            x, y = first[0].points[pair.first]
            caption = f"tile {pair.tile + 1}, ({x:.0f}, {y:.0f}), IoU {pair.iou:.3f}"
            parts.append(
                f"<figure><img alt='{caption}' src='data:image/png;base64,{data}'>"
                f"<figcaption>{caption}</figcaption></figure>"
            )
    return "\n".join(parts) + "\n"


def _legend(first: str, second: str) -> str:
    return (
        f"<span class='ref'>left: {html.escape(first)}</span>, <span class='other'>right: {html.escape(second)}</span>"
    )


def _tensor_row(result: Result) -> dict[str, str]:
    cells_ = {name: f"{entry['max_abs']:.2g} / {entry['cosine']:.6f}" for name, entry in result.tensors.items()}
    return {"largest difference / cosine": result.name, **cells_}


def _table(rows: Sequence[dict[str, str]]) -> str:
    if not rows:
        return ""
    titles = list(dict.fromkeys(title for row in rows for title in row))
    head = "".join(f"<th>{html.escape(title)}</th>" for title in titles)
    body = "".join(
        "<tr>" + "".join(f"<td>{html.escape(row.get(t, '–'))}</td>" for t in titles) + "</tr>" for row in rows
    )
    return f"<table><tr>{head}</tr>{body}</table>"
