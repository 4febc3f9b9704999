"""What pnseg predict tells: a table, JSON and a log."""

from __future__ import annotations

import json
import os
import re
import subprocess
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import tifffile
from PIL import Image

from pnseg_runtime import __version__, plausible
from tests.runtime.cli.command import MAIN, ROOT, python, run
from tests.runtime.made import SAMPLES, dark_spots, sample


def test_the_table_has_a_row_an_image_and_a_total(loaded: dict[str, Any], tmp_path: Path) -> None:
    result = run("predict", SAMPLES, "--out", tmp_path)
    heading, *rows = [line.split() for line in result.stdout.splitlines() if line.strip()]
    assert heading == ["image", "size", "(px)", "nuclei", "seconds", "Mpx/s"]
    assert [row[0] for row in rows[:-1]] == sorted(path.name for path in SAMPLES.glob("*.png"))
    assert {row[1] for row in rows[:-1]} == {"320×256"}
    assert rows[-1][:2] == ["6", "images"]
    assert int(rows[-1][2]) == sum(int(row[2]) for row in rows[:-1])


def test_a_pipe_gets_no_colour_and_standard_error_stays_silent(loaded: dict[str, Any], tmp_path: Path) -> None:
    result = run("predict", SAMPLES, "--out", tmp_path)
    assert "\x1b" not in result.output
    assert result.stderr == ""


def test_a_long_file_name_is_not_folded_in_a_pipe(loaded: dict[str, Any], tmp_path: Path) -> None:
    name = "a slide with a very long name " * 5 + ".png"
    Image.fromarray(sample()).save(tmp_path / name)
    result = run("predict", tmp_path / name, "--out", tmp_path / "out")
    assert any(line.startswith(name) and "320×256" in line for line in result.stdout.splitlines())


def test_json_names_sizes_counts_and_files(loaded: dict[str, Any], tmp_path: Path) -> None:
    result = run("predict", SAMPLES / "he_pink.png", "--out", tmp_path, "--only", "csv", "--json")
    document = json.loads(result.stdout)
    (image,) = document["images"]
    assert (image["width"], image["height"]) == (320, 256)
    assert image["nuclei"] == len(dark_spots(sample("he_pink")))
    assert image["outputs"] == {"csv": str(tmp_path / "he_pink.csv")}
    assert document["failed"] == []


