"""Whatever is handed in gives a right result or one sentence and an exit code, never half a file."""

from __future__ import annotations

import json
import os
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import tifffile
from click.testing import CliRunner, Result
from numpy.typing import NDArray
from PIL import Image

from pnseg_runtime.bundle import FORMAT_VERSION, SHIPPED, Bundle, BundleFile, EngineFile
from pnseg_runtime.cli import cli
from pnseg_runtime.cli.info import describe
from pnseg_runtime.cli.inputs import plan
from pnseg_runtime.hashes import sha256_of
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


# Paths that cannot be looked at


def refuse_where(monkeypatch: pytest.MonkeyPatch, owner: Any, name: str, where: Path) -> None:
    """Let a function of a path raise as where permission is lacking; the superuser, as whom tests may run, has all."""
    plain = getattr(owner, name)

    def checked(path: Any, *arguments: Any, **options: Any) -> Any:
        if isinstance(path, (str, Path)) and Path(path) == where:
            raise PermissionError(13, "Permission denied", str(path))
        return plain(path, *arguments, **options)

    monkeypatch.setattr(owner, name, checked)


@pytest.fixture
def tree(tmp_path: Path) -> Path:
    """Images in a folder and in two folders inside."""
    for place in ("good", "a/first", "b/second"):
        path = tmp_path / "tree" / f"{place}.png"
        path.parent.mkdir(parents=True, exist_ok=True)
        Image.fromarray(RGB).save(path)
    return tmp_path / "tree"


def test_a_folder_whose_images_lie_in_folders_inside_names_the_option_that_finds_them(
    model: DarkSpotModel, tree: Path, tmp_path: Path
) -> None:
    (tree / "good.png").unlink()
    told = run("predict", tree, "--out", tmp_path / "out").stderr.splitlines()[0]
    assert told.startswith(f"Error: {tree}: no images in this folder (")
    assert told.endswith("which --recursive looks into.")
    (tree / "a" / "first.png").unlink()
    (tree / "b" / "second.png").unlink()
    told = run("predict", tree, "--out", tmp_path / "out").stderr.splitlines()[0]
    assert told.endswith("name image files or another folder.")


