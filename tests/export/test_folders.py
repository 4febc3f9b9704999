"""Bundles and repositories appear whole, for everybody, and replace nothing but their like."""

import re
import shutil
import stat
from pathlib import Path

import click
import pytest
from click.testing import CliRunner

from pnseg_export import bundle as exporting
from pnseg_export.bundle import export_bundle
from pnseg_export.cli import export as export_verb
from pnseg_export.folders import is_bundle, new_folder, renewed_manifest, write_manifest
from pnseg_export.precision import variants
from pnseg_export.triton.repository import export_triton
from pnseg_runtime.bundle import MANIFEST_NAME, SHIPPED, Bundle
from pnseg_runtime.cli import cli
from pnseg_runtime.errors import OutputError, PnsegError
from tests.export.precision.test_variants import agreement

NANO = SHIPPED / "nano"


@pytest.fixture
def bundle_to(monkeypatch):
    """Writes a bundle as pnseg export does, with nano's graphs in place of exported ones."""
    monkeypatch.setattr(exporting, "check", lambda *_: {})

    def graphs(first, second, folder, *rest):
        found = Bundle.open("nano").manifest.graphs
        for graph in found.values():
            shutil.copy(NANO / graph.file, folder)
        return found

    monkeypatch.setattr(exporting, "export_graphs", graphs)
    return lambda out, overwrite=True: export_bundle(None, None, Bundle.open("nano").manifest, out, [], overwrite)


@pytest.fixture
def repository_to():
    """Writes a model repository as pnseg export-triton does."""
    return lambda out, overwrite=True: export_triton(Bundle.open("nano"), out, overwrite=overwrite)


@pytest.fixture(params=["bundle_to", "repository_to"])
def write_to(request):
    return request.getfixturevalue(request.param)


def everything_in(folder: Path) -> dict[str, bytes]:
    return {str(path.relative_to(folder)): path.read_bytes() for path in folder.rglob("*") if path.is_file()}


def test_a_folder_of_other_things_is_not_overwritten(write_to, tmp_path):
    write_to(tmp_path / "bundles" / "mine")
    (tmp_path / "bundles" / "notes.txt").write_text("of years")
    before = everything_in(tmp_path)
    with pytest.raises(PnsegError, match=r"bundles: is not a .* --overwrite leaves it alone"):
        write_to(tmp_path / "bundles")
    assert everything_in(tmp_path) == before


def test_a_file_is_not_overwritten(write_to, tmp_path):
    (tmp_path / "mine").write_text("of years")
    with pytest.raises(PnsegError, match="is not a"):
        write_to(tmp_path / "mine")
    assert everything_in(tmp_path) == {"mine": b"of years"}


def test_what_was_written_before_or_is_empty_is_replaced_if_asked(write_to, tmp_path):
    (tmp_path / "empty").mkdir()
    write_to(tmp_path / "empty")
    first = everything_in(tmp_path / "empty")
    with pytest.raises(PnsegError, match="exists already"):
        write_to(tmp_path / "empty", overwrite=False)
    write_to(tmp_path / "empty")
    assert everything_in(tmp_path / "empty") == first
    assert [path.name for path in tmp_path.iterdir()] == ["empty"]


def test_a_repository_with_other_models_is_not_overwritten(repository_to, tmp_path):
    repository_to(tmp_path / "models")
    other = tmp_path / "models" / "resnet" / "config.pbtxt"
    other.parent.mkdir()
    other.write_text("of others")
    with pytest.raises(PnsegError, match="is not a"):
        repository_to(tmp_path / "models")
    assert other.read_text() == "of others"


def test_everybody_may_read_it(write_to, tmp_path):
    (tmp_path / "plain").mkdir()
    write_to(tmp_path / "mine")
    for folder in (tmp_path / "mine", *(path for path in (tmp_path / "mine").rglob("*") if path.is_dir())):
        assert stat.S_IMODE(folder.stat().st_mode) == stat.S_IMODE((tmp_path / "plain").stat().st_mode)


