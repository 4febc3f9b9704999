"""Cores partition what is looked at, on the grids of windows and anchors."""

from __future__ import annotations

import json
from itertools import pairwise
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from pnseg_runtime.errors import ImageError
from pnseg_runtime.options import Options
from pnseg_runtime.outputs import wkb
from pnseg_runtime.slide import plan
from pnseg_runtime.slide.area import Area, Roi, _edges_at, read_roi
from pnseg_runtime.slide.job import Model
from pnseg_runtime.slide.options import SlideOptions
from pnseg_runtime.slide.plan import changes, facts_of, grid, plan_of, slide_hash
from pnseg_runtime.slide.readers.base import Facts
from pnseg_runtime.slide.resolution import Resolution

SIDES = st.integers(1, 9000)


def resolution_of(height: int, width: int, scale: float) -> Resolution:
    return Resolution((height, width), scale, 0, scale, 0.25 / scale, 0.25)


@settings(max_examples=60, deadline=None)
@given(height=SIDES, width=SIDES, scale=st.sampled_from([0.5, 1.0, 1.37]), core=st.sampled_from([192, 960, 1920]))
def test_every_point_of_a_slide_belongs_to_exactly_one_core(height: int, width: int, scale: float, core: int) -> None:
    plan = plan_of(
        resolution_of(height, width, scale),
        Area(),
        SlideOptions(core=core, margin=192),
        window=256,
        overlap=64,
        facts={},
    )
    area = sum((c.core[2] - c.core[0]) * (c.core[3] - c.core[1]) for c in plan.cores)
    assert area == height * width
    assert len({(c.row, c.column) for c in plan.cores}) == len(plan.cores)
    for c in plan.cores:
        assert all(value % 192 == 0 for value in c.core[:2])
        assert all(value % 32 == 0 for value in c.view[:2])
        assert c.view[0] <= c.core[0]
        assert c.view[2] >= c.core[2]
        assert c.view[2] <= width
        assert c.view[3] <= height


@settings(max_examples=40, deadline=None)
@given(seed=st.integers(0, 1000), scale=st.sampled_from([0.5, 1.0, 1.37]))
def test_whatever_is_tissue_lies_in_a_core(seed: int, scale: float) -> None:
    rng = np.random.default_rng(seed)
    shape = (5000, 7000)
    tissue = np.zeros((63, 88), bool)
    y, x = rng.integers(0, 63), rng.integers(0, 88)
    tissue[y : y + rng.integers(1, 20), x : x + rng.integers(1, 20)] = True
    area = Area(tissue, scale * 80.0)
    plan = plan_of(
        resolution_of(*shape, scale), area, SlideOptions(core=960, margin=192), window=256, overlap=64, facts={}
    )
    points = rng.random((400, 2)) * [shape[1], shape[0]]
    inside = area.holds(points * scale)
    owners = np.zeros(len(points), int)
    for c in plan.cores:
        owners += ((points >= c.core[:2]) & (points < c.core[2:])).all(axis=1)
    assert (owners[inside] == 1).all()
    assert owners.max() <= 1


def test_a_core_of_little_tissue_is_seen_with_twice_the_margin_before_it() -> None:
    tissue = np.zeros((40, 40), bool)
    tissue[10:15, 29] = True
    for mask in (tissue, tissue.T):
        plan = plan_of(
            resolution_of(4000, 4000, 1.0),
            Area(mask, 100.0),
            SlideOptions(core=1920, margin=320),
            window=256,
            overlap=64,
            facts={},
        )
        (core,) = plan.cores
        sides = [core.core[2] - core.core[0], core.core[3] - core.core[1]]
        assert min(sides) < 320 < max(sides)
        before = [core.core[axis] - core.view[axis] for axis in (0, 1)]
        assert before == [640 if side < 320 else 320 for side in sides]


def test_the_last_cells_of_tissue_stand_for_the_sliver_behind_them() -> None:
    area = Area(np.eye(3, 4, 1, dtype=bool), 10.0)
    assert area.holds(np.array([[44, 36], [39, 29], [44, 19], [9, 9.0]])).tolist() == [True, True, False, False]
    assert area.bounds_within((0, 0, 45, 36)) == (10, 0, 45, 36)


def test_where_tissue_and_region_lie_apart_nothing_is_looked_at() -> None:
    tissue = np.array([[True, False]])
    assert Area(tissue, 50.0, read_roi("60,0,40,50")).bounds_within((0, 0, 100, 50)) is None
    assert Area(tissue.T, 50.0, read_roi("0,60,50,40")).bounds_within((0, 0, 50, 100)) is None


