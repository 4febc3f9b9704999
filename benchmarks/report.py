"""``python -m benchmarks report``: a measurement as pages, in Markdown and in one HTML file that needs nothing else."""

from __future__ import annotations

import base64
import html
from collections.abc import Iterable, Iterator, Sequence
from pathlib import Path
from typing import Any

import click

from benchmarks.plots import PLOTS, draw
from benchmarks.protocol import Document, Row, read_document
from benchmarks.roofline import MODELLED, model
from benchmarks.roofline import cells as roofline_cells
from benchmarks.runs import EAGER, ORT
from benchmarks.tables import (
    COUNTS,
    OFF,
    PRINTED,
    SPEED,
    Columns,
    busy,
    cells,
    counted,
    explain,
    field,
    is_ours,
    measured,
    not_measured,
    some,
)
from pnseg_runtime.errors import PnsegError
from pnseg_runtime.outputs.atomic import all_or_none, make_folder

Cells = tuple[str, ...]

SPEED_PAGE = SPEED | some(PRINTED, "paper: FPS on an RTX 3090", "paper: mPQ")
COUNTS_PAGE = COUNTS | some(PRINTED, "paper: M params", "paper: GMACs") | OFF
ROOF: Cells = ("card", "precision", "least ms a tile", "FPS allowed")


def headline(document: Document) -> Iterator[str]:
    """How PromptNucSeg-B stands against each rival, engine by engine."""
    rows = {(row.method, row.run): row for row in measured(document)}
    for run in (EAGER, ORT):
        ours = rows.get(("PromptNucSeg-B", run))
        rivals = [row for (_, by), row in rows.items() if by == run and not is_ours(row)]
        if ours is None or not rivals:
            continue
        ahead = ", ".join(
            f"{field(ours, 'fps') / field(row, 'fps'):.1f}× {row.method}"
            for row in sorted(rivals, key=lambda r: r.method)
        )
        yield f"By {run}, PromptNucSeg-B does {field(ours, 'fps'):.2f} images a second: {ahead}."
    best = next((row for row in measured(document) if row.method == "PromptNucSeg-B"), None)
    rivals = [row for row in measured(document) if not is_ours(row)]
    if best and rivals:
        fastest = rivals[0]
        yield (
            f"Its fastest run here ({best.run}, {field(best, 'fps'):.2f} images a second) is "
            f"{field(best, 'fps') / field(fastest, 'fps'):.1f}× the fastest run of any rival "
            f"({fastest.method} by {fastest.run}, {field(fastest, 'fps'):.2f})."
        )


def roof_rows(nuclei: int) -> list[Cells]:
    """The model's rows for PromptNucSeg-B."""
    return [roofline_cells(row) for row in model("B", max(nuclei, 1))]


def machine_lines(document: Document) -> list[str]:
    """What it was measured on."""
    machine = document.machine
    lines = [
        f"{machine.title}; {machine.system}; Python {machine.python}; measured {machine.time}.",
        (
            f"Instructions: {', '.join(machine.flags) or 'none of note'}. PyTorch threads: {machine.torch_threads}; "
            f"{', '.join(f'{k}={v}' for k, v in machine.thread_variables.items()) or 'no thread variables set'}; "
            f"load in the last minute {machine.load_1m}."
        ),
        "Versions: " + ", ".join(f"{name} {version}" for name, version in machine.packages.items()) + ".",
    ]
    lines += [
        (
            f"{gpu.name}: driver {gpu.driver}, {gpu.sm_mhz} of {gpu.sm_max_mhz} MHz, {gpu.power_w} of "
            f"{gpu.power_limit_w} W, {gpu.temperature_c} °C, throttled by {', '.join(gpu.throttling) or 'nothing'}."
        )
        for gpu in machine.gpus
    ]
    throttled = sorted({reason for gpus in document.gpus_during for gpu in gpus for reason in gpu.throttling})
    if throttled:
        lines.append(f"During the rounds clocks were held down by {', '.join(throttled)}: read the figures with care.")
    return lines


def sections(document: Document) -> Iterator[tuple[str, list[Any]]]:
    """Titles with what stands below them: paragraphs, lists, (header, rows) tables and names of plots."""
    nuclei = int(document.settings["nuclei"])
    yield "", [*headline(document), *busy(document), str(document.settings["how"])]
    yield "Speed, fastest first", [_page(measured(document), SPEED_PAGE), "fps_macs.png", "accuracy_fps.png"]
    yield "Nuclei and stages", ["latency_nuclei.png", "stages.png"]
    yield (
        "Counts, beside the paper's",
        [
            _page(counted(document), COUNTS_PAGE),
            (
                "The paper's counter takes a transposed convolution by the size of its output, leaves out the products "
                "of attention, and counts SAM's positions for 16×16 tokens; counted in that way the networks are held "
                "against the printed figures. GMACs without that note are what is computed."
            ),
            [f"{row.method}: {explain(row)}" for row in counted(document)],
        ],
    )
    if throughput := list(throughput_rows(document)):
        yield (
            "Throughput of the networks",
            [
                "Networks alone, calls back to back, images a second.",
                (("method", "run", "batch", "images a second"), throughput),
            ],
        )
    yield "What was not measured", [not_measured(document) or "Nothing was left out."]
    yield "Limits of cards that were not at hand", [MODELLED, (ROOF, roof_rows(nuclei))]
    yield "Machine", [machine_lines(document)]


