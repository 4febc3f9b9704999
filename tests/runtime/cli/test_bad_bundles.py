"""A bundle that is damaged, newer or lacks what is asked of it is one sentence."""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from pnseg_runtime.bundle import FORMAT_VERSION, SHIPPED
from pnseg_runtime.hashes import sha256_of
from tests.runtime.cli.bad_input import names, run


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


def test_a_precision_that_a_bundle_lacks_names_the_command_that_makes_it(
    bundle: Path, good: Path, tmp_path: Path
) -> None:
    for named, folder in (("nano", "nano"), (str(bundle), bundle)):
        result = run("predict", good, "--bundle", named, "--precision", "int8", "--out", tmp_path / "out")
        assert result.exit_code == 1
        assert result.stderr.endswith(f"pnseg quantise {folder} --precision int8 --out FOLDER.\n")


def test_windows_that_would_overlap_whole_are_wrong_usage(good: Path, tmp_path: Path) -> None:
    manifest = json.loads((SHIPPED / "nano" / "manifest.json").read_text(encoding="utf-8"))
    manifest["masking"] |= {"window": 128, "overlap": 32}
    shutil.copytree(SHIPPED / "nano", tmp_path / "narrow")
    (tmp_path / "narrow" / "manifest.json").write_text(json.dumps(manifest), encoding="utf-8")
    result = run("predict", good, "--bundle", tmp_path / "narrow", "--overlap", 128, "--out", tmp_path / "out")
    assert result.exit_code == 2
    assert result.stderr.splitlines()[-1] == "Error: overlap must be less than a window's 128 px, not 128."


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
