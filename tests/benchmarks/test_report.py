"""Pages and plots of a measurement, and comparing and joining measurements."""

import base64
import re

import numpy as np
import pytest
from click.testing import CliRunner
from PIL import Image

pytest.importorskip("matplotlib")

from benchmarks.__main__ import main
from benchmarks.compare import comparison
from benchmarks.plots import PLOTS
from benchmarks.report import as_markdown
from benchmarks.runs import EAGER, ORT
from pnseg_runtime.errors import PnsegError
from tests.benchmarks.made import made_document


@pytest.fixture(scope="module")
def pages(tmp_path_factory):
    folder = tmp_path_factory.mktemp("report")
    made_document().save(folder / "table5.json")
    result = CliRunner().invoke(main, ["report", str(folder / "table5.json"), "--out", str(folder / "out")])
    assert result.exit_code == 0, result.output
    return folder / "out"


def test_the_report_has_every_plot_and_none_is_blank(pages):
    for name in PLOTS:
        assert np.asarray(Image.open(pages / name).convert("L")).std() > 10
        assert f"({name})" in (pages / "report.md").read_text()


def test_the_html_needs_no_other_file(pages):
    text = (pages / "report.html").read_text()
    images = re.findall(r'<img alt="[^"]+" src="data:image/png;base64,([^"]+)">', text)
    assert len(images) == len(PLOTS)
    assert all(base64.b64decode(image).startswith(b"\x89PNG") for image in images)
    assert "http" not in text.replace("http-equiv", "")
    assert "Made up &amp; not measured." in text


def test_the_speed_table_is_sorted_and_says_what_was_not_measured(pages):
    text = (pages / "report.md").read_text()
    section = text.split("## Speed, fastest first")[1].split("##")[0]
    fps = [
        float(line.split("|")[3])
        for line in section.splitlines()
        if line.startswith("| ") and "FPS" not in line and "---" not in line
    ]
    assert len(fps) == 6
    assert fps == sorted(fps, reverse=True)
    assert "PromptNucSeg-B, TensorRT FP16: not measured: no GPU here" in text
    assert "Modelled, not measured" in text


def test_the_headline_compares_engine_with_engine(pages):
    text = (pages / "report.md").read_text()
    assert f"By {ORT}, PromptNucSeg-B does 3.33 images a second: 4.0× StarDist." in text
    assert f"By {EAGER}, PromptNucSeg-B does 1.11 images a second: 1.2× HoVer-Net, 1.7× StarDist." in text


def test_a_machine_that_was_not_quiet_is_said_to_be_so():
    document = made_document()
    for load, said in ((1.0, False), (9.0, True)):
        machine = document.machine.model_copy(update={"load_1m": load, "usable": 2})
        text = as_markdown(document.model_copy(update={"machine": machine}), "x")
        assert ("9 processes wanted its 2 cores" in text) == said


def test_another_benchmarks_file_is_no_report(tmp_path):
    made_document().model_copy(update={"benchmark": "latency"}).save(tmp_path / "x.json")
    result = CliRunner().invoke(main, ["report", str(tmp_path / "x.json"), "--out", str(tmp_path / "out")])
    assert result.exit_code == 1
    assert "is of latency" in result.output
    assert not (tmp_path / "out").exists()


def test_pages_that_cannot_be_written_are_told_in_a_sentence(tmp_path):
    made_document().save(tmp_path / "x.json")
    result = CliRunner().invoke(main, ["report", str(tmp_path / "x.json"), "--out", str(tmp_path / "x.json" / "out")])
    assert result.exit_code in {1, 2}
    assert "Error: " in result.output
    assert not isinstance(result.exception, OSError)


def test_a_comparison_gives_ratios_and_says_which_are_clear():
    first, second = made_document(), made_document(0.5)
    rows = {(row["method"], row["run"]): row for row in comparison(first, second)["rows"]}
    assert len(rows) == 6
    assert rows["PromptNucSeg-B", ORT]["times_faster"] == pytest.approx(2)
    assert rows["PromptNucSeg-B", ORT]["clear"]
    assert not comparison(first, made_document(1.01))["rows"][0]["clear"]


def test_a_comparison_tells_how_the_machines_differ():
    first, second = made_document(), made_document()
    other = second.machine.model_copy(update={"cpu": "Another", "packages": {**second.machine.packages, "numpy": "1"}})
    found = comparison(first, second.model_copy(update={"machine": other}))
    assert any(text.startswith("cpu: ") and text.endswith("| Another") for text in found["machines"])
    assert any(text.startswith("packages numpy: ") for text in found["machines"])
    assert not comparison(first, second)["machines"]


def test_documents_of_different_benchmarks_are_not_compared():
    with pytest.raises(PnsegError, match="one file is of table5, the other of latency"):
        comparison(made_document(), made_document().model_copy(update={"benchmark": "latency"}))