def _page(rows: Iterable[Row], columns: Columns) -> tuple[Cells, list[Cells]]:
    return tuple(columns), [cells(row, columns) for row in rows]


def throughput_rows(document: Document) -> Iterator[Cells]:
    """One row a run and batch."""
    for row in measured(document):
        for batch, rate in (field(row, "throughput") or {}).items():
            yield row.method, row.run, batch, f"{rate['p50']:.2f}"


def as_markdown(document: Document, title: str) -> str:
    """The page in Markdown; plots are files beside it."""
    out = [f"# {title}", ""]
    for heading, parts in sections(document):
        out += [f"## {heading}", ""] if heading else []
        for part in parts:
            out += [*_markdown(part), ""]
    return "\n".join(out).rstrip() + "\n"


def _markdown(part: Any) -> Sequence[str]:
    if isinstance(part, tuple):
        header, rows = part
        lines = [header, tuple("---" for _ in header), *rows]
        return [f"| {' | '.join(cells)} |" for cells in lines]
    if isinstance(part, list):
        return [f"- {item}" for item in part]
    return [f"![{PLOTS[part][2]}]({part})" if part in PLOTS else str(part)]


STYLE = """
body{font:16px/1.5 system-ui,sans-serif;color:#0f172a;max-width:1100px;margin:2rem auto;padding:0 1rem}
h1,h2{line-height:1.2}h2{margin-top:2.5rem;border-bottom:1px solid #e2e8f0}
table{border-collapse:collapse;font-size:14px;margin:1rem 0;display:block;overflow-x:auto}
th,td{padding:.3rem .7rem;text-align:right;border-bottom:1px solid #e2e8f0;white-space:nowrap}
th{background:#f1f5f9;white-space:normal;vertical-align:bottom}
th:nth-child(-n+2),td:nth-child(-n+2){text-align:left}
tr.ours td{background:#fff7ed;font-weight:600}img{max-width:100%;height:auto}
"""


def as_html(document: Document, title: str, folder: Path) -> str:
    """The page in HTML, plots inside."""
    body = [f"<h1>{html.escape(title)}</h1>"]
    for heading, parts in sections(document):
        body += [f"<h2>{html.escape(heading)}</h2>"] if heading else []
        body += [_html(part, folder) for part in parts]
    head = f'<meta charset="utf-8"><title>{html.escape(title)}</title><style>{STYLE}</style>'
    return f'<!doctype html><html lang="en"><head>{head}</head><body>\n' + "\n".join(body) + "\n</body></html>\n"


def _html(part: Any, folder: Path) -> str:
    if isinstance(part, tuple):
        header, rows = part
        lines = "".join(_line(cells) for cells in rows)
        return f"<table><thead><tr>{''.join(f'<th>{html.escape(c)}</th>' for c in header)}</tr></thead>{lines}</table>"
    if isinstance(part, list):
        return "<ul>" + "".join(f"<li>{html.escape(item)}</li>" for item in part) + "</ul>"
    if part in PLOTS:
        data = base64.b64encode((folder / part).read_bytes()).decode()
        return f'<img alt="{html.escape(PLOTS[part][2])}" src="data:image/png;base64,{data}">'
    return f"<p>{html.escape(str(part))}</p>"


def _line(cells: Cells) -> str:
    ours = ' class="ours"' if cells[0].startswith("PromptNucSeg") else ""
    return f"<tr{ours}>{''.join(f'<td>{html.escape(cell)}</td>' for cell in cells)}</tr>"


EXAMPLES = """
\b
Examples:
  python -m benchmarks report table5.json --out report
"""


@click.command(epilog=EXAMPLES)
@click.argument("file", type=click.Path(exists=True, dir_okay=False, path_type=Path))
@click.option("--out", required=True, type=click.Path(file_okay=False, path_type=Path), help="Folder for the pages.")
@click.option("--title", default="Table 5 on this machine", show_default=True, help="Of the pages.")
def report(file: Path, out: Path, title: str) -> None:
    """Make FILE, the JSON of table5, into report.md, report.html and plots."""
    document = read_document(file)
    if document.benchmark != "table5":
        raise PnsegError(f"{file}: is of {document.benchmark}; give the JSON of table5.")
    make_folder(out)
    draw(document, out)
    pages = {"report.md": as_markdown(document, title), "report.html": as_html(document, title, out)}
    with all_or_none(out / name for name in pages) as streams:
        for stream, text in zip(streams, pages.values(), strict=True):
            stream.write(text.encode())
    click.echo(f"{out / 'report.html'} and report.md")
