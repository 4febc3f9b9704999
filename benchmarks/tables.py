"""What the rows of Table 5 say in words: on the terminal and on the report's pages, column by column."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator
from typing import Any

from rich.table import Table

from benchmarks.protocol import Document, Latency, Row

#: A row's text under a title.
Columns = dict[str, Callable[[Row], str]]


def field(row: Row, name: str) -> Any:
    """A field that the benchmark has added to a row; None where there is none."""
    return (row.model_extra or {}).get(name)


def measured(document: Document) -> list[Row]:
    """Rows with a figure, fastest first."""
    return sorted((row for row in document.rows if row.latency), key=lambda row: -float(field(row, "fps")))


def counted(document: Document) -> list[Row]:
    """One row a method that has counts, in the paper's order."""
    found: dict[str, Row] = {}
    for row in document.rows:
        if field(row, "params_m") is not None:
            found.setdefault(row.method, row)
    return list(found.values())


def is_ours(row: Row) -> bool:
    """PromptNucSeg's."""
    return row.method.startswith("PromptNucSeg")


def number(value: float | None, form: str) -> str:
    """A number, or a dash."""
    return "–" if value is None else f"{value:.{form}}"


def _field(name: str, form: str) -> Callable[[Row], str]:
    return lambda row: number(field(row, name), form)


def _printed(name: str, form: str) -> Callable[[Row], str]:
    return lambda row: number((field(row, "printed") or {}).get(name), form)


def _taken(form: Callable[[Latency], str]) -> Callable[[Row], str]:
    return lambda row: "–" if row.latency is None else form(row.latency)


def _ms(value: float) -> str:
    return f"{value:.0f}" if value >= 10 else f"{value:.1f}"


def _off(row: Row) -> str:
    off = field(row, "params_off_percent")
    return "not printed" if off is None else f"{off:+.1f}% / {field(row, 'gmacs_off_percent'):+.1f}%"


#: Columns that hold no number.
NAMES = ("method", "run")

_METHOD: Columns = {"method": lambda row: row.method}

#: Of a run.
SPEED: Columns = {
    **_METHOD,
    "run": lambda row: row.run,
    "FPS": _field("fps", "2f"),
    "p50 ms": _taken(lambda taken: _ms(taken.p50_ms)),
    "p5–p95 ms": _taken(lambda taken: f"{_ms(taken.p5_ms)}–{_ms(taken.p95_ms)}"),
    "p99 ms": _taken(lambda taken: _ms(taken.p99_ms)),
    "runs": _taken(lambda taken: str(taken.runs)),
    "GMACs as run": _field("run_gmacs", "1f"),
}

#: Of a method, ours.
COUNTS: Columns = {
    **_METHOD,
    "M params": _field("params_m", "1f"),
    "GMACs": _field("gmacs", "1f"),
    "M params, paper's way": _field("paper_way_params_m", "1f"),
    "GMACs, paper's way": _field("paper_way_gmacs", "1f"),
}

#: Of a method, as the paper prints it.
PRINTED: Columns = {
    "paper: M params": _printed("params_m", "1f"),
    "paper: GMACs": _printed("gmacs", "1f"),
    "paper: FPS on an RTX 3090": _printed("fps", "0f"),
    "paper: mPQ": _printed("mpq", "4f"),
}

#: How far our count is from the paper's: parameters, then multiply-accumulates.
OFF: Columns = {"off by": _off}


def some(columns: Columns, *names: str) -> Columns:
    """Those of the names."""
    return {name: columns[name] for name in names}


def without(columns: Columns, *names: str) -> Columns:
    """All but those of the names."""
    return {name: column for name, column in columns.items() if name not in names}


def cells(row: Row, columns: Columns) -> tuple[str, ...]:
    """A row's texts."""
    return tuple(column(row) for column in columns.values())


def grid(rows: Iterable[Row], columns: Columns, title: str) -> Table:
    """A table of at least one row for the terminal: only titles and a run's name are broken, between their words."""
    texts = [cells(row, columns) for row in rows]
    table = Table(box=None, header_style="bold", title=title, title_justify="left", pad_edge=False)
    for name, column in zip(columns, zip(*texts, strict=True), strict=True):
        width = None if name == "run" else max(map(len, (*name.split(), *column)))
        table.add_column(name, justify="left" if name in NAMES else "right", width=width)
    for text in texts:
        table.add_row(*text)
    return table


def not_measured(document: Document) -> list[str]:
    """Every run without a figure, and why; those of a method with the same reason in one line."""
    missing: dict[tuple[str, str], list[str]] = {}
    for row in document.rows:
        if row.latency is None:
            missing.setdefault((row.method, row.note), []).append(row.run)
    return [f"{method}, {', '.join(runs)}: {reason}" for (method, reason), runs in missing.items()]


def explain(row: Row) -> str:
    """How far a method's counts are from the paper's, and why."""
    extra: dict[str, Any] = row.model_extra or {}
    if extra.get("params_off_percent") is None:
        return str(extra.get("origin") or row.note) + ("; not in the paper's table" if not extra.get("printed") else "")
    return (
        f"counted as in the paper {extra['paper_way_params_m']:.1f} M ({extra['params_off_percent']:+.1f}%) and "
        f"{extra['paper_way_gmacs']:.1f} G ({extra['gmacs_off_percent']:+.1f}%); {extra['difference']}. "
        f"Origin: {extra['origin']}."
    )


def busy(document: Document) -> Iterator[str]:
    """A warning where other processes had a share of the machine."""
    machine = document.machine
    if machine.load_1m > 1.5 * machine.usable:
        yield (
            f"The machine was not quiet: {machine.load_1m:.0f} processes wanted its {machine.usable} cores. All "
            "methods took turns, so read the ratios between them; the milliseconds are too high."
        )
