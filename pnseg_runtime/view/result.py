"""What ``pnseg view`` shows: a slide's result, or the GeoJSON that ``pnseg predict`` has written of an image."""

from __future__ import annotations

import json
import tempfile
from contextlib import ExitStack, closing
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq

from pnseg_runtime.errors import OutputError
from pnseg_runtime.outputs import wkb
from pnseg_runtime.slide.outputs import RUN
from pnseg_runtime.slide.readers import open_slide
from pnseg_runtime.view.nuclei import NucleiTable
from pnseg_runtime.view.tiles import DeepZoom

_DEFAULT_COLOR = [255, 214, 10]


@dataclass(frozen=True)
class View:
    """A result that is ready to be shown.

    Attributes:
        name: of the slide.
        zoom: its pixels.
        nuclei: its nuclei.
        classes: name and color of each class.
        facts: what else is known, for the page.
    """

    name: str
    zoom: DeepZoom
    nuclei: NucleiTable
    classes: list[dict[str, Any]]
    facts: dict[str, Any]

    def close(self) -> None:
        """Let go of slide and table."""
        self.zoom.close()
        self.nuclei.close()

    def summary(self) -> dict[str, Any]:
        """What the page begins with."""
        return {
            "name": self.name,
            "width": self.zoom.width,
            "height": self.zoom.height,
            "levels": self.zoom.levels,
            "classes": [each | {"count": self.nuclei.counts[each["name"]]} for each in self.classes],
            "nuclei": len(self.nuclei),
            **self.facts,
        }


def open_view(result: Path, slide: Path | None = None) -> View:
    """Open a result.

    Args:
        result: a ``.run.json``, or the folder that holds one; or a ``.geojson`` of ``pnseg predict``.
        slide: the slide or image, if it is not where it was.

    Raises:
        OutputError: there is no result, or no table in it, or the slide is of another size.
        ImageError: the slide cannot be read.
    """
    if result.suffix == ".geojson" and not result.with_suffix(RUN).exists():
        return _of_geojson(result, slide)
    run = _run_file(result)
    facts = _json(run)
    try:
        path = slide or Path(facts["slide"]["path"])
        table = run.parent / facts["outputs"][".parquet"]
        classes = facts["classes"]
        known = {"mpp": facts["resolution"]["slide_mpp"], "per_mm2": facts["nuclei_per_mm2"]}
        size = facts["slide"]["width"], facts["slide"]["height"]
    except (KeyError, TypeError) as error:
        if ".parquet" in str(error):
            raise OutputError(f"{run}: the result has no table; run pnseg slide again with --only parquet.") from error
        raise OutputError(f"{run}: is no result of pnseg slide; run pnseg slide again.") from error
    if not path.exists():
        raise OutputError(f"{path}: the slide is no longer there; say where it is with --slide.")
    with ExitStack() as stack:
        zoom = stack.enter_context(closing(DeepZoom(open_slide(path))))
        if (zoom.width, zoom.height) != size:
            raise OutputError(
                f"{path}: has {zoom.width}×{zoom.height} px, and the slide of {run} {size[0]}×{size[1]}; "
                "name the one it belongs to with --slide."
            )
        nuclei = NucleiTable(table, (zoom.height, zoom.width), [each["name"] for each in classes])
        stack.pop_all()
    return View(path.name, zoom, nuclei, classes, known)


def _run_file(result: Path) -> Path:
    if result.is_file() and result.name.endswith(RUN):
        return result
    if result.is_file():
        # A slide's name may hold dots, and be how that of another begins.
        stems = (run.name.removesuffix(RUN) for run in result.parent.glob(f"*{RUN}"))
        if stem := max((stem for stem in stems if result.name.startswith(f"{stem}.")), key=len, default=None):
            return result.with_name(stem + RUN)
        raise OutputError(f"{result}: no result; give a folder that pnseg slide has written to, or its .run.json.")
    runs = sorted(result.glob(f"*{RUN}")) if result.is_dir() else []
    if not runs and (outlines := next(iter(sorted(result.glob("*.geojson"))), None)) is not None:
        raise OutputError(
            f"{result}: holds results of pnseg predict; name one of them and its image: "
            f"pnseg view {outlines} --slide IMAGE."
        )
    if not runs:
        raise OutputError(f"{result}: holds no result of pnseg slide (no *{RUN}); give the folder named with --out.")
    if len(runs) > 1:
        names = ", ".join(each.name for each in runs[:5])
        raise OutputError(f"{result}: holds {len(runs)} results; name one of them: {names}")
    return runs[0]


def _json(path: Path) -> Any:
    try:
        return json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError) as error:
        raise OutputError(f"{path}: cannot be read ({error}); write it again.") from error


def _of_geojson(path: Path, image: Path | None) -> View:
    """Show the outlines of ``pnseg predict``; the image has to be named."""
    if image is None:
        raise OutputError(f"{path}: name the image it belongs to with --slide.")
    document = _json(path)
    try:
        rows, colors = _rows(document["features"])
    except (KeyError, TypeError, ValueError, IndexError) as error:
        raise OutputError(f"{path}: is no GeoJSON of nuclei ({error}); write it with pnseg predict.") from error
    classes = [{"name": name, "color": color} for name, color in colors.items()]
    with ExitStack() as stack:
        zoom = stack.enter_context(closing(DeepZoom(open_slide(image))))
        with tempfile.TemporaryDirectory() as folder:
            table = Path(folder) / "nuclei.parquet"
            pq.write_table(pa.Table.from_pylist(rows, _schema(rows)), table, row_group_size=2048)
            opened = NucleiTable(table, (zoom.height, zoom.width), list(colors))
            # The open file outlives its name; where it does not (Windows), it has been read already.
        stack.pop_all()
    return View(image.name, zoom, opened, classes, {"mpp": None, "per_mm2": None})


def _schema(rows: list[dict[str, Any]]) -> pa.Schema:
    kinds = {"id": pa.uint32(), "class": pa.string(), "geometry": pa.binary()}
    names = list(rows[0]) if rows else ["id", "class", "bbox_x0", "bbox_y0", "bbox_x1", "bbox_y1", "geometry"]
    return pa.schema([pa.field(name, kinds.get(name, pa.float64())) for name in names])


def _rows(features: list[Any]) -> tuple[list[dict[str, Any]], dict[str, list[int]]]:
    rows: list[dict[str, Any]] = []
    colors: dict[str, list[int]] = {}
    for index, feature in enumerate(features, start=1):
        geometry, properties = feature["geometry"], feature["properties"]
        kind = properties.get("classification") or {"name": "nucleus"}
        colors.setdefault(str(kind["name"]), kind.get("color", _DEFAULT_COLOR))
        coordinates = geometry["coordinates"] if geometry["type"] == "MultiPolygon" else [geometry["coordinates"]]
        polygons = [[np.array(ring, np.float64) for ring in rings] for rings in coordinates]
        outer = np.concatenate([rings[0] for rings in polygons])
        (x0, y0), (x1, y1) = outer.min(axis=0), outer.max(axis=0)
        measured = {
            name: float(value) for name, value in (properties.get("measurements") or {}).items() if name != "Label"
        }
        box = {"bbox_x0": x0, "bbox_y0": y0, "bbox_x1": x1, "bbox_y1": y1}
        rows.append({"id": index, "class": str(kind["name"]), **measured, **box, "geometry": wkb.encode(polygons)})
    return rows, colors
