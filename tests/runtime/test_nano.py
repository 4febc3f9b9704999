"""The shipped model on real tiles."""

import json

import numpy as np
import pytest

from pnseg_runtime import load
from pnseg_runtime.bundle import SHIPPED, Bundle
from pnseg_runtime.images import read_image
from pnseg_runtime.metrics import panoptic_quality
from tests import golden
from tests.real_data import real


@pytest.fixture(scope="module")
def tiles() -> dict[str, tuple[np.ndarray, np.ndarray]]:
    """Image and label map of the six sample tiles."""
    import cv2

    return {
        path.stem: (read_image(path).pixels, cv2.imread(str(golden.TILES / "labels" / path.name), cv2.IMREAD_UNCHANGED))
        for path in sorted((golden.TILES / "images").iterdir())
    }


@pytest.fixture(scope="module")
def large() -> np.ndarray:
    """Six real tiles side by side: (512, 960, 3)."""
    images = [read_image(path).pixels for path in sorted((golden.TILES / "images").iterdir())]
    return np.concatenate([np.concatenate(images[:3], axis=1), np.concatenate(images[3:], axis=1)])


def test_the_bundle_is_small_and_says_where_it_comes_from():
    manifest = Bundle.open("nano").manifest
    assert sum(path.stat().st_size for path in (SHIPPED / "nano").iterdir()) <= 30e6
    assert manifest.provenance.weights_licence == "Apache-2.0"
    assert any("TNBC" in name for name in manifest.provenance.attribution)
    assert not any("NC" in licence for licence in manifest.provenance.data_licences)
    assert max(manifest.parity["largest_difference"].values()) < 1e-2
    assert {"dsb2018_stained", "tnbc"} <= set(manifest.accuracy)


def test_it_outlines_most_nuclei_of_every_sample(tiles):
    with load("nano") as segmenter:
        qualities = [
            panoptic_quality(labels, segmenter.predict(image).instance_map()) for image, labels in tiles.values()
        ]
    assert min(quality["pq"] for quality in qualities) > 0.35
    assert np.mean([quality["pq"] for quality in qualities]) > 0.6


def test_the_same_image_gives_the_same_nuclei(tiles):
    image, _ = next(iter(tiles.values()))
    with load("nano") as segmenter:
        first, second = segmenter.predict(image), segmenter.predict(image)
    assert np.array_equal(first.instance_map(), second.instance_map())


def test_the_most_central_window_agrees_with_all_windows(large):
    maps = [load("nano", assignment=assignment).predict(large).instance_map() for assignment in ("central", "all")]
    assert panoptic_quality(*maps)["pq"] > 0.93


def test_macro_tiles_agree_with_the_whole_image(large):
    maps = [load("nano", macro_tile=side).predict(large).instance_map() for side in (1536, 512)]
    assert panoptic_quality(*maps)["pq"] > 0.93


def test_batches_of_windows_and_prompts_change_nothing(large):
    maps = [load("nano", window_batch=w, prompt_batch=p).predict(large).instance_map() for w, p in ((8, 256), (1, 7))]
    assert (maps[0] != maps[1]).mean() < 1e-4


def test_more_sensitivity_finds_more_nuclei(large):
    few, many = (len(load("nano", sensitivity=sensitivity).predict(large)) for sensitivity in (-1.0, 2.0))
    assert few < 0.9 * many


@pytest.mark.parametrize("name", ["nano-clumps", "nano-region", "nano-grid", "nano-masks"])
def test_settings_of_the_bundle_are_those_of_its_recipes(name):
    yaml = pytest.importorskip("yaml")
    recipe = yaml.safe_load((SHIPPED.parents[1] / "pnseg_train" / "recipes" / f"{name}.yaml").read_text())
    manifest = Bundle.open("nano").manifest
    said = manifest.model_dump(mode="json") | manifest.prompting.model_dump() | manifest.masking.model_dump()
    assert {name: said[name] for name in recipe["inference"]} == recipe["inference"]


@pytest.mark.slow
@pytest.mark.parametrize("name", ["dsb2018_stained", "tnbc"])
def test_the_accuracy_in_the_manifest_is_the_one_measured(name):
    folder = real(name)
    pytest.importorskip("torch")
    from pnseg_train.datasets import read_folder
    from pnseg_train.evaluate import mean, measure
    from pnseg_train.finder import Finder

    find = Finder.usual(load("nano"))
    measured = mean([measure(sample, find(sample)).row for sample in read_folder(folder, "val")])
    stated = Bundle.open("nano").manifest.accuracy[name]
    assert {key: measured[key] for key in ("pq", "aji", "f1")} == pytest.approx(
        {key: stated[key] for key in ("pq", "aji", "f1")}, abs=2e-3
    ), json.dumps(measured)