@pytest.mark.parametrize("lacking", ["read", "execute"])
def test_a_folder_inside_that_cannot_be_looked_into_is_one_sentence_and_the_others_finish(
    lacking: str, model: DarkSpotModel, tree: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    if lacking == "read":
        refuse_where(monkeypatch, os, "scandir", tree / "a")
    else:
        access = os.access
        monkeypatch.setattr(os, "access", lambda path, *rest: Path(path) != tree / "a" and access(path, *rest))
    result = run("predict", tree, "--recursive", "--out", tmp_path / "out")
    sentence, closing = result.stderr.splitlines()
    assert result.exit_code == 1
    assert sentence.startswith(
        f"Error: {tree / 'a'}: cannot be looked into (Permission denied); change its permissions"
    )
    assert closing == "Error: 1 of 3 images failed"
    assert names(tmp_path / "out") == sorted(["b", *all_outputs("good")])
    assert names(tmp_path / "out" / "b") == all_outputs("second")


@pytest.mark.parametrize("recursive", [[], ["--recursive"]])
def test_a_folder_named_that_cannot_be_looked_into_is_one_sentence_and_the_others_finish(
    recursive: list[str],
    model: DarkSpotModel,
    tree: Path,
    good: Path,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    refuse_where(monkeypatch, os, "scandir", tree)
    result = run("predict", tree, good, "--out", tmp_path / "out", *recursive)
    assert result.exit_code == 1
    assert result.stderr.splitlines()[0].startswith(f"Error: {tree}: cannot be looked into (Permission denied)")
    assert names(tmp_path / "out") == all_outputs("good")


def test_linked_folders_are_looked_into_once_and_may_lead_in_circles(
    model: DarkSpotModel, tree: Path, tmp_path: Path
) -> None:
    (tmp_path / "elsewhere").mkdir()
    Image.fromarray(RGB).save(tmp_path / "elsewhere" / "third.png")
    (tree / "link").symlink_to(tmp_path / "elsewhere", target_is_directory=True)
    (tree / "a" / "again").symlink_to(tree / "b", target_is_directory=True)
    (tmp_path / "elsewhere" / "up").symlink_to(tree, target_is_directory=True)
    result = run("predict", tree, "--recursive", "--out", tmp_path / "out", "--json")
    images = [entry["image"] for entry in json.loads(result.stdout)["images"]]
    assert (result.exit_code, result.stderr) == (0, "")
    assert images == [str(tree / place) for place in ("a/first.png", "b/second.png", "good.png", "link/third.png")]
    assert names(tmp_path / "out" / "link") == all_outputs("third")


def test_a_file_that_may_not_be_read_is_one_sentence_and_the_others_finish(
    model: DarkSpotModel, good: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    locked = tmp_path / "locked.png"
    Image.fromarray(RGB).save(locked)
    access = os.access
    monkeypatch.setattr(os, "access", lambda path, *rest: Path(path) != locked and access(path, *rest))
    refuse_where(monkeypatch, Path, "open", locked)
    result = run("predict", locked, good, "--out", tmp_path / "out")
    assert result.exit_code == 1
    assert result.stderr.splitlines()[0].startswith(f"Error: {locked}: may not be read")
    assert names(tmp_path / "out") == all_outputs("good")


def test_a_file_in_a_folder_that_may_not_be_entered_is_one_sentence_and_the_others_finish(
    model: DarkSpotModel, tree: Path, good: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    refuse_where(monkeypatch, Path, "stat", tree / "a" / "first.png")
    result = run("predict", tree / "a" / "first.png", good, "--out", tmp_path / "out")
    assert result.exit_code == 1
    assert "first.png: cannot be opened (Permission denied); check its path" in result.stderr.splitlines()[0]
    assert names(tmp_path / "out") == all_outputs("good")


@pytest.mark.parametrize("make", [lambda path: path, lambda path: path.with_name("n" * 300 + ".png"),
                                  lambda path: path.symlink_to(path.name) or path],
                         ids=["missing", "name too long", "link to itself"])  # fmt: skip
def test_a_path_that_leads_nowhere_is_one_sentence_and_the_others_finish(
    make: Callable[[Path], Path], model: DarkSpotModel, good: Path, tmp_path: Path
) -> None:
    odd = make(tmp_path / "odd.png")
    result = run("predict", odd, good, "--out", tmp_path / "out")
    sentence, closing = result.stderr.splitlines()
    assert result.exit_code == 1
    assert sentence.startswith(f"Error: {odd}: ")
    assert "check its path" in sentence
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
    assert all("predict one of them with another --out" in told for told in (first, second))
    assert closing == "Error: 2 of 3 images failed"
    assert names(tmp_path / "out") == all_outputs("good")


def test_the_remedy_for_two_inputs_with_one_stem_helps(model: DarkSpotModel, tmp_path: Path) -> None:
    for name, pixels in (("tile.png", RGB), ("tile.tif", RGB[:200])):
        Image.fromarray(pixels).save(tmp_path / name)
    assert run("predict", tmp_path / "tile.png", "--out", tmp_path / "one").exit_code == 0
    assert run("predict", tmp_path / "tile.tif", "--out", tmp_path / "two").exit_code == 0
    assert names(tmp_path / "one") == names(tmp_path / "two") == all_outputs("tile")


def test_thousands_of_images_of_one_stem_are_compared_with_one_other_each() -> None:
    compared = 0

    class Counted(type(Path())):  # type: ignore[misc]
        def __eq__(self, other: object) -> bool:
            nonlocal compared
            compared += 1
            return super().__eq__(other)

        __hash__ = type(Path()).__hash__

    images = [Counted(f"in/tile.{number}.png").with_name(f"tile.{number}") for number in range(3000)]
    jobs = plan(images, Path("out"), ["csv"])
    assert all("another --out" in str(job.problem) for job in jobs)
    assert compared < 20 * len(images)


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


def test_a_failed_write_names_the_image_and_leaves_all_earlier_results(
    model: DarkSpotModel, good: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "out").mkdir()
    for name in all_outputs("good"):
        (tmp_path / "out" / name).write_text("earlier")
    refuse_where(monkeypatch, Path, "is_dir", tmp_path / "out" / "good.csv")
    result = run("predict", good, "--out", tmp_path / "out")
    assert result.exit_code == 1
    assert result.stderr.startswith(f"Error: {good}: {tmp_path / 'out' / 'good.csv'}: cannot be written (Permission")
    assert {path.read_text() for path in (tmp_path / "out").iterdir()} == {"earlier"}
    assert names(tmp_path / "out") == all_outputs("good")


def test_an_image_whose_results_names_would_be_too_long_is_one_sentence_before_it_is_predicted(
    model: DarkSpotModel, good: Path, tmp_path: Path
) -> None:
    long = tmp_path / ("n" * 251 + ".png")
    Image.fromarray(RGB[:200]).save(long)
    for options in ([], ["--no-overwrite"]):
        result = run("predict", long, good, "--out", tmp_path / f"out{len(options)}", *options)
        assert result.exit_code == 1
        assert result.stderr.startswith(f"Error: {long}: its results would have names that are too long")
        assert names(tmp_path / f"out{len(options)}") == all_outputs("good")
    assert [shape for shape, _ in model.asked] == [RGB.shape] * 2
    assert run("predict", long, "--out", tmp_path / "csv", "--only", "csv").exit_code == 0


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


def test_info_tells_what_options_are_without_being_given_and_every_file_once() -> None:
    nano = Bundle.open("nano").manifest
    rows = dict(describe(nano))
    assert (rows["sensitivity"], rows["colour blur"]) == ("1.6", "2 px")
    assert rows["enlarged blur"] == "brightness 2 px, colour 6 px"
    assert rows["mask NMS"] == "masks that share more than 40% of the smaller one"
    boxes = nano.masking.model_copy(update={"nms_overlap": None})
    assert dict(describe(nano.model_copy(update={"masking": boxes})))["mask NMS"] == "boxes with an IoU over 0.35"


def test_info_tells_graphs_of_all_precisions_their_weights_and_engines() -> None:
    nano = Bundle.open("nano").manifest
    weights = BundleFile(file="encoder.int8.onnx.data", sha256="", bytes=5_000_000)
    changes = {"file": "encoder.int8.onnx", "bytes": 1_000_000, "precision": "int8", "data": [weights]}
    variant = nano.graphs | {"encoder": nano.graphs["encoder"].model_copy(update=changes)}
    log = BundleFile(file="e/encoder.log", sha256="", bytes=1)
    built = {"flavour": "rtx", "version": "1", "architectures": ["sm86"], "precision": "float16", "graph": "encoder"}
    counted: dict[str, Any] = {"inputs": {}, "outputs": {}, "profiles": [], "census": {}, "layers": {}, "seconds": 1.0}
    engine = EngineFile(file="e/encoder.engine", sha256="", bytes=3_000_000, log=log, **built, **counted)
    rows = list(describe(nano.model_copy(update={"variants": {"int8": variant}, "engines": [engine]})))
    assert [value for name, value in rows if name == "graph encoder"] == [
        "encoder.onnx, float32, 6.2 MB",
        "encoder.int8.onnx, int8, 6.0 MB",
    ]
    assert [value for name, value in rows if name == "graph decoder"] == ["decoder.onnx, float32, 2.8 MB"]
    assert dict(rows)["all graphs"] == "28.7 MB"
    assert dict(rows)["engine encoder"] == "e/encoder.engine, float16, 3.0 MB"


def test_info_refuses_a_bundle_with_a_changed_byte(bundle: Path) -> None:
    change_a_byte(bundle)
    result = run("info", bundle)
    assert result.exit_code == 1
    assert "SHA-256 differs" in result.stderr