@pytest.mark.parametrize("overlap", [0, 32, 64, 128, 192])
@pytest.mark.parametrize("core", [64, 192, 1000, 1920])
def test_the_margin_holds_the_most_central_window_of_every_point_of_a_core(overlap: int, core: int) -> None:
    from pnseg_runtime.windows import Part, macro_tiles, most_central, windows

    side, margin = grid(SlideOptions(core=core, margin=0), 256, overlap)
    shape = (256, 3 * side + 700)
    whole = windows(shape, 256, overlap)
    for tile in macro_tiles(shape, side + 2 * margin, margin)[:4]:
        xs = np.arange(tile.core[0], tile.core[2], 7, dtype=np.float32)
        points = np.stack([xs, np.full_like(xs, 100)], axis=1)
        part = Part.of(tile.view, shape, 256, overlap)
        held = part.held(windows(part.local_shape, 256, overlap), 256)
        shift = np.array(part.shift) - tile.view[:2]
        chosen = most_central(points + shift.astype(np.float32), held, 256, part.local_shape)
        assert (chosen >= 0).all()
        expected = whole[most_central(points, whole, 256, shape)]
        assert (held[chosen] - shift == expected).all()


def test_regions_of_interest_are_read_as_rectangles_and_geojson(tmp_path: Path) -> None:
    assert read_roi("10,20,30,40").holds(np.array([[10.5, 20.5], [39.5, 59.5], [40.5, 30]])).tolist() == [1, 1, 0]
    square = [[0, 0], [9, 0], [9, 9], [0, 9], [0, 0]]
    polygon = {"type": "Polygon", "coordinates": [square]}
    path = tmp_path / "roi.geojson"
    for document in (
        polygon,
        {"type": "Polygon", "coordinates": [square[:-1]]},
        {"type": "Polygon", "coordinates": [[[x, y, 5] for x, y in square]]},
        {"type": "GeometryCollection", "geometries": [{"type": "Point", "coordinates": [20, 4]}, polygon]},
        [{"type": "Feature", "geometry": None}, {"type": "Feature", "geometry": polygon}],
        [{"type": "Feature", "geometry": {"type": "MultiPolygon", "coordinates": [[square]]}}],
    ):
        path.write_text(json.dumps(document))
        holds = read_roi(str(path)).holds(np.array([[4.0, 4.0], [10.0, 4.0], [-1.0, 4.0]]))
        assert holds.tolist() == [True, False, False]


def test_a_region_of_endless_brackets_is_no_region(tmp_path: Path) -> None:
    (tmp_path / "deep.geojson").write_text("[" * 100_000)
    with pytest.raises(ImageError, match="no region of interest"):
        read_roi(str(tmp_path / "deep.geojson"))


@pytest.mark.parametrize(("side", "tissue"), [(60, True), (60, False), (4000, True)])
def test_the_area_of_a_small_region_of_a_large_slide_is_its_own(side: int, tissue: bool) -> None:
    everywhere = np.ones((2048, 2048), bool) if tissue else None
    for offset in (0, 29.3):
        roi = read_roi(f"{50_000 + offset},{40_000 + offset},{side},{side}")
        area = Area(everywhere, 100_000 / 2048, roi).area_px((100_000, 100_000))
        assert area == pytest.approx(side**2, rel=1e-6)


def test_the_area_of_a_region_at_the_border_is_that_on_the_slide() -> None:
    assert Area(roi=read_roi("-50,900,100,400")).area_px((1000, 800)) == pytest.approx(50 * 100)
    assert Area(roi=read_roi("900,100,100,400")).area_px((1000, 800)) == 0
    assert Area().area_px((1000, 800)) == 800_000


@pytest.mark.parametrize("scale", [9.7, 40.0])
@pytest.mark.parametrize("seed", [0, 1])
def test_the_area_is_that_of_the_union_of_polygons_where_they_hold_tissue(seed: int, scale: float) -> None:
    shapely = pytest.importorskip("shapely")
    rng = np.random.default_rng(seed)
    height, width = shape = (700, 900)
    tissue = np.zeros((int(height / scale), int(width / scale)), bool)
    tissue[3 : int(rng.integers(8, 15)), 2:-2] = True
    tissue[-4:, int(rng.integers(0, 5)) :] = True

    def ring(x: float, y: float, radius: float) -> np.ndarray:
        turns = np.sort(rng.random(9)) * 2 * np.pi
        corners = np.stack([x + radius * np.cos(turns), y + radius * np.sin(turns)], axis=1)
        return np.concatenate([corners, corners[:1]])

    # A polygon with a hole, one that overlaps it, and a small one that reaches over the border.
    outer, hole, other, small = ring(400, 300, 350), ring(400, 300, 100), ring(600, 400, 250), ring(30, 640, 50)
    xs, ys = (
        np.append(np.arange(n) * scale, side) for n, side in zip(tissue.shape[::-1], (width, height), strict=True)
    )
    cells = shapely.union_all([shapely.box(xs[x], ys[y], xs[x + 1], ys[y + 1]) for y, x in np.argwhere(tissue)])
    first = shapely.symmetric_difference(shapely.Polygon(outer), shapely.Polygon(hole))
    polygons = shapely.union_all([first, shapely.Polygon(other), shapely.Polygon(small)])
    roi = Roi(((outer, hole), (other,), (small,)))
    assert Area(tissue, scale).area_px(shape) == pytest.approx(cells.area)
    assert Area(tissue, scale, roi).area_px(shape) == pytest.approx(polygons.intersection(cells).area, rel=1e-3)
    everywhere = polygons.intersection(shapely.box(0, 0, width, height))
    assert Area(roi=roi).area_px(shape) == pytest.approx(everywhere.area, rel=1e-3)


