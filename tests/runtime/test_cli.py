from __future__ import annotations

import json
import os
import re
import shlex
import subprocess
import sys
from pathlib import Path
from typing import Any

import click
import numpy as np
import pyarrow.csv
import pytest
import tifffile
from click.testing import CliRunner, Result
from PIL import Image

from pnseg_runtime import __version__, plausible
from pnseg_runtime.cli import cli
from pnseg_runtime.cli.group import LazyGroup, load_verb, show_warning
from pnseg_runtime.cli.verbs import VERBS, Verb
from pnseg_runtime.errors import BundleError
from pnseg_runtime.outputs import KINDS
from tests.runtime.made import SAMPLES, DarkSpotModel, dark_spots, sample


def run(*arguments: object) -> Result:
    return CliRunner().invoke(cli, [str(argument) for argument in arguments])


def python(code: str, *arguments: object, **environment: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [sys.executable, "-c", code, *map(str, arguments)],
        capture_output=True,
        text=True,
        check=False,
        cwd=Path(__file__).parents[2],
        env={**os.environ, **environment},
    )


# The command in a process of its own, with a model made by hand in the place of a bundle.
MAIN = """
from pnseg_runtime.cli import main, predict
from tests.runtime.made import DarkSpotModel
predict.load = lambda *_, **__: DarkSpotModel()
"""


@pytest.fixture
def loaded(monkeypatch: pytest.MonkeyPatch) -> dict[str, Any]:
    """Put a model made by hand in the place of a bundle; returns what it was loaded with."""
    seen: dict[str, Any] = {"model": DarkSpotModel()}

    def load(bundle: str, **options: Any) -> DarkSpotModel:
        seen.update(bundle=bundle, options=options)
        return seen["model"]

    monkeypatch.setattr("pnseg_runtime.cli.predict.load", load)
    return seen


# The group


def test_help_lists_every_verb_and_imports_none() -> None:
    code = (
        "import sys; from pnseg_runtime.cli import cli; cli(['--help'], standalone_mode=False);"
        "sys.exit(any(name.endswith(('cli.predict', 'cli.info')) or name.startswith(('torch', 'pnseg_train'))"
        " for name in sys.modules))"
    )
    finished = python(code)
    assert finished.returncode == 0
    for verb in VERBS:
        assert f"  {verb.name} " in finished.stdout
        assert verb.help.split()[0] in finished.stdout


def test_the_version_is_printed() -> None:
    result = run("--version")
    assert result.exit_code == 0
    assert result.stdout.startswith("pnseg ")


def test_an_unknown_verb_is_wrong_usage() -> None:
    assert run("guess").exit_code == 2


def test_a_verb_whose_extra_is_missing_says_what_to_install(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "needs_torch.py").write_text("import torch.nn\n")
    monkeypatch.syspath_prepend(tmp_path)
    monkeypatch.setitem(sys.modules, "torch", None)
    group = LazyGroup("pnseg", [*VERBS, Verb("fit", "needs_torch:fit", "Fit.", extra="train")])
    result = CliRunner().invoke(group, ["fit"])
    assert result.exit_code == 2
    assert result.stderr == 'Error: pnseg fit needs PyTorch: pip install "pnseg[train]"\n'
    assert CliRunner().invoke(group, ["info", "--help"]).exit_code == 0


def test_a_fault_of_our_own_is_not_taken_for_a_missing_extra() -> None:
    with pytest.raises(ModuleNotFoundError, match="pnseg_train"):
        load_verb(Verb("fit", "pnseg_train.no_such_module:fit", "Fit.", extra="train"))


def test_a_library_the_plain_installation_brings_is_never_an_extra() -> None:
    with pytest.raises(ModuleNotFoundError):
        load_verb(Verb("look", "no_such_library:look", "Look."))


def completed(*words: str, code: str = "") -> list[str]:
    """What bash is offered for the last word, one ``type,value`` a line."""
    asked = {"COMP_WORDS": shlex.join(("pnseg", *words)), "COMP_CWORD": str(len(words))}
    done = python(f"{code}\nfrom pnseg_runtime.cli import main; main()", _PNSEG_COMPLETE="bash_complete", **asked)
    assert done.stderr == ""
    return done.stdout.splitlines()


