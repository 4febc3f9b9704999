"""``pnseg build`` and ``pnseg quantise``: what they refuse, and how they say it."""

import json
import shutil

import pytest
from click.testing import CliRunner

from pnseg_export.cli.build import build
from pnseg_export.cli.quantise import quantise
from pnseg_runtime.bundle import SHIPPED
from pnseg_runtime.errors import PnsegError


@pytest.mark.parametrize("ends", ["0,8", "8,1", "1,,8", "many"])
def test_buckets_must_ascend_from_one_on(ends):
    done = CliRunner().invoke(build, ["nano", "--batches", ends])
    assert done.exit_code == 2
    assert "numbers" in done.stderr


def test_the_shipped_bundle_is_refused_with_the_command_that_makes_ones_own():
    with pytest.raises(PnsegError, match="pnseg quantise nano --precision float16 --out"):
        CliRunner().invoke(build, ["nano", "--target", "rtx:sm86"], catch_exceptions=False)


@pytest.mark.parametrize(("target", "told"), [("cpu", True), ("gpu", False)])
def test_a_bundle_exported_for_cpus_is_built_with_a_word_about_it(tmp_path, monkeypatch, target, told):
    shutil.copytree(SHIPPED / "nano", tmp_path / "nano", ignore=shutil.ignore_patterns(".cache"))
    document = json.loads((tmp_path / "nano" / "manifest.json").read_text())
    document["provenance"]["target"] = target
    (tmp_path / "nano" / "manifest.json").write_text(json.dumps(document))
    monkeypatch.setattr("pnseg_export.cli.build.build_engines", lambda *_: None)
    done = CliRunner().invoke(build, [str(tmp_path / "nano"), "--target", "rtx:sm86"])
    assert done.exit_code == 0
    assert ("pnseg export --target gpu" in done.stderr) == told


def test_a_folder_without_images_is_named(tmp_path):
    arguments = ["nano", "--precision", "int8", "--tiles", str(tmp_path), "--out", str(tmp_path / "out")]
    with pytest.raises(PnsegError, match="holds no image"):
        CliRunner().invoke(quantise, arguments, catch_exceptions=False)
