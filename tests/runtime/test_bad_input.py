"""Whatever is handed in gives a right result or one sentence and an exit code, never half a file."""

from __future__ import annotations

import json
import os
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import tifffile
from click.testing import CliRunner, Result
from numpy.typing import NDArray
from PIL import Image

from pnseg_runtime.bundle import FORMAT_VERSION, sha256_of
from pnseg_runtime.cli import cli
from pnseg_runtime.nuclei import Nuclei
from pnseg_runtime.outputs import KINDS
from pnseg_runtime.segmenter import Segmenter
from tests.fakes import FakeNetworks, fake_bundle
from tests.runtime.made import SAMPLES, DarkSpotModel, sample

RGB = sample("he_pink")


def run(*arguments: object) -> Result:
    result = CliRunner().invoke(cli, [str(argument) for argument in arguments])
    assert result.exception is None or isinstance(result.exception, SystemExit)
    assert "Traceback" not in result.output
    return result


def names(folder: Path) -> list[str]:
    return sorted(path.name for path in folder.iterdir())


def all_outputs(*stems: str) -> list[str]:
    return sorted(f"{stem}{kind.suffix}" for stem in stems for kind in KINDS.values())


@pytest.fixture
def model(monkeypatch: pytest.MonkeyPatch) -> DarkSpotModel:
    model = DarkSpotModel()
    monkeypatch.setattr("pnseg_runtime.cli.predict.load", lambda *_, **__: model)
    return model


@pytest.fixture
def good(tmp_path: Path) -> Path:
    Image.fromarray(RGB).save(tmp_path / "good.png")
    return tmp_path / "good.png"


# Images that cannot be read: one sentence, the others finish, exit code 1