def test_the_names_of_verbs_are_completed_without_importing_one() -> None:
    modules = {verb.target.partition(":")[0] for verb in VERBS}
    code = f"import atexit, sys; atexit.register(lambda: print(*{modules}.intersection(sys.modules)))"
    assert completed("e", code=code) == [*(f"plain,{verb.name}" for verb in VERBS if verb.name[0] == "e"), ""]
    context = click.Context(cli, resilient_parsing=True)
    offered = {item.value: item.help for item in cli.shell_complete(context, "")}
    assert offered == {verb.name: verb.help for verb in VERBS}


def test_options_values_and_files_of_a_verb_are_completed() -> None:
    assert completed("predict", "--rec") == ["plain,--recursive"]
    assert completed("predict", "--assignment", "cen") == ["plain,central"]
    assert [line.partition(",")[0] for line in completed("predict", "ti")] == ["file"]
    assert completed("--ver") == ["plain,--verbose", "plain,--version"]


def test_a_verb_whose_extra_is_missing_has_no_options_to_complete(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "needs_torch.py").write_text("import torch.nn\n")
    monkeypatch.syspath_prepend(tmp_path)
    monkeypatch.setitem(sys.modules, "torch", None)
    group = LazyGroup("pnseg", [Verb("fit", "needs_torch:fit", "Fit.", extra="train")])
    command = group.get_command(click.Context(group, resilient_parsing=True), "fit")
    assert command is not None
    assert (command.name, command.help, command.params) == ("fit", "Fit.", [])