@pytest.mark.parametrize("failing", ["new", "old"])
@pytest.mark.parametrize("reason", [OSError(28, "No space left on device"), KeyboardInterrupt()])
def test_a_folder_that_cannot_be_moved_into_place_leaves_the_old_one(tmp_path, monkeypatch, failing, reason):
    shutil.copytree(NANO, tmp_path / "mine")
    before = everything_in(tmp_path)
    move = Path.replace

    def fails(path, target):
        if (path.name if failing == "new" else Path(target).name) == failing:
            raise reason
        return move(path, target)

    monkeypatch.setattr(Path, "replace", fails)
    with (
        pytest.raises(OutputError if isinstance(reason, OSError) else KeyboardInterrupt),
        new_folder(tmp_path / "mine", True, "bundle", is_bundle) as folder,
    ):
        (folder / MANIFEST_NAME).write_text("{}")
    assert everything_in(tmp_path) == before


def test_what_has_come_under_the_name_meanwhile_is_left_alone(tmp_path):
    def write():
        with new_folder(tmp_path / "mine", True, "bundle", is_bundle) as folder:
            (folder / MANIFEST_NAME).write_text("{}")
            (tmp_path / "mine").mkdir()
            (tmp_path / "mine" / "notes.txt").write_text("of years")

    with pytest.raises(PnsegError, match="is not a bundle"):
        write()
    assert everything_in(tmp_path) == {"mine/notes.txt": b"of years"}


@pytest.mark.parametrize(
    ("text", "known"),
    [('{"format_version": 99}', True), ("{}", False), ('["format_version"]', False), ("{half", False)],
)
def test_a_bundle_of_any_version_is_known_by_its_manifest(text, known, tmp_path):
    assert not is_bundle(tmp_path)
    (tmp_path / MANIFEST_NAME).write_text(text)
    assert is_bundle(tmp_path) == known


def test_a_body_that_fails_leaves_the_old_folder_and_nothing_else(tmp_path):
    shutil.copytree(NANO, tmp_path / "mine")
    before = everything_in(tmp_path)

    def write():
        with new_folder(tmp_path / "mine", True, "bundle", is_bundle) as folder:
            (folder / MANIFEST_NAME).write_text("{}")
            assert before.items() < everything_in(tmp_path).items()
            raise ZeroDivisionError

    with pytest.raises(ZeroDivisionError):
        write()
    assert everything_in(tmp_path) == before


def test_a_manifest_is_the_old_one_until_what_it_names_is_there(tmp_path):
    manifest = Bundle.open("nano").manifest
    write_manifest(tmp_path, manifest)
    old = everything_in(tmp_path)
    other = manifest.model_copy(update={"model": "other"})

    def interrupted():
        with renewed_manifest(tmp_path, other):
            assert (tmp_path / MANIFEST_NAME).read_bytes() == old[MANIFEST_NAME]
            raise ZeroDivisionError

    with pytest.raises(ZeroDivisionError):
        interrupted()
    assert everything_in(tmp_path) == old
    write_manifest(tmp_path, other)
    assert set(everything_in(tmp_path)) == {MANIFEST_NAME}
    assert '"model": "other"' in (tmp_path / MANIFEST_NAME).read_text()


def test_a_link_to_a_bundle_stays_a_link(bundle_to, tmp_path):
    shutil.copytree(NANO, tmp_path / "real")
    (tmp_path / "mine").symlink_to(tmp_path / "real", target_is_directory=True)
    bundle_to(tmp_path / "mine")
    assert (tmp_path / "mine").is_symlink()
    assert Bundle.open(tmp_path / "real").manifest.parity == {}


