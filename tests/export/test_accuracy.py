"""The accuracy that stands in a manifest."""

from pathlib import Path

import pytest

from pnseg_export.accuracy import accuracy
from pnseg_runtime.bundle import SHIPPED
from pnseg_runtime.options import Options
from pnseg_train.cli.evaluated import evaluate_run
from tests.export.tiles import write_coarse


def test_images_of_another_resolution_are_measured_as_evaluate_measures_them(tmp_path, monkeypatch):
    write_coarse(tmp_path / "coarse")
    monkeypatch.chdir(tmp_path / "coarse")
    given = accuracy(SHIPPED / "nano", [Path()], "val")
    (expected,) = evaluate_run("val", ["nano"], [tmp_path / "coarse"], Options(), oracle=False, radius=12.0).results
    assert given["coarse"]["images"] == 1
    assert expected.row["pq"] > 0.6
    for name in ("pq", "aji", "f1"):
        assert given["coarse"][name] == pytest.approx(expected.row[name], abs=1e-4)
