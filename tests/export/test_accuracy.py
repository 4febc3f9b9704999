"""The accuracy that stands in a manifest."""

from pathlib import Path

import pytest

from pnseg_export.accuracy import accuracy
from pnseg_export.bundle import export_bundle
from pnseg_runtime.bundle import SHIPPED, Bundle
from pnseg_runtime.errors import PnsegError
from pnseg_runtime.options import Options
from pnseg_train.evaluate_sets import evaluate_run
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


def test_two_data_sets_of_one_name_are_refused_before_the_work(tmp_path):
    for part in ("d1", "d2"):
        write_coarse(tmp_path / part / "set")
    data = [tmp_path / part / "set" for part in ("d1", "d2")]
    with pytest.raises(PnsegError, match=r"--validate .*d1.set and .*d2.set: two of one name; rename one"):
        export_bundle(None, None, Bundle.open("nano").manifest, tmp_path / "out", [], validation=data)
    assert not (tmp_path / "out").exists()
