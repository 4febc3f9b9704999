"""What a terminal shows of Table 5 can be read at any usual width, and says whose figures they are."""

from io import StringIO

import pytest
from rich.console import Console

from benchmarks.protocol import Latency, Row
from benchmarks.runs import ENGINES, ORT
from benchmarks.subjects import METHODS
from benchmarks.table5 import print_table, unmeasured
from benchmarks.tables import COUNTS, OFF, SPEED, cells, explain, number, some
from tests.benchmarks.made import made_document, made_row


def shown(document, width):
    stream = StringIO()
    print_table(document, Console(file=stream, width=width, highlight=False))
    return stream.getvalue()


@pytest.fixture
def without_a_gpu():
    """A row of every method, and what a machine without a GPU leaves out."""
    document = made_document()
    counted = document.rows[4].model_extra
    counts = {name: counted[name] for name in ("params_m", "gmacs", "paper_way_params_m", "paper_way_gmacs")}
    measured = [made_row(method, ORT, 4321.0 + place) for place, method in enumerate(METHODS)]
    rows = [row.model_copy(update=counts) for row in measured]
    gpu = [run for run, engine in ENGINES.items() if engine.gpu]
    rows += [unmeasured(method, run, "not measured: no GPU here") for method in METHODS[-4:] for run in gpu]
    return document.model_copy(update={"rows": rows})


@pytest.mark.parametrize("width", [80, 132])
def test_no_name_and_no_figure_is_cut(width, without_a_gpu):
    lines = shown(without_a_gpu, width).splitlines()
    assert max(map(len, lines)) <= width
    assert "…" not in "\n".join(lines)
    for row in without_a_gpu.rows[: len(METHODS)]:
        (speed,) = [line for line in lines if line.startswith(row.method) and "ONNX Runtime FP32" in line]
        assert f" {row.latency.p5_ms:.0f}–{row.latency.p95_ms:.0f} " in speed
        assert any(line.split()[:2] == [row.method, "148.8"] for line in lines)


@pytest.mark.parametrize("width", [80, 132])
def test_what_was_not_measured_stands_below_the_tables(width, without_a_gpu):
    text = shown(without_a_gpu, width)
    below = text[text.index("Counts, and what the paper prints") :]
    assert "no GPU here" not in text.removesuffix(below)
    for method in METHODS[-4:]:
        assert f"{method}, TensorRT FP16, TensorRT FP16 + CUDA graphs" in below


@pytest.mark.parametrize("width", [80, 132])
def test_every_figure_of_the_papers_says_so(width):
    lines = shown(made_document(), width).splitlines()
    first = next(place for place, line in enumerate(lines) if line.startswith("Counts"))
    head = lines[first + 1 : next(p for p, line in enumerate(lines) if p > first and line.startswith("StarDist"))]
    at = head[-1].index("params", head[-1].index("params") + 1)
    titles = " ".join(line[at - 10 :] for line in head).split()
    assert titles.count("paper:") == 4
    assert "3090" in titles


def test_a_row_says_what_is_known_and_has_a_dash_for_the_rest():
    rows = made_document().rows
    assert cells(rows[4], some(COUNTS, "method", "M params", "GMACs")) == ("PromptNucSeg-B", "148.8", "59.5")
    assert cells(rows[-1], SPEED) == ("PromptNucSeg-B", "TensorRT FP16", *["–"] * 6)
    assert cells(rows[4], OFF) == ("+0.2% / -0.3%",)
    assert "(+0.2%)" in explain(rows[4])
    assert "not in the paper's table" in explain(rows[5])
    assert number(None, "1f") == "–"


def test_milliseconds_of_a_fast_run_keep_a_digit():
    row = Row(method="PromptNucSeg-B", run="TensorRT FP16", latency=Latency.of([0.00312, 0.00312]), fps=320.5)
    assert cells(row, some(SPEED, "p50 ms", "p5–p95 ms")) == ("3.1", "3.1–3.1")


def test_a_machine_that_was_not_quiet_is_said_to_be_so_on_the_terminal():
    document = made_document()
    for load, said in ((1.0, False), (9.0, True)):
        machine = document.machine.model_copy(update={"load_1m": load, "usable": 2})
        assert ("The machine was not quiet" in shown(document.model_copy(update={"machine": machine}), 132)) == said
