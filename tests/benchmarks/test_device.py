"""The rows of a GPU, up to where the GPU itself begins: no machine of ours has one."""

import sys
import types

import pytest

from benchmarks import device, subjects
from benchmarks.device import device_bundle, device_predict, tile_sensitivity, with_engines
from benchmarks.runs import ENGINES, Engine
from benchmarks.subjects import Missing, open_subjects
from benchmarks.tiles import make_tile
from pnseg_runtime.bundle import Bundle
from pnseg_runtime.errors import BackendError
from pnseg_runtime.options import Options
from pnseg_runtime.segmenter import Segmenter

GRAPHS = Engine("", "float16", "rtx", graphs=True)


@pytest.fixture
def gpu(monkeypatch):
    """A segmenter of a GPU that notes how it was opened, and finds what it is told to find."""
    opened = []

    class DeviceSegmenter:
        def __init__(self, bundle, options, use_graphs):
            opened.append((options.sensitivity, use_graphs))

        def close(self):
            opened.append("closed")

        def predict(self, image):
            return types.SimpleNamespace(timings={"total": 0.002, "encoder": 0.001}, instance_map=lambda: image)

    module = types.ModuleType(device.SEGMENTER)
    module.DeviceSegmenter = DeviceSegmenter
    monkeypatch.setitem(sys.modules, device.SEGMENTER, module)
    monkeypatch.setattr(device, "tile_sensitivity", lambda bundle, tile: tile.nuclei / 100)
    return opened


def test_each_number_of_nuclei_is_opened_once_with_its_own_sensitivity(gpu):
    predict = device_predict(Bundle.open("nano"), GRAPHS)
    sparse, dense = make_tile(3), make_tile(24)
    for tile in (sparse, dense, sparse):
        assert predict(tile) == {"encoder": 0.001}
    assert gpu == [(None, True), "closed", (0.03, True), (0.24, True)]


def test_a_tiles_sensitivity_finds_about_its_nuclei():
    bundle, tile = Bundle.open("nano"), make_tile(24)
    found = Segmenter(bundle, Options(sensitivity=tile_sensitivity(bundle, tile))).predict(tile.image)
    assert len(found) == pytest.approx(24, abs=1)


@pytest.mark.slow
def test_what_engines_are_built_from_are_graphs_in_half_precision(tmp_path):
    folder = tmp_path / "nano"
    assert "float16" in device_bundle("nano", folder).manifest.precisions
    written = (folder / "manifest.json").stat().st_mtime_ns
    assert "float16" in device_bundle("nano", folder).manifest.precisions
    assert (folder / "manifest.json").stat().st_mtime_ns == written, "made a second time"


def test_a_gpu_without_a_fitting_engine_is_a_row_with_the_reason(monkeypatch, gpu, tmp_path):
    def fails(bundle, flavour):
        raise BackendError(f"{flavour}: the library is not installed.")

    monkeypatch.setattr(subjects, "with_engines", fails)
    monkeypatch.setattr(subjects, "device_bundle", lambda size, folder: Bundle.open("nano"))
    runs = tuple(run for run, engine in ENGINES.items() if engine.gpu)
    opened = open_subjects("PromptNucSeg-nano", runs, tmp_path, device="cuda", threads=1)
    assert [each.run for each in opened] == list(runs)
    assert all(isinstance(each, Missing) and "the library is not installed" in each.why for each in opened)


def test_without_a_gpu_its_rows_say_so(tmp_path):
    runs = tuple(run for run, engine in ENGINES.items() if engine.gpu)
    opened = open_subjects("PromptNucSeg-nano", runs, tmp_path, threads=1)
    assert {each.why for each in opened} == {"no GPU here"}
    assert len(opened) == 4


def test_engines_are_built_for_the_flavour_that_is_missing_and_only_those_are_used(monkeypatch):
    built = []
    monkeypatch.setattr(device, "own_architecture", lambda: "sm86")
    monkeypatch.setattr(
        device, "build_engines", lambda bundle, targets, choices: built.append((targets, choices.precision))
    )
    bundle = with_engines(Bundle.open("nano"), "rtx")
    assert [(target.flavour, target.architecture) for target in built[0][0]] == [("rtx", "sm86")]
    assert built[0][1] == "float16"
    assert bundle.manifest.engines == []