def test_json_tells_what_ran_and_how_sure_its_numbers_are(
    loaded: dict[str, Any], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(plausible, "LEAST", 1)
    loaded["model"].unknown_mpp = "auto"
    tifffile.imwrite(
        tmp_path / "stated.tif", sample(), photometric="rgb", description="Aperio|MPP = 0.5", metadata=None
    )
    Image.fromarray(sample()).save(tmp_path / "silent.png")
    Image.new("RGB", (90, 70), "white").save(tmp_path / "empty.png")

    def told(*options: object) -> tuple[dict[str, Any], list[dict[str, Any]]]:
        images = [tmp_path / name for name in ("stated.tif", "silent.png", "empty.png")]
        result = run("predict", *images, "--out", tmp_path / "out", "--only", "csv", "--json", *options)
        document = json.loads(result.stdout)
        return document, document["images"]

    document, (stated, silent, empty) = told()
    assert {name: document[name] for name in ("pnseg", "bundle", "backend", "precision")} == {
        "pnseg": __version__,
        "bundle": "nano",
        "backend": "handmade",
        "precision": "float32",
    }
    assert [(image["mpp"], image["mpp_source"]) for image in (stated, silent, empty)] == [
        (0.5, "file"),
        (pytest.approx(0.375), "guessed"),
        (None, None),
    ]
    nuclei = dark_spots(sample())
    assert stated["nuclei_of_class"] == silent["nuclei_of_class"]
    assert stated["nuclei_of_class"] == {
        "neoplastic": (len(nuclei) + 1) // 2,
        "inflammatory": len(nuclei) // 2,
    }
    assert empty["nuclei_of_class"] == {"neoplastic": 0, "inflammatory": 0}
    diameters = sorted(2 * 0.5 * (mask.sum() / np.pi) ** 0.5 for mask in nuclei.masks)
    assert stated["median_diameter_um"] == pytest.approx(diameters[(len(diameters) - 1) // 2], abs=0.05)
    assert (silent["median_diameter_um"], empty["median_diameter_um"]) == (None, None)
    assert stated["doubt"] is None
    _, (given, *_) = told("--mpp", "5")
    assert (given["mpp"], given["mpp_source"]) == (5, "given")
    assert "which no tissue has" in given["doubt"]
    _, (_, silent, _) = told("--mpp", "model")
    assert (silent["mpp"], silent["mpp_source"]) == (None, None)


def test_the_log_tells_of_each_image_how_it_was_seen_and_of_each_error_where_it_arose(tmp_path: Path) -> None:
    tifffile.imwrite(
        tmp_path / "stated.tif", sample(), photometric="rgb", description="Aperio|MPP = 0.5", metadata=None
    )
    images = (
        *(SAMPLES / name for name in ("he_pink.png", "purple_crowded.png")),
        *(tmp_path / name for name in ("stated.tif", "gone.png")),
    )
    code = (
        "import sys; from pnseg_runtime.cli import main\n"
        f"sys.argv[1:] = ['-v', 'predict', *{[str(path) for path in images]}, '--out', {str(tmp_path / 'out')!r}]\n"
        "main()"
    )
    done = python(code)
    plain, small, stated = (line for line in done.stderr.splitlines() if line.startswith("INFO pnseg: /"))
    assert f"{images[0]}: 320×256 px, resolution unknown, taken as it is: " in plain
    assert "0.375 µm per pixel (guessed), 1.5 times the model's, enlarged 1.5 times on a guess: " in small
    assert "320×256 px, 0.5 µm per pixel (file), 2 times the model's: " in stated
    assert re.search(r" \d+ nuclei in [\d.]+ s \(prepare [\d.]+, prompter [\d.]+, .*masks [\d.]+\)$", stated)
    assert "DEBUG pnseg: " in done.stderr
    assert "ImageError: " in done.stderr.partition("Traceback")[2]


@pytest.mark.skipif(not Path("/dev/full").exists(), reason="the system has no such device")
@pytest.mark.parametrize("options", [[], ["--json"]])
@pytest.mark.parametrize("where", [">/dev/full", ">&-"])
def test_a_summary_that_cannot_be_printed_is_one_sentence_that_says_where_the_results_are(
    where: str, options: list[str], tmp_path: Path
) -> None:
    command = ["predict", SAMPLES / "he_pink.png", "--out", tmp_path / "out", "--only", "csv", *options]
    words = [sys.executable, "-c", MAIN + "main()", *map(str, command)]
    done = subprocess.run(
        ["sh", "-c", f'exec "$@" {where}', "sh", *words],
        stderr=subprocess.PIPE,
        text=True,
        check=False,
        cwd=ROOT,
    )
    (sentence,) = done.stderr.splitlines()
    assert done.returncode == 1
    assert sentence.startswith("Error: standard output: cannot be written (")
    assert sentence.endswith(f"the results that were made are in {tmp_path / 'out'}.")
    assert (tmp_path / "out" / "he_pink.csv").exists()


@pytest.mark.parametrize("stem", ["CMU-1 [d=1,x=0]", ":smile: x", "case [red]"])
def test_a_name_is_printed_as_it_is(stem: str, loaded: dict[str, Any], tmp_path: Path) -> None:
    image = tmp_path / f"{stem}.png"
    Image.fromarray(sample()).save(image)
    result = run("predict", image, "--out", tmp_path / "out", "--mpp", "auto")
    assert result.exit_code == 0, result.output
    lines = result.stdout.splitlines()
    assert any(line.startswith(f"{image.name} ") and "320×256" in line for line in lines)
    assert lines[-1].startswith("Seen 1.5 times enlarged")
    assert lines[-1].endswith(f": {image.name}")


@pytest.mark.skipif(sys.platform != "linux", reason="other systems have no such names")
@pytest.mark.parametrize("encoding", ["utf-8:strict", "ascii:strict", "utf-8:surrogateescape"])
def test_a_name_that_cannot_be_printed_costs_nothing_of_the_report(encoding: str, tmp_path: Path) -> None:
    odd, plain = tmp_path / os.fsdecode(b"lat\xe9 \xce\xb1.png"), tmp_path / "plain µ.png"
    for path in (odd, plain):
        Image.fromarray(sample()).save(path)
    command = ["predict", tmp_path, "--out", tmp_path / "out", "--only", "csv"]
    told = python(MAIN + "main()", *command, "--json", PYTHONIOENCODING=encoding)
    assert (told.returncode, told.stderr) == (0, "")
    assert [entry["image"] for entry in json.loads(told.stdout)["images"]] == [str(odd), str(plain)]
    table = python(MAIN + "main()", *command, PYTHONIOENCODING=encoding)
    assert (table.returncode, table.stderr) == (0, "")
    assert table.stdout.splitlines()[1].startswith(r"lat\udce9 ")
    assert table.stdout.splitlines()[-1].startswith("2 images")