@pytest.mark.parametrize(("no_color", "colored"), [(None, True), ("", True), ("1", False)])
def test_no_color_takes_the_colour_of_errors_and_warnings(
    no_color: str | None, colored: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    def fail() -> None:
        show_warning("look at this")
        raise BundleError("b/: no bundle here; export one.")

    result = CliRunner(env={"NO_COLOR": no_color}).invoke(group_of(fail, monkeypatch), ["do"], color=True)
    assert [line.startswith("\x1b[3") for line in result.stderr.splitlines()] == [colored, colored]


def group_of(callback: Any, monkeypatch: pytest.MonkeyPatch) -> LazyGroup:
    monkeypatch.setattr("pnseg_runtime.cli.group.load_verb", lambda verb: click.Command("do", callback=callback))
    return LazyGroup("pnseg", [Verb("do", "nowhere:do", "Do.")])


def test_an_error_of_pnseg_is_one_line_and_exit_code_1(monkeypatch: pytest.MonkeyPatch) -> None:
    def fail() -> None:
        raise BundleError("b/: no bundle here; export one.")

    result = CliRunner().invoke(group_of(fail, monkeypatch), ["do"])
    assert (result.exit_code, result.stdout, result.stderr) == (1, "", "Error: b/: no bundle here; export one.\n")


def test_an_interruption_is_exit_code_130(monkeypatch: pytest.MonkeyPatch) -> None:
    def interrupt() -> None:
        raise KeyboardInterrupt

    result = CliRunner().invoke(group_of(interrupt, monkeypatch), ["do"])
    assert (result.exit_code, result.stderr) == (130, "Interrupted.\n")


@pytest.mark.skipif(os.name != "posix", reason="signals are a matter of POSIX")
def test_a_termination_is_exit_code_143_and_leaves_no_draft(tmp_path: Path) -> None:
    code = MAIN + (
        "import os, signal; from pnseg_runtime import outputs\n"
        "def write(prediction, stream):\n"
        "    stream.write(b'half')\n"
        "    print(len(os.listdir(os.environ['OUT'])))\n"
        "    os.kill(os.getpid(), signal.SIGTERM)\n"
        "outputs.OutputKind.load = lambda kind: write\n"
        "main()"
    )
    out = tmp_path / "out"
    finished = python(code, "predict", SAMPLES / "he_pink.png", "--out", out, "--only", "csv,labels", OUT=str(out))
    assert (finished.returncode, finished.stdout, finished.stderr) == (143, "2\n", "")
    assert list(out.iterdir()) == []


@pytest.mark.skipif(os.name != "posix", reason="signals are a matter of POSIX")
def test_a_fork_is_terminated_as_any_other_process() -> None:
    code = (
        "import os, signal; from pnseg_runtime import cli\n"
        "def fork(**_):\n"
        "    if os.fork() == 0:\n"
        "        try: os.kill(os.getpid(), signal.SIGTERM)\n"
        "        finally: os._exit(0)\n"
        "    print(os.wait()[1])\n"
        "cli.cli = fork; cli.main()"
    )
    assert python(code).stdout == "15\n"


# predict


def test_the_page_of_predict_has_the_options_of_its_help_and_no_others() -> None:
    page = (Path(__file__).parents[2] / "docs" / "predict.md").read_text(encoding="utf-8")
    told = set(re.findall(r"^\| `(--[a-z-]+)`", page, re.MULTILINE))
    command = load_verb(next(verb for verb in VERBS if verb.name == "predict"))
    options = {(*option.secondary_opts, *option.opts)[0] for option in command.params}
    assert told == {name for name in options if name.startswith("--")}


def test_a_folder_gives_all_outputs_of_its_images(loaded: dict[str, Any], tmp_path: Path) -> None:
    result = run("predict", SAMPLES, "--out", tmp_path / "out")
    assert result.exit_code == 0, result.stderr
    stems = sorted(path.stem for path in SAMPLES.glob("*.png"))
    expected = sorted(f"{stem}{kind.suffix}" for stem in stems for kind in KINDS.values())
    assert sorted(path.name for path in (tmp_path / "out").iterdir()) == expected
    assert len(loaded["model"].asked) == len(stems) == 6


def test_outputs_hold_the_nuclei_of_the_model(loaded: dict[str, Any], tmp_path: Path) -> None:
    run("predict", SAMPLES / "he_pink.png", "--out", tmp_path)
    nuclei = dark_spots(sample("he_pink"))
    np.testing.assert_array_equal(tifffile.imread(tmp_path / "he_pink.labels.tif"), nuclei.instance_map())
    assert pyarrow.csv.read_csv(tmp_path / "he_pink.csv").num_rows == len(nuclei)
    features = json.loads((tmp_path / "he_pink.geojson").read_text(encoding="utf-8"))["features"]
    assert len(features) == len(nuclei)


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
        cwd=Path(__file__).parents[2],
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


def test_only_the_kinds_asked_for_are_written(loaded: dict[str, Any], tmp_path: Path) -> None:
    run("predict", SAMPLES / "he_pink.png", "--out", tmp_path, "--only", "labels,geojson")
    assert sorted(path.name for path in tmp_path.iterdir()) == ["he_pink.geojson", "he_pink.labels.tif"]


@pytest.mark.parametrize("kinds", ["masks", "labels,masks", ""])
def test_an_unknown_kind_is_wrong_usage_and_lists_the_known(kinds: str, loaded: dict[str, Any], tmp_path: Path) -> None:
    result = run("predict", SAMPLES, "--out", tmp_path, "--only", kinds)
    assert result.exit_code == 2
    assert "choose from labels, geojson, csv, parquet, overlay" in result.stderr.replace("\n", " ")


def test_options_reach_the_model_only_when_they_are_given(loaded: dict[str, Any], tmp_path: Path) -> None:
    run("predict", SAMPLES / "he_pink.png", "--out", tmp_path)
    assert (loaded["bundle"], loaded["options"]) == ("nano", {"backend": "onnxruntime"})
    run("predict", SAMPLES / "he_pink.png", "--out", tmp_path, "--bundle", "b", "--threads", 2, "--negatives", 0)
    assert (loaded["bundle"], loaded["options"]) == ("b", {"backend": "onnxruntime", "threads": 2, "negatives": 0})
    run("predict", SAMPLES / "he_pink.png", "--out", tmp_path, "--assignment", "all")
    assert loaded["options"] == {"backend": "onnxruntime", "assignment": "all"}


def test_12_bits_in_a_16_bit_file_are_warned_of_and_predicted(loaded: dict[str, Any], tmp_path: Path) -> None:
    tifffile.imwrite(tmp_path / "tile.tif", sample().astype(np.uint16) * 16, photometric="rgb")
    result = run("predict", tmp_path / "tile.tif", "--out", tmp_path / "out")
    (warning,) = result.stderr.splitlines()
    assert result.exit_code == 0
    assert warning.startswith(f"Warning: {tmp_path / 'tile.tif'}: its 16-bit samples reach only")


def test_the_users_mpp_goes_before_the_files(loaded: dict[str, Any], tmp_path: Path) -> None:
    image = tmp_path / "tile.tif"
    tifffile.imwrite(image, sample(), photometric="rgb", description="Aperio|MPP = 0.5", metadata=None)
    for options in ([], ["--mpp", "0.25"]):
        assert run("predict", image, "--out", tmp_path / "out", *options).exit_code == 0
    assert [mpp for _, mpp in loaded["model"].asked] == [0.5, 0.25]


def test_a_likely_mpp_is_for_files_that_state_none(loaded: dict[str, Any], tmp_path: Path) -> None:
    stated, silent = tmp_path / "stated.tif", tmp_path / "silent.png"
    tifffile.imwrite(stated, sample(), photometric="rgb", description="Aperio|MPP = 0.5", metadata=None)
    Image.fromarray(sample()).save(silent)
    assert run("predict", stated, silent, "--out", tmp_path / "out", "--mpp", "auto").exit_code == 0
    assert [mpp for _, mpp in loaded["model"].asked] == [0.5, None, 0.375]


@pytest.mark.parametrize(("options", "asked"), [
    ([], [None, 0.375]), (["--mpp", "model"], [None]), (["--mpp", "0.3"], [0.3])
])  # fmt: skip
def test_the_bundle_says_what_files_of_unknown_resolution_are_taken_for(
    loaded: dict[str, Any], tmp_path: Path, options: list[str], asked: list[float | None]
) -> None:
    loaded["model"].unknown_mpp = "auto"
    result = run("predict", SAMPLES / "he_pink.png", "--out", tmp_path, "--only", "csv", *options)
    assert result.exit_code == 0, result.output
    assert [mpp for _, mpp in loaded["model"].asked] == asked
    assert ("Seen 1.5 times enlarged" in result.stdout) == (len(asked) == 2)


def test_results_of_an_earlier_run_in_the_same_folder_are_no_input(loaded: dict[str, Any], tmp_path: Path) -> None:
    Image.fromarray(sample()).save(tmp_path / "tile.png")
    for _ in range(2):
        assert run("predict", tmp_path, "--out", tmp_path).exit_code == 0
    assert len(loaded["model"].asked) == 2


def test_folders_inside_are_looked_into_only_when_asked(loaded: dict[str, Any], tmp_path: Path) -> None:
    (tmp_path / "in" / "deep").mkdir(parents=True)
    Image.fromarray(sample()).save(tmp_path / "in" / "a.png")
    Image.fromarray(sample()).save(tmp_path / "in" / "deep" / "b.PNG")
    out = tmp_path / "out"
    for options, names in (([], ["a.csv"]), (["--recursive"], ["a.csv", "deep/b.csv"])):
        run("predict", tmp_path / "in", "--out", out, "--only", "csv", "--overwrite", *options)
        assert sorted(path.relative_to(out).as_posix() for path in out.rglob("*.*")) == names


def tree_of_patients(folder: Path) -> dict[str, np.ndarray]:
    """Images of one name in folders of their own; patient → pixels."""
    images = {"a": sample("he_pink"), "b": sample("he_pink")[:200]}
    for patient, pixels in images.items():
        (folder / patient).mkdir(parents=True)
        Image.fromarray(pixels).save(folder / patient / "tile_0_0.png")
    return images


def test_results_of_namesakes_in_different_folders_go_to_folders_of_the_same_names(
    loaded: dict[str, Any], tmp_path: Path
) -> None:
    images = tree_of_patients(tmp_path / "tree")
    result = run("predict", tmp_path / "tree", "--recursive", "--out", tmp_path / "out")
    assert result.exit_code == 0, result.stderr
    for patient, pixels in images.items():
        labels = tifffile.imread(tmp_path / "out" / patient / "tile_0_0.labels.tif")
        np.testing.assert_array_equal(labels, dark_spots(pixels).instance_map())


def files(folder: Path) -> dict[str, bytes]:
    return {path.relative_to(folder).as_posix(): path.read_bytes() for path in folder.rglob("*.*")}


@pytest.mark.parametrize("kind", ["labels", "geojson", "parquet", "overlay"])
def test_a_result_of_another_image_of_the_same_name_is_kept_unless_it_may_go(
    kind: str, loaded: dict[str, Any], tmp_path: Path
) -> None:
    images, out = tree_of_patients(tmp_path / "tree"), tmp_path / "out"
    assert run("predict", tmp_path / "tree" / "a", "--out", out, "--only", kind).exit_code == 0
    before = files(out)
    for kinds in (kind, "csv"):
        refused = run("predict", tmp_path / "tree" / "b", "--out", out, "--only", kinds)
        told = refused.stderr.splitlines()[0]
        assert refused.exit_code == 1
        assert told.startswith(f"Error: {tmp_path / 'tree' / 'b' / 'tile_0_0.png'}: {out / 'tile_0_0'}.")
        assert "is a result of another image" in told
        assert "another --out" in told
        assert files(out) == before
    assert len(loaded["model"].asked) == 1  # what is refused is not predicted
    assert run("predict", tmp_path / "tree" / "b", "--out", out, "--only", "csv", "--overwrite").exit_code == 0
    assert list(files(out)) == ["tile_0_0.csv"]
    assert pyarrow.csv.read_csv(out / "tile_0_0.csv").num_rows == len(dark_spots(images["b"]))


def test_the_same_image_under_another_format_replaces_its_results(loaded: dict[str, Any], tmp_path: Path) -> None:
    for end in ("png", "bmp"):
        (tmp_path / end).mkdir()
        Image.fromarray(sample()).save(tmp_path / end / f"tile.{end}")
        result = run("predict", tmp_path / end, "--out", tmp_path / "out")
        assert (result.exit_code, result.stderr) == (0, "")


class Halved(DarkSpotModel):
    """Finds nuclei in the left half alone, as with another setting."""

    def predict(self, rgb: Any, mpp: float | None = None, *, guessed: bool = False) -> Any:
        rgb = rgb.copy()
        rgb[:, rgb.shape[1] // 2 :] = 255
        return super().predict(rgb, mpp, guessed=guessed)


def test_files_of_an_earlier_result_of_the_image_do_not_stay_beside_a_new_one(
    loaded: dict[str, Any], tmp_path: Path
) -> None:
    image, out = SAMPLES / "he_pink.png", tmp_path / "out"
    run("predict", image, "--out", out)
    before = files(out)
    assert run("predict", image, "--out", out, "--only", "csv").exit_code == 0
    assert files(out) == before  # the same result: all of it stays
    (out / "he_pink.geojson").write_text('{"type": "FeatureCollection", "features": []}')  # not of pnseg's making
    loaded["model"] = Halved()
    assert run("predict", image, "--out", out, "--only", "labels").exit_code == 0
    assert sorted(files(out)) == ["he_pink.geojson", "he_pink.labels.tif"]


def test_no_overwrite_removes_nothing_of_an_earlier_result(loaded: dict[str, Any], tmp_path: Path) -> None:
    image, out = SAMPLES / "he_pink.png", tmp_path / "out"
    run("predict", image, "--out", out, "--only", "labels")
    before = files(out)
    added = run("predict", image, "--out", out, "--only", "geojson", "--no-overwrite")
    assert added.exit_code == 0, added.stderr  # of the same result
    (out / "he_pink.geojson").unlink()
    loaded["model"] = Halved()
    refused = run("predict", image, "--out", out, "--only", "csv", "--no-overwrite")
    assert refused.exit_code == 1
    assert "he_pink.labels.tif: exists already" in refused.stderr
    assert files(out) == before


def test_a_table_of_the_users_own_beside_an_image_is_left_alone(loaded: dict[str, Any], tmp_path: Path) -> None:
    Image.fromarray(sample()).save(tmp_path / "tile.png")
    (tmp_path / "tile.csv").write_text("patient,grade\n1,2\n")
    assert run("predict", tmp_path, "--out", tmp_path, "--only", "labels").exit_code == 0
    assert (tmp_path / "tile.csv").read_text() == "patient,grade\n1,2\n"


def test_a_file_named_twice_is_predicted_once(loaded: dict[str, Any], tmp_path: Path) -> None:
    result = run("predict", SAMPLES / "he_pink.png", SAMPLES, SAMPLES / "he_pink.png", "--out", tmp_path)
    assert result.exit_code == 0
    assert len(loaded["model"].asked) == 6
