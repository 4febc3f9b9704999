"""What changes a result starts anew, and what does not goes on."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from pnseg_runtime.bundle import Bundle
from pnseg_runtime.errors import BackendError
from pnseg_runtime.options import Options
from pnseg_runtime.segmenter import Segmenter
from pnseg_runtime.slide import Model, SlideOptions, networks, run_slide
from pnseg_runtime.slide.plan import Plan
from pnseg_runtime.slide.store import Store, earlier_plans
from tests.runtime.slide.local import hashes, local_segmenter, run_local
from tests.runtime.slide.made import save_image
from tests.runtime.slide.resume.running import (
    OPTIONS,
    Counting,
    found_files,
)


@pytest.mark.parametrize("change", ["option", "bundle", "slide"])
def test_what_changes_the_result_starts_anew_with_a_message(
    change: str, slide: Path, bundle: Path, tmp_path: Path
) -> None:
    from tests.runtime.slide.local import write_bundle

    here = tmp_path / "slide.png"
    here.write_bytes(slide.read_bytes())
    run_local(here, tmp_path / "out", bundle, ("parquet",), OPTIONS)
    options, other = OPTIONS, bundle
    if change == "option":
        options = SlideOptions(mpp=0.25, core=192, tissue=False, margin=192)
    elif change == "bundle":
        other = write_bundle(tmp_path / "other", masking={"nms_iou": 0.4})
    else:
        changed = np.asarray(Image.open(here)).copy()
        changed[5, 5] ^= 1
        save_image(here, changed)
    watcher = Counting()
    result = run_local(here, tmp_path / "out", other, ("parquet",), options, watcher=watcher)
    assert {"option": "options.tissue", "bundle": "model.manifest_sha256", "slide": "slide"}[change] in watcher.anew
    assert len(watcher.cores) == len(found_files(tmp_path / "out")) > 1
    assert len([path for path in (tmp_path / "out").glob("*.work/*") if path.is_dir()]) == 1
    alone = run_local(here, tmp_path / "alone", other, ("parquet",), options)
    assert hashes(result) == hashes(alone)


def test_threads_and_kinds_of_output_are_no_change(slide: Path, bundle: Path, tmp_path: Path) -> None:
    run_local(slide, tmp_path, bundle, ("parquet",), OPTIONS)
    watcher = Counting()
    with local_segmenter(bundle) as segmenter:
        run_slide(
            slide,
            tmp_path,
            Model(str(bundle), Options(threads=3)),
            OPTIONS,
            ("geojson",),
            watcher=watcher,
            segmenter=segmenter,
        )
    assert (watcher.cores, watcher.anew) == ([], None)
    assert (tmp_path / "slide.geojson").exists()


def test_work_of_an_older_format_is_removed_and_told_and_what_was_to_be_removed_is_not(tmp_path: Path) -> None:
    facts = {"slide": "a" * 64}
    store = Store(tmp_path, Plan((), 192, 512, "new", facts))
    (tmp_path / ".removed-another" / "found").mkdir(parents=True)
    assert store.open() is None
    (tmp_path / "old" / "found").mkdir(parents=True)
    (tmp_path / "old" / "plan.json").write_text(json.dumps(facts | {"path": "slide.svs"}))
    (tmp_path / "new" / "plan.json").write_text("[]")
    assert earlier_plans(tmp_path) == [("new", {}), ("old", facts | {"path": "slide.svs"})]
    assert store.open() == "an older format"
    assert [path.name for path in tmp_path.iterdir()] == ["new"]


def test_auto_goes_on_with_the_backend_of_the_work_that_is_there_if_it_starts(
    slide: Path, bundle: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    asked: list[str] = []
    fastest, broken = "onnxruntime", ""

    def opened(_: Bundle, options: Options, backend: str) -> Segmenter:
        asked.append(backend)
        if backend == broken:
            raise BackendError(f"{backend}: does not start.")
        return local_segmenter(bundle, options, backend=fastest if backend == "auto" else backend)

    def run() -> Counting:
        watcher = Counting()
        run_slide(slide, tmp_path, Model(str(bundle), Options(), "auto"), OPTIONS, ("parquet",), watcher=watcher)
        return watcher

    monkeypatch.setattr(networks, "Segmenter", opened)
    everything = run().cores
    sorted(tmp_path.glob("*.work/*/found/*.npz"))[1].unlink()
    fastest = "openvino"
    again = run()
    assert (len(again.cores), again.anew) == (1, None)
    assert asked == ["auto", "onnxruntime"], "what was begun needs no timing"
    broken = "onnxruntime"
    anew = run()
    assert anew.cores == everything
    assert anew.anew == "model.backend (onnxruntime → openvino)"