@pytest.fixture
def falls_short(bundle_to, monkeypatch):
    """pnseg export with nano's graphs in place of exported ones, and lower precisions that lose a mask in five."""
    monkeypatch.setattr(export_verb, "describe_pair", lambda *_: (None, None, Bundle.open("nano").manifest))
    check = {"largest_difference": {"points": 0.0}}
    monkeypatch.setattr(exporting, "check", lambda *_: check)
    graphs = dict(Bundle.open("nano").manifest.graphs)
    monkeypatch.setattr(variants, "record", lambda *_: None)
    monkeypatch.setattr(variants, "halve_graphs", lambda *_: (graphs, {}))
    monkeypatch.setattr(variants, "quantise_graphs", lambda *_: graphs)
    monkeypatch.setattr(variants, "judge", lambda *_: agreement(iou=0.8))
    return lambda *arguments: CliRunner().invoke(cli, ["export", "P", "S", *map(str, arguments)])


@pytest.mark.parametrize("precision", ["float16", "int8"])
def test_an_export_whose_lower_precision_falls_short_leaves_what_there_was(precision, falls_short, tmp_path):
    out = tmp_path / "mine"
    result = falls_short("--out", out, "--precision", precision)
    assert result.exit_code == 1
    assert f"{precision} graphs of nano against float32: mean mask IoU 0.8000" in result.stderr
    assert not list(tmp_path.iterdir())
    assert falls_short("--out", out).exit_code == 0  # in float32 alone
    before = everything_in(tmp_path)
    assert falls_short("--out", out, "--precision", precision, "--overwrite").exit_code == 1
    assert everything_in(tmp_path) == before


def test_an_export_with_a_lower_precision_that_passes_appears_whole(falls_short, tmp_path, monkeypatch):
    monkeypatch.setattr(variants, "judge", lambda *_: agreement(iou=1.0))
    result = falls_short("--out", tmp_path / "mine", "--precision", "float16", "--precision", "int8")
    assert result.exit_code == 0, result.output
    assert set(Bundle.open(tmp_path / "mine").manifest.variants) == {"float16", "int8"}
    assert f"{tmp_path / 'mine'}: " in result.stdout
    assert [path.name for path in tmp_path.iterdir()] == ["mine"]


@pytest.mark.parametrize("verb", [["export", "P", "S"], ["quantise", "nano"]])
@pytest.mark.parametrize("precision", ["float16", "int8"])
def test_what_to_do_about_a_precision_that_falls_short_are_options_of_the_verb(verb, precision, falls_short, tmp_path):
    arguments = [*verb, "--precision", precision, "--out", str(tmp_path / "mine")]
    said = CliRunner().invoke(cli, arguments).stderr.split("float32: ")[1].rpartition("; ")[2]
    own, _, later = said.partition("by pnseg quantise, which has")
    own = own.replace(f"without --precision {precision}", "")
    assert set(re.findall(r"--[a-z-]+", own)) <= options_of(verb[0])
    assert set(re.findall(r"--[a-z-]+", later)) <= options_of("quantise")
    assert ("--tolerance" in said) == (precision == "int8")  # half precision has no layers to choose among


def options_of(verb):
    command = cli.get_command(click.Context(cli), verb)
    return {text for parameter in command.params for text in parameter.opts}


def test_a_bundle_that_gets_another_precision_in_its_place_is_replaced_whole(tmp_path, monkeypatch):
    shutil.copytree(NANO, tmp_path / "mine")
    (tmp_path / "mine" / "notes.txt").write_text("of years")
    bundle = Bundle.open(tmp_path / "mine")
    monkeypatch.setattr(variants, "record", lambda *_: None)
    monkeypatch.setattr(variants, "halve_graphs", lambda *_: (dict(bundle.manifest.graphs), {}))
    monkeypatch.setattr(variants, "judge", lambda *_: agreement())
    variants.add_variants(bundle, tmp_path / "mine", ["float16"], [])
    assert set(Bundle.open(tmp_path / "mine").manifest.variants) == {"float16"}
    assert (tmp_path / "mine" / "notes.txt").read_text() == "of years"
    assert [path.name for path in tmp_path.iterdir()] == ["mine"]