@pytest.mark.parametrize(
    "text",
    [
        "{",
        '{"type": "Point"}',
        '{"type": "Polygon"}',
        '{"type": "Polygon", "coordinates": 5}',
        '{"type": "Polygon", "coordinates": [[[0, 0]]]}',
        '{"type": "Polygon", "coordinates": [[[0, 0], [9, 9], [0, 9], [NaN, 5]]]}',
        "5",
    ],
)
def test_a_file_without_polygons_is_one_sentence(text: str, tmp_path: Path) -> None:
    (tmp_path / "roi.geojson").write_text(text)
    with pytest.raises(ImageError, match=r"roi\.geojson"):
        read_roi(str(tmp_path / "roi.geojson"))


@settings(deadline=None)
@given(x=st.floats(0, 3000), y=st.floats(0, 3000))
def test_a_point_in_a_region_lies_in_a_cell_that_its_raster_marks(x: float, y: float) -> None:
    ring = np.array([[100, 100], [2500, 300], [1400, 900], [2700, 2800], [200, 2000], [100, 100]], float)
    roi = Roi(((ring,),))
    if roi.holds(np.array([[x, y]]))[0]:
        assert roi.raster((100, 100), 30.0)[int(y // 30), int(x // 30)]


@pytest.mark.parametrize("seed", range(5))
def test_a_raster_marks_every_cell_that_an_edge_of_a_region_goes_through(seed: int) -> None:
    corners = np.random.default_rng(seed).uniform(0, 300, (7, 2))
    ring = np.concatenate([corners, corners[:1]])
    cells = Roi(((ring,),)).raster((30, 30), 10.0)
    along = np.linspace(ring[:-1], ring[1:], 2000).reshape(-1, 2)
    x, y = (along // 10).astype(int).T
    assert cells[y, x].all()


def test_of_a_ring_only_the_edges_at_the_height_of_points_are_looked_at() -> None:
    turns = np.linspace(0, 2 * np.pi, 10_001)
    ring = np.stack([5000 + 4000 * np.cos(turns), 5000 + 4000 * np.sin(turns)], axis=1)
    rng = np.random.default_rng(0)
    points = np.concatenate([rng.uniform((0, 4900), (9999, 5000), (500, 2)), ring[ring[:, 1] == ring[0, 1]]])
    near = _edges_at(ring, points[:, 1])
    assert 0 < len(near) < 200
    crossed = sum((a[1] > points[:, 1]) != (b[1] > points[:, 1]) for a, b in pairwise(ring))
    kept = sum((ay > points[:, 1]) != (by > points[:, 1]) for _, ay, _, by in near)
    np.testing.assert_array_equal(kept, crossed)
    inside = np.hypot(*(points[:500] - 5000).T) < 4000
    assert (Roi(((ring,),)).holds(points[:500]) == inside).mean() > 0.99
    assert Roi(((ring,),)).holds(np.zeros((0, 2))).shape == (0,)
    with np.errstate(all="raise"):  # level edges are crossed by no ray
        assert read_roi("0,0,9,9").holds(np.array([[4, -1], [4, 4], [4, 10.0]])).tolist() == [False, True, False]


def test_other_tissue_is_another_plan() -> None:
    mask = np.zeros((4, 5), bool)
    reader = SimpleNamespace(name="tiff")
    facts = [
        facts_of("a" * 64, reader, resolution_of(40, 50, 1.0), SlideOptions(), Area(tissue, 10.0), {})
        for tissue in (mask, mask.copy(), ~mask)
    ]
    assert facts[0] == facts[1]
    assert changes(facts[0], facts[2]) == ["tissue"]


def test_whatever_the_result_depends_on_is_another_plan(monkeypatch: pytest.MonkeyPatch) -> None:
    def told(**changed: Any) -> dict[str, Any]:
        usual = {
            "reader": SimpleNamespace(name="tiff"),
            "resolution": resolution_of(40, 50, 1.0),
            "options": SlideOptions(),
            "area": Area(),
            "model": {"sha256": "a"},
        }
        return facts_of("a" * 64, **usual | changed)

    before = told()
    assert changes(before, told()) == []
    assert changes(before, told(reader=SimpleNamespace(name="openslide"))) == ["reader (tiff → openslide)"]
    assert changes(before, told(model={"sha256": "b"})) == ["model.sha256 (a → b)"]
    assert changes(before, told(area=Area(roi=read_roi("0,0,9,9")))) == ["roi"]
    assert changes(told(area=Area(roi=read_roi("0,0,9,9"))), told(area=Area(roi=read_roi("0,0,9,8")))) == ["roi"]
    coarse = changes(before, told(resolution=resolution_of(40, 50, 2.0)))
    assert [each.split()[0] for each in coarse] == ["resolution.scale", "resolution.slide_mpp"]
    for name, value in {"tissue": False, "core": 960, "margin": 192}.items():
        (said,) = changes(before, told(options=SlideOptions(**{name: value})))
        assert said.startswith(f"options.{name} ")
    monkeypatch.setattr(plan, "__version__", "0.0")
    monkeypatch.setattr(plan, "WORK_FORMAT", 0)
    assert [each.split()[0] for each in changes(before, told())] == ["pnseg", "work_format"]


def test_a_slide_is_known_by_its_files_with_their_names_and_by_what_identifies_it_beside_them(tmp_path: Path) -> None:
    first, second = tmp_path / "a", tmp_path / "b"

    def digest(identity: str = "", *, one: bytes = b"12", other: bytes = b"3") -> str:
        first.write_bytes(one)
        second.write_bytes(other)
        return slide_hash(SimpleNamespace(facts=Facts((), identity=identity, files=(first, second))))

    told = digest()
    assert told == digest()
    assert len({told, digest("page 2"), digest(one=b"1", other=b"23"), digest(one=b"13"), digest(other=b"2")}) == 5
    first.rename(tmp_path / "c")
    renamed = SimpleNamespace(facts=Facts((), files=(tmp_path / "c", second)))
    assert slide_hash(renamed) != digest(other=b"2")


def test_changes_are_told_in_words() -> None:
    before = {"options": {"core": 1920, "tissue": True}, "slide": "a" * 64}
    after = {"options": {"core": 960, "tissue": True}, "slide": "b" * 64}
    assert changes(before, after) == ["options.core (1920 → 960)", "slide"]


def test_polygons_survive_well_known_binary() -> None:
    ring = np.array([[0, 0], [4, 0], [4, 4], [0, 0]], float)
    hole = ring[::-1] * 0.25 + 1
    for polygons in ([[ring]], [[ring, hole]], [[ring, hole], [ring + 9]]):
        again = wkb.decode(wkb.encode(polygons))
        assert [[r.tolist() for r in rings] for rings in again] == [[r.tolist() for r in rings] for rings in polygons]
    with pytest.raises(ValueError, match="not a little-endian polygon"):
        wkb.decode(b"\x00" * 9)


def test_cores_and_margins_fit_into_what_engines_can_be_shown_where_no_core_is_asked_for() -> None:
    for longest in (1536, 1500, 1000):
        side, margin = grid(SlideOptions(), 256, 64, longest)
        assert side + 2 * margin <= longest < side + 192 + 2 * margin, "and one window more would not fit"
    assert (
        grid(SlideOptions(), 256, 64, 4096) == grid(SlideOptions(), 256, 64) == grid(SlideOptions(core=1920), 256, 64)
    )
    assert grid(SlideOptions(core=1920), 256, 64, 1536)[0] == 1920, (
        "what is asked for is done, or refused by the engine"
    )
    assert grid(SlideOptions(), 256, 64, 64)[0] == 192


@pytest.mark.parametrize(
    ("backend", "longest"), [("tensorrt", 1536), ("auto", 1536), ("onnxruntime", None), ("openvino", None)]
)
def test_engines_limit_the_cores_of_backends_that_may_run_them(backend: str, longest: int | None) -> None:
    def engine(graph: str, *largest: int) -> SimpleNamespace:
        profiles = [{"image": SimpleNamespace(largest=[1, 3, *sides])} for sides in ((256, 256), largest)]
        return SimpleNamespace(graph=graph, profiles=profiles)

    engines = [engine("encoder", 256, 256), engine("prompter", 2304, 2304), engine("prompter", 1536, 2048)]
    opened = SimpleNamespace(manifest=SimpleNamespace(engines=engines))
    assert Model("mine", Options(), backend).longest_view(opened) == longest