def a_truncated_png() -> bytes:
    data = (SAMPLES / "he_pink.png").read_bytes()
    return data[: len(data) // 2]


UNREADABLE: dict[str, tuple[Callable[[Path], object], str]] = {
    "missing": (lambda path: None, "no such file"),
    "empty": (lambda path: path.write_bytes(b""), "empty"),
    "truncated": (lambda path: path.write_bytes(a_truncated_png()), "damaged or incomplete"),
    "no image": (lambda path: path.write_text("not pixels"), "not an image"),
    "NaN": (lambda path: tifffile.imwrite(path, np.full((64, 64), np.nan, np.float32)), "NaN"),
    "stack": (lambda path: tifffile.imwrite(path, np.zeros((4, 64, 64), np.uint8), photometric="minisblack"), "stack"),
    "folder without images": (lambda path: path.mkdir(), "no images in this folder"),
}


@pytest.mark.parametrize("kind", UNREADABLE)
def test_an_unreadable_input_is_one_sentence_and_the_others_finish(
    kind: str, model: DarkSpotModel, good: Path, tmp_path: Path
) -> None:
    make, words = UNREADABLE[kind]
    bad = tmp_path / "bad.png"
    make(bad)
    result = run("predict", bad, good, "--out", tmp_path / "out")
    sentence, closing = result.stderr.splitlines()
    assert result.exit_code == 1
    assert sentence.startswith(f"Error: {bad}: ")
    assert words in sentence.removeprefix(f"Error: {bad}: ")
    assert closing == "Error: 1 of 2 images failed"
    assert names(tmp_path / "out") == all_outputs("good")


# Images that can: a right result


def rgba() -> Image.Image:
    image = Image.fromarray(RGB).convert("RGBA")
    image.putalpha(255)
    return image


READABLE: dict[str, tuple[str, Callable[[Path], object], tuple[int, int]]] = {
    "16-bit grey": ("tif", lambda path: tifffile.imwrite(path, RGB[..., 0].astype(np.uint16) * 257), (256, 320)),
    "16-bit RGB": (
        "tif",
        lambda path: tifffile.imwrite(path, RGB.astype(np.uint16) * 257, photometric="rgb"),
        (256, 320),
    ),
    "grey": ("png", lambda path: Image.fromarray(RGB).convert("L").save(path), (256, 320)),
    "RGBA": ("png", lambda path: rgba().save(path), (256, 320)),
    "CMYK": ("jpg", lambda path: Image.fromarray(RGB).convert("CMYK").save(path), (256, 320)),
    "1×1": ("png", lambda path: Image.fromarray(RGB[:1, :1]).save(path), (1, 1)),
    "10×3000": ("png", lambda path: Image.fromarray(np.tile(RGB[:10], (1, 10, 1))[:, :3000]).save(path), (10, 3000)),
    "no nuclei at all": ("png", lambda path: Image.new("RGB", (90, 70), "white").save(path), (70, 90)),
}


@pytest.mark.parametrize("kind", READABLE)
def test_an_unusual_image_gives_outputs_of_its_size(kind: str, model: DarkSpotModel, tmp_path: Path) -> None:
    suffix, make, shape = READABLE[kind]
    make(tmp_path / f"image.{suffix}")
    result = run("predict", tmp_path / f"image.{suffix}", "--out", tmp_path / "out")
    assert (result.exit_code, result.stderr) == (0, "")
    assert model.asked == [((*shape, 3), None)]
    assert names(tmp_path / "out") == all_outputs("image")
    assert tifffile.imread(tmp_path / "out" / "image.labels.tif").shape == shape


# Names that get in each other's way


def test_two_inputs_with_one_stem_both_fail_naming_each_other(model: DarkSpotModel, good: Path, tmp_path: Path) -> None:
    twins = [tmp_path / "tile.png", tmp_path / "tile.tif"]
    for twin in twins:
        Image.fromarray(RGB).save(twin)
    result = run("predict", tmp_path, "--out", tmp_path / "out")
    first, second, closing = result.stderr.splitlines()
    assert result.exit_code == 1
    assert str(twins[0]) in first
    assert str(twins[1]) in first
    assert str(twins[0]) in second
    assert str(twins[1]) in second
    assert closing == "Error: 2 of 3 images failed"
    assert names(tmp_path / "out") == all_outputs("good")


def test_an_image_is_never_overwritten_by_a_result(model: DarkSpotModel, good: Path, tmp_path: Path) -> None:
    victim = tmp_path / "good.overlay.png"
    Image.fromarray(RGB).save(victim)
    before = victim.read_bytes()
    result = run("predict", good, victim, "--out", tmp_path)
    assert result.exit_code == 1
    assert f"{victim} is an input itself" in result.stderr
    assert victim.read_bytes() == before


def test_an_image_too_large_at_the_models_resolution_is_one_sentence_and_the_others_finish(
    good: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    networks = FakeNetworks(bundle := fake_bundle())
    segmenter = Segmenter(bundle, sessions=networks.sessions())
    monkeypatch.setattr("pnseg_runtime.cli.predict.load", lambda *_, **__: segmenter)
    monkeypatch.setattr("pnseg_runtime.rescale.MAX_PIXELS", 4 * 320 * 256 - 1)
    Image.fromarray(np.zeros((200, 320, 3), np.uint8)).save(tmp_path / "small.png")
    result = run("predict", good, tmp_path / "small.png", "--mpp", "0.5", "--out", tmp_path / "out")
    assert result.exit_code == 1
    first, closing = result.stderr.splitlines()
    assert first.startswith(f"Error: {good}: 320×256 px at 0.5 µm per pixel are 640×512 px")
    assert "pnseg slide" in first
    assert closing == "Error: 1 of 2 images failed"
    assert names(tmp_path / "out") == all_outputs("small")


# Places that cannot be written


def test_an_output_folder_that_is_a_file_stops_before_anything_is_done(
    model: DarkSpotModel, good: Path, tmp_path: Path
) -> None:
    (tmp_path / "out").write_text("mine")
    result = run("predict", good, "--out", tmp_path / "out")
    assert result.exit_code == 1
    assert result.stderr.startswith(f"Error: {tmp_path / 'out'}: cannot be written")
    assert len(result.stderr.splitlines()) == 1
    assert model.asked == []


@pytest.mark.skipif(os.name != "posix" or os.geteuid() == 0, reason="the superuser may write everywhere")
def test_a_folder_without_permission_is_one_sentence(model: DarkSpotModel, good: Path, tmp_path: Path) -> None:
    (tmp_path / "out").mkdir(mode=0o500)
    result = run("predict", good, "--out", tmp_path / "out")
    assert result.exit_code == 1
    assert "cannot be written" in result.stderr


def test_one_output_that_cannot_be_written_takes_the_images_others_with_it(
    model: DarkSpotModel, good: Path, tmp_path: Path
) -> None:
    Image.fromarray(RGB).save(tmp_path / "other.png")
    (tmp_path / "out" / "good.csv").mkdir(parents=True)
    result = run("predict", good, tmp_path / "other.png", "--out", tmp_path / "out")
    assert result.exit_code == 1
    assert names(tmp_path / "out") == sorted([*all_outputs("other"), "good.csv"])


def test_no_overwrite_keeps_an_earlier_result(model: DarkSpotModel, good: Path, tmp_path: Path) -> None:
    (tmp_path / "out").mkdir()
    (tmp_path / "out" / "good.csv").write_text("earlier")
    result = run("predict", good, "--out", tmp_path / "out", "--no-overwrite")
    assert result.exit_code == 1
    assert "exists already" in result.stderr
    assert (tmp_path / "out" / "good.csv").read_text() == "earlier"
    assert names(tmp_path / "out") == ["good.csv"]


def test_no_overwrite_sees_an_earlier_result_before_the_image_is_read_and_predicted(
    model: DarkSpotModel, good: Path, tmp_path: Path
) -> None:
    (tmp_path / "out").mkdir()
    for stem in ("good", "damaged"):
        (tmp_path / "out" / f"{stem}.csv").write_text("earlier")
    (tmp_path / "damaged.png").write_bytes(a_truncated_png())
    Image.fromarray(RGB[:200]).save(tmp_path / "new.png")
    result = run("predict", tmp_path, "--out", tmp_path / "out", "--no-overwrite", "--only", "csv")
    assert result.stderr.count("exists already") == 2
    assert result.stderr.splitlines()[-1] == "Error: 2 of 3 images failed"
    assert model.asked == [((200, 320, 3), None)]


# Faults inside


@pytest.mark.parametrize(("error", "words"), [(ZeroDivisionError("boom"), "boom"), (MemoryError(), "memory")])
def test_a_fault_on_one_image_is_one_sentence_and_the_others_finish(
    error: Exception, words: str, good: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    class Fragile(DarkSpotModel):
        def predict(self, rgb: NDArray[np.uint8], mpp: float | None = None, *, guessed: bool = False) -> Nuclei:
            if rgb.shape[0] == 7:
                raise error
            return super().predict(rgb, mpp, guessed=guessed)

    monkeypatch.setattr("pnseg_runtime.cli.predict.load", lambda *_, **__: Fragile())
    Image.new("RGB", (9, 7)).save(tmp_path / "bad.png")
    result = run("predict", tmp_path / "bad.png", good, "--out", tmp_path / "out")
    assert result.exit_code == 1
    assert words in result.stderr.splitlines()[0]
    assert names(tmp_path / "out") == all_outputs("good")


def test_json_tells_failures_beside_successes(model: DarkSpotModel, good: Path, tmp_path: Path) -> None:
    result = run("predict", tmp_path / "gone.png", good, "--out", tmp_path / "out", "--json")
    document = json.loads(result.stdout)
    assert result.exit_code == 1
    assert [entry["image"] for entry in document["images"]] == [str(good)]
    assert [entry["image"] for entry in document["failed"]] == [str(tmp_path / "gone.png")]


# Bundles


@pytest.fixture
def bundle(tmp_path: Path) -> Path:
    """A bundle that is sound as far as its manifest goes; its graphs are never run here."""
    folder = tmp_path / "model"
    folder.mkdir()
    graphs: dict[str, Any] = {}
    for name in ("prompter", "encoder", "decoder"):
        path = folder / f"{name}.onnx"
        path.write_bytes(name.encode() * 100)
        graphs[name] = {
            "file": path.name,
            "sha256": sha256_of(path),
            "bytes": path.stat().st_size,
            "inputs": {},
            "outputs": {},
        }
    manifest = {
        "format_version": FORMAT_VERSION,
        "model": "made by hand",
        "mpp": 0.25,
        "classes": {"names": ["nucleus"], "colors": [[0, 255, 0]]},
        "prompting": {"anchor_spacing": 8, "levels": 3, "nms_radius": 12, "region_filter": True, "negatives": 1},
        "masking": {},
        "graphs": graphs,
        "accuracy": {"val": {"PQ": 0.654321}},
    }
    (folder / "manifest.json").write_text(json.dumps(manifest))
    return folder


def change_a_byte(folder: Path) -> None:
    data = bytearray((folder / "encoder.onnx").read_bytes())
    data[50] ^= 1
    (folder / "encoder.onnx").write_bytes(data)


def raise_the_version(folder: Path) -> None:
    manifest = json.loads((folder / "manifest.json").read_text())
    manifest["format_version"] = FORMAT_VERSION + 1
    (folder / "manifest.json").write_text(json.dumps(manifest))


DAMAGE: dict[str, tuple[Callable[[Path], object], str]] = {
    "a changed byte": (change_a_byte, "SHA-256 differs"),
    "a newer manifest": (raise_the_version, "newer pnseg"),
    "no manifest": (lambda folder: (folder / "manifest.json").unlink(), "no bundle here"),
    "a missing graph": (lambda folder: (folder / "decoder.onnx").unlink(), "missing from the bundle"),
    "half a manifest": (lambda folder: (folder / "manifest.json").write_text('{"model": '), "cannot be read"),
    "graphs that are none": (lambda folder: None, "cannot read this network"),
}


@pytest.mark.parametrize("kind", DAMAGE)
def test_a_damaged_bundle_is_refused_in_one_sentence(kind: str, bundle: Path, good: Path, tmp_path: Path) -> None:
    damage, words = DAMAGE[kind]
    damage(bundle)
    result = run("predict", good, "--bundle", bundle, "--out", tmp_path / "out")
    assert result.exit_code == 1
    assert len(result.stderr.splitlines()) == 1
    assert words in result.stderr
    assert names(tmp_path / "out") == []


def test_info_tells_what_a_bundle_holds(bundle: Path) -> None:
    result = run("info", bundle)
    assert result.exit_code == 0
    rows = dict(line.split("  ", 1) for line in result.stdout.splitlines())
    assert rows["model"].strip() == "made by hand"
    assert rows["classes"].strip() == "nucleus"
    assert rows["accuracy val.PQ"].strip() == "0.6543"


def test_info_refuses_a_bundle_with_a_changed_byte(bundle: Path) -> None:
    change_a_byte(bundle)
    result = run("info", bundle)
    assert result.exit_code == 1
    assert "SHA-256 differs" in result.stderr
