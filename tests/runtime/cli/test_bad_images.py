"""Images that cannot be read are one sentence each, and unusual ones give a right result."""

from __future__ import annotations

import json
import os
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import tifffile
from numpy.typing import NDArray
from PIL import Image

from pnseg_runtime.nuclei import Nuclei
from pnseg_runtime.segmenter import Segmenter
from tests.fakes import FakeNetworks, fake_bundle
from tests.runtime.cli.bad_input import RGB, a_truncated_png, all_outputs, names, run
from tests.runtime.made import DarkSpotModel

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


@pytest.mark.skipif(not hasattr(os, "mkfifo"), reason="the system has no named pipes")
@pytest.mark.parametrize("kind", ["named pipe", "device"])
def test_what_is_no_file_is_said_to_be_a_pipe_or_a_device(kind: str, model: DarkSpotModel, tmp_path: Path) -> None:
    path = Path(os.devnull)
    if kind == "named pipe":
        os.mkfifo(path := tmp_path / "pipe.png")
    result = run("predict", path, "--out", tmp_path / "out")
    assert result.exit_code == 1
    assert result.stderr.startswith(f"Error: {path}: is a pipe or a device")
    assert "as a file first" in result.stderr


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
