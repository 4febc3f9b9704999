"""The page in a real browser, headless."""

from __future__ import annotations

import json
import shutil
import socket
import subprocess
import threading
import time
import urllib.error
import urllib.request
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from pnseg_runtime.errors import OutputError
from pnseg_runtime.slide.readers import SlideReader, open_slide
from pnseg_runtime.view import result as results
from pnseg_runtime.view import server as servers
from pnseg_runtime.view.result import open_view
from pnseg_runtime.view.server import STATIC, Server
from tests.runtime.slide.local import run_local
from tests.runtime.slide.made import save_image

BROWSER = next(filter(None, map(shutil.which, ("chromium", "chromium-browser", "google-chrome"))), None)
needs_page = pytest.mark.skipif(
    not (STATIC / "vendor" / "openseadragon.min.js").exists(), reason="OpenSeadragon is not vendored (no npm)"
)


@pytest.fixture(scope="module")
def result(mosaic: Path, bundle: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    out = tmp_path_factory.mktemp("view")
    run_local(mosaic, out, bundle, ("parquet", "geojson"))
    return out


@pytest.fixture(scope="module")
def address(result: Path) -> Iterator[str]:
    with Server(open_view(result)) as server:
        thread = threading.Thread(target=server.serve_forever, daemon=True)
        thread.start()
        yield server.address
        server.shutdown()


def wait(page: Any, condition: str, seconds: float = 60) -> None:
    """Wait for something to be true; the page's own policy forbids Playwright's way of doing so."""
    end = time.monotonic() + seconds
    while not page.evaluate(condition):
        assert time.monotonic() < end, f"{condition} did not come true"
        time.sleep(0.05)


@pytest.fixture(scope="module")
def page(address: str) -> Iterator[Any]:
    playwright = pytest.importorskip("playwright.sync_api", reason="Playwright is not installed")
    if BROWSER is None:
        pytest.skip("no Chromium is installed")
    with playwright.sync_playwright() as driver:
        browser = driver.chromium.launch(executable_path=BROWSER, args=["--no-sandbox"])
        tab = browser.new_page(viewport={"width": 1200, "height": 800})
        errors: list[str] = []
        tab.on("pageerror", lambda error: errors.append(str(error)))
        tab.goto(address)
        wait(tab, "window.pnseg?.shown > 0")
        yield tab
        assert errors == []
        browser.close()


@needs_page
@pytest.mark.slow
def test_the_page_shows_the_slide_the_nuclei_and_their_counts(page: Any, result: Path) -> None:
    total = open_view(result).summary()["nuclei"]
    assert f"{total:,} nuclei" in page.inner_text("#totals")
    assert page.inner_text("#name") == "mosaic.png"
    assert [page.inner_text("#classes label").split()[0], len(page.query_selector_all("#classes label"))] == ["dark", 2]
    assert page.evaluate("pnseg.shown") == total
    # Something has been drawn on the canvas of the nuclei, and tiles under it.
    drawn = "(c => c.getContext('2d').getImageData(0, 0, c.width, c.height).data.some(v => v > 0))"
    assert page.evaluate(f"{drawn}(document.getElementById('nuclei'))")
    wait(page, "pnseg.viewer.world.getItemAt(0).getFullyLoaded()")


@needs_page
@pytest.mark.slow
def test_a_class_that_is_switched_off_is_not_drawn(page: Any) -> None:
    box = page.locator("#classes input").first
    box.uncheck()
    assert page.evaluate("pnseg.shown") == 0
    box.check()
    assert page.evaluate("pnseg.shown") > 0


@needs_page
@pytest.mark.slow
def test_a_click_on_a_nucleus_shows_its_measurements(page: Any) -> None:
    place = page.evaluate(
        """() => {
            const nucleus = [...pnseg.tiles.values()].flatMap(t => t.nuclei)
                .sort((a, b) => b[2][0].length - a[2][0].length)[0];
            const ring = nucleus[2][0], xs = ring.filter((_, i) => i % 2 === 0), ys = ring.filter((_, i) => i % 2);
            const middle = v => (Math.min(...v) + Math.max(...v)) / 2;
            const p = pnseg.viewer.viewport.imageToViewerElementCoordinates(
                new OpenSeadragon.Point(middle(xs), middle(ys)));
            return [nucleus[0], p.x, p.y];
        }"""
    )
    page.mouse.click(place[1], place[2])
    page.wait_for_selector("#nucleus table tr", timeout=30_000)
    assert page.inner_text("#nucleus h2") == f"Nucleus {place[0]:,}"
    assert "area um2" in page.inner_text("#nucleus table")


@needs_page
def test_another_host_name_is_refused(address: str) -> None:
    request = urllib.request.Request(address + "summary.json", headers={"Host": "evil.example:80"})
    with pytest.raises(urllib.error.HTTPError, match="403"):
        urllib.request.urlopen(request)
    assert urllib.request.urlopen(address + "summary.json").status == 200


@needs_page
@pytest.mark.parametrize(
    "path", ["../../server.py", "vendor/../../server.py", "tile/99/0/0.jpg", "tile/0/5/5.jpg", "nucleus/999999.json"]
)
def test_what_is_not_there_is_not_found(address: str, path: str) -> None:
    with pytest.raises(urllib.error.HTTPError, match="404"):
        urllib.request.urlopen(address + path)


@pytest.mark.parametrize("path", ["", "view.js", "summary.json", "tile/9/0/0.jpg"])
def test_browsers_keep_nothing_that_another_slide_at_the_same_port_would_be_shown_with(
    result: Path, path: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    shutil.copytree(STATIC, tmp_path / "static")
    (tmp_path / "static" / "vendor").mkdir(exist_ok=True)
    (tmp_path / "static" / "vendor" / "openseadragon.min.js").touch()
    monkeypatch.setattr(servers, "STATIC", tmp_path / "static")
    with Server(open_view(result)) as server:
        threading.Thread(target=server.serve_forever, daemon=True).start()
        with urllib.request.urlopen(server.address + path) as answer:
            assert answer.headers["Cache-Control"] == "no-store"
        server.shutdown()


@needs_page
def test_the_server_listens_on_the_loopback_alone(address: str) -> None:
    assert address.startswith("http://127.0.0.1:")


def test_every_nucleus_is_in_exactly_one_tile_of_the_slide(result: Path) -> None:
    view = open_view(result)
    found = [
        nucleus[0]
        for y in range(0, view.zoom.height, 256)
        for x in range(0, view.zoom.width, 256)
        for nucleus in view.nuclei.within((x, y, x + 256, y + 256))["nuclei"]
    ]
    assert sorted(found) == list(range(1, len(view.nuclei) + 1))
    assert sum(map(sum, (line for grid in view.nuclei.density()["counts"] for line in grid))) == len(found)


def test_deep_zoom_tiles_cover_the_slide_at_every_level(result: Path) -> None:
    import io

    from PIL import Image

    zoom = open_view(result).zoom
    whole = [zoom.tile(zoom.levels - 1, column, row) for row in range(3) for column in range(4)]
    sizes = [Image.open(io.BytesIO(tile)).size for tile in whole if tile]
    assert sizes == [(256, 256)] * 12
    assert Image.open(io.BytesIO(zoom.tile(0, 0, 0) or b"")).size == (1, 1)
    assert zoom.tile(zoom.levels - 1, 4, 0) is None


def test_geojson_of_predict_is_shown_with_its_image(result: Path, mosaic: Path, tmp_path: Path) -> None:
    copied = shutil.copy(result / "mosaic.geojson", tmp_path / "tile.geojson")
    view = open_view(Path(copied), mosaic)
    assert len(view.nuclei) == len(open_view(result).nuclei)
    row = view.nuclei.row(1)
    assert row is not None
    assert row["Area px²"]["value"] > 0
    with pytest.raises(OutputError, match="--slide"):
        open_view(Path(copied))


def test_a_folder_of_predict_is_told_how_one_of_its_results_is_shown(result: Path, tmp_path: Path) -> None:
    shutil.copy(result / "mosaic.geojson", tmp_path / "tile.geojson")
    with pytest.raises(OutputError) as told:
        open_view(tmp_path)
    assert f"pnseg view {tmp_path / 'tile.geojson'} --slide IMAGE" in str(told.value)


@pytest.fixture
def open_slides(monkeypatch: pytest.MonkeyPatch) -> list[SlideReader]:
    """Slides that were opened and are not closed yet."""
    opened: list[SlideReader] = []

    def remember(path: Path) -> SlideReader:
        reader = open_slide(path)
        opened.append(reader)
        monkeypatch.setattr(reader, "close", lambda: opened.remove(reader))
        return reader

    monkeypatch.setattr(results, "open_slide", remember)
    return opened


def test_a_view_that_cannot_be_opened_lets_go_of_the_slide(
    result: Path, mosaic: Path, tmp_path: Path, open_slides: list[SlideReader]
) -> None:
    (tmp_path / "mosaic.run.json").write_bytes((result / "mosaic.run.json").read_bytes())
    (tmp_path / "mosaic.parquet").write_bytes(b"no table")
    with pytest.raises(OutputError, match="table of nuclei"):
        open_view(tmp_path, mosaic)
    assert open_slides == []


@pytest.mark.parametrize("name", ["mosaic.run.json", "tile.geojson"])
def test_a_server_that_ends_or_does_not_start_lets_go_of_slide_and_table(
    name: str, result: Path, mosaic: Path, tmp_path: Path, open_slides: list[SlideReader], monkeypatch
) -> None:
    shutil.copytree(result, tmp_path / "out")
    shutil.copy(result / "mosaic.geojson", tmp_path / "out" / "tile.geojson")
    (tmp_path / "vendor").mkdir()
    (tmp_path / "vendor" / "openseadragon.min.js").touch()
    monkeypatch.setattr(servers, "STATIC", tmp_path)
    with Server(open_view(tmp_path / "out" / name, mosaic)) as server:
        table = server.view.nuclei
        assert len(open_slides) == 1
    assert open_slides == []
    assert table._file.closed
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        taken.listen()
        with pytest.raises(OutputError, match="cannot be used"):
            Server(open_view(tmp_path / "out" / name, mosaic), taken.getsockname()[1])
    monkeypatch.setattr(servers, "STATIC", tmp_path / "vendor")
    with pytest.raises(OutputError, match="npm"):
        Server(open_view(tmp_path / "out" / name, mosaic))
    assert open_slides == []


def test_a_result_without_nuclei_is_shown(tmp_path: Path) -> None:
    save_image(tmp_path / "blank.png", np.full((300, 200, 3), 255, np.uint8))
    (tmp_path / "blank.geojson").write_text('{"type": "FeatureCollection", "features": []}')
    view = open_view(tmp_path / "blank.geojson", tmp_path / "blank.png")
    assert view.summary()["nuclei"] == 0
    assert view.nuclei.within((0, 0, 200, 300)) == {"nuclei": [], "left_out": 0}
    assert view.nuclei.row(1) is None


def test_a_result_is_found_by_any_file_of_a_slide_with_dots_in_its_name(result: Path, tmp_path: Path) -> None:
    for stem in ("TCGA-A1.01Z", "TCGA-A1"):
        for suffix in (".geojson", ".parquet", ".thumbnail.png"):
            (tmp_path / f"{stem}{suffix}").touch()
        facts = json.loads((result / "mosaic.run.json").read_text())
        facts["outputs"][".parquet"] = str(result / "mosaic.parquet")
        (tmp_path / f"{stem}.run.json").write_text(json.dumps(facts | {"nuclei_per_mm2": len(stem)}))
    for stem in ("TCGA-A1.01Z", "TCGA-A1"):
        for suffix in (".geojson", ".parquet", ".thumbnail.png", ".run.json"):
            assert open_view(tmp_path / f"{stem}{suffix}").facts["per_mm2"] == len(stem)
    (tmp_path / "TCGA-A2.parquet").touch()
    with pytest.raises(OutputError, match="no result"):
        open_view(tmp_path / "TCGA-A2.parquet")


def test_what_holds_no_result_is_one_sentence(tmp_path: Path, result: Path) -> None:
    with pytest.raises(OutputError, match="holds no result"):
        open_view(tmp_path)
    (tmp_path / "a.run.json").write_text("{}")
    with pytest.raises(OutputError, match="no result of pnseg slide"):
        open_view(tmp_path)
    with pytest.raises(OutputError, match="no longer there"):
        open_view(result, tmp_path / "gone.svs")


def test_a_slide_of_another_size_than_the_result_is_refused_in_one_sentence(result: Path, tmp_path: Path) -> None:
    other = save_image(tmp_path / "other.png", np.zeros((700, 1000, 3), np.uint8))
    with pytest.raises(OutputError, match=r"other\.png: has 1000×700 px, .*mosaic\.run\.json 1024×768; .*--slide"):
        open_view(result, other)
    same = save_image(tmp_path / "same.png", np.zeros((768, 1024, 3), np.uint8))
    assert open_view(result, same).summary()["name"] == "same.png"


#: What the page's script meets in a browser, as far as drawing outlines needs it: a screen of 25×15 tiles.
BEFORE_THE_SCRIPT = """
let answer = () => new Promise(() => {}), frames = new Map(), asked = [], draws = 0, left = 0;
const parts = { slide: { clientWidth: 4000, clientHeight: 2400 }, outlines: { checked: true }, fill: {}, hint: {} };
globalThis.window = {};
globalThis.document = { getElementById: (id) => parts[id] };
globalThis.OpenSeadragon = { Point: class { constructor(x, y) { Object.assign(this, { x, y }); } } };
globalThis.requestAnimationFrame = (draw) => { frames.set(frames.size + 1, draw); return frames.size; };
globalThis.cancelAnimationFrame = (frame) => frames.delete(frame);
globalThis.fetch = (url) => answer(url);
"""
AFTER_THE_SCRIPT = """
const context = { setTransform() {}, clearRect() { draws++; } };
const viewport = { imageToViewerElementCoordinates: (p) => ({ x: p.x * 0.16 - left, y: p.y * 0.16 }) };
Object.assign(state, {
  summary: { width: 1e6, height: 1e6 }, density: {}, canvas: { style: {}, getContext: () => context },
  viewer: { world: { getItemCount: () => 1 }, viewport },
});
answer = async (url) => { asked.push(url); return { ok: true, json: async () => ({ nuclei: [], left_out: 0 }) }; };
(async () => {
  for (const place of [0, 4000, 8000, 12000]) {
    [left, asked, draws] = [place, [], 0];
    draw();
    for (let turn = 0; turn < 20; turn++) {
      await new Promise(setImmediate);
      const due = [...frames.values()];
      frames.clear();
      due.forEach((each) => each());
    }
    const visible = visibleTiles(placement()).length;
    console.log(JSON.stringify({ asked: asked.length, draws, visible, kept: state.tiles.size }));
  }
})();
"""


@pytest.mark.skipif(shutil.which("node") is None, reason="Node.js is not installed")
def test_more_tiles_in_view_than_are_kept_are_asked_for_once_and_drawn_once_a_frame() -> None:
    script = BEFORE_THE_SCRIPT + (STATIC / "view.js").read_text(encoding="utf-8") + AFTER_THE_SCRIPT
    ran = subprocess.run(["node", "-"], input=script, capture_output=True, text=True, timeout=300, check=False)
    assert ran.returncode == 0, ran.stderr
    places = [json.loads(line) for line in ran.stdout.splitlines()]
    assert len(places) == 4
    assert places[0]["asked"] == places[0]["visible"] > 300
    for place in places:
        assert place["asked"] <= place["visible"]
        assert place["draws"] <= 3
        assert place["visible"] <= place["kept"] <= 2 * place["visible"]
    assert places[-1]["kept"] < sum(place["asked"] for place in places)


def test_an_installation_without_the_page_says_so(result: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(servers, "STATIC", result)
    with pytest.raises(OutputError, match="npm"):
        Server(open_view(result))
