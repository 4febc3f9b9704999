"""Plots of Table 5's measurements. Nothing in them that was not measured, but for what says so."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Literal

import matplotlib

matplotlib.use("Agg")

from matplotlib import pyplot as plt
from matplotlib.axes import Axes
from matplotlib.ticker import FuncFormatter
from matplotlib.transforms import Bbox

from benchmarks.protocol import Document, Row
from benchmarks.runs import EAGER
from benchmarks.tables import field, is_ours, measured

OURS, RIVAL = "#c2410c", "#475569"
MARKERS = ("o", "s", "^", "D", "v", "P", "X", "*", "h")
STAGES = {
    "prepare": "#cbd5e1",
    "network": "#64748b",
    "prompter": "#0284c7",
    "points": "#7dd3fc",
    "encoder": "#c2410c",
    "decoder": "#f59e0b",
    "masks": "#84cc16",
    "post-processing": "#84cc16",
}


def colour(row: Row) -> str:
    """Ours or a rival's."""
    return OURS if is_ours(row) else RIVAL


def markers(rows: Sequence[Row]) -> dict[str, str]:
    """Run → marker."""
    runs = sorted({row.run for row in rows}, key=lambda run: (run != EAGER, run))
    return dict(zip(runs, MARKERS, strict=False))


def cost(row: Row) -> float | None:
    """GMACs that the run computes."""
    return field(row, "run_gmacs")


def fps_against_macs(axes: Axes, document: Document) -> None:
    """Each run by what it computes and how fast it is."""
    rows = [row for row in measured(document) if cost(row)]
    axes.set(xscale="log", yscale="log", xlabel="GMACs a tile, as run", ylabel="images a second")
    scatter(axes, rows, cost, lambda row: field(row, "fps"))
    axes.set_title("Speed against arithmetic")


def accuracy_against_fps(axes: Axes, document: Document) -> None:
    """The paper's mPQ against this machine's speed."""
    rows = [row for row in measured(document) if field(row, "printed")]
    axes.set(xscale="log", xlabel="images a second on this machine", ylabel="mPQ on PanNuke, as the paper prints it")
    scatter(axes, rows, lambda row: field(row, "fps"), lambda row: field(row, "printed")["mpq"])
    axes.set_title("Accuracy (printed) against speed (measured)")


def scatter(
    axes: Axes, rows: Sequence[Row], x: Callable[[Row], float | None], y: Callable[[Row], float | None]
) -> None:
    """One point a row; a method's name beside its fastest run, where nothing else stands. The scales are set before."""
    shapes = markers(rows)
    places = [(float(x(row) or 0), float(y(row) or 0)) for row in rows]
    for row, at in zip(rows, places, strict=True):
        axes.plot(*at, shapes[row.run], color=colour(row), markersize=7, linestyle="none")
    for run, shape in shapes.items():
        axes.plot([], [], shape, color="black", label=run, linestyle="none")
    axes.legend(fontsize=8, frameon=False)
    axes.margins(0.18)
    axes.autoscale_view()
    taken = [Bbox.from_bounds(left - 5, bottom - 5, 10, 10) for left, bottom in axes.transData.transform(places)]
    named: set[str] = set()
    for row, at in zip(rows, places, strict=True):
        if row.method not in named:
            named.add(row.method)
            taken.append(place_label(axes, row.method, at, taken, weight="bold" if is_ours(row) else "normal"))


#: Where a label may stand, points from what it names, and which of its ends is there: beside it, then farther away.
OFFSETS = tuple((x, y, end) for y in (5, -12, 17, -24, 29, -36) for x, end in ((7, "left"), (-7, "right")))


def place_label(
    axes: Axes, text: str, at: tuple[float, float], taken: Sequence[Bbox], weight: Literal["bold", "normal"]
) -> Bbox:
    """Write at the first offset at which no box is overlapped; gives the label's own box, px."""
    figure = axes.get_figure()
    assert figure is not None
    label = axes.annotate(text, at, (0, 0), textcoords="offset points", fontsize=8, weight=weight)
    for x, y, end in OFFSETS:
        label.set(position=(x, y), horizontalalignment=end)
        box = label.get_window_extent(figure.canvas.get_renderer())  # type: ignore[attr-defined]
        if not box.count_overlaps(taken):
            break
    return box


def latency_against_nuclei(axes: Axes, document: Document) -> None:
    """Time of a tile by its nuclei, the fastest run of each method."""
    ends: dict[str, tuple[int, float]] = {}
    for row in measured(document):
        sweep = {int(nuclei): ms for nuclei, ms in (field(row, "sweep_ms") or {}).items()}
        if not sweep or any(label.startswith(f"{row.method} (") for label in ends):
            continue
        nuclei = sorted(sweep)
        style = "-" if is_ours(row) else "--"
        axes.plot(nuclei, [sweep[n] for n in nuclei], style, marker=".", color=colour(row))
        ends[f"{row.method} ({short(row.run)})"] = nuclei[-1], sweep[nuclei[-1]]
    # Labels stand at the lines' ends, from the lowest up, each at least a line of text above the last.
    lowest = 0.0
    for label, (at, ms) in sorted(ends.items(), key=lambda end: end[1][1]):
        lowest = max(ms, 1.16 * lowest)
        axes.annotate(label, (at, ms), (at + 4, lowest), fontsize=8, va="center")
    axes.set(yscale="log", xlabel="nuclei in the tile", ylabel="ms a tile")
    axes.set_xlim(right=axes.get_xlim()[1] * 1.45)
    axes.set_title("Latency against the number of nuclei, fastest run of each")


def stage_breakdown(axes: Axes, document: Document) -> None:
    """Where the time of each run goes."""
    rows = measured(document)[::-1]
    labels = [f"{row.method}, {short(row.run)}" for row in rows]
    totals = [sum((field(row, "stages_ms") or {}).values()) for row in rows]
    left = [0.0] * len(rows)
    for stage, shade in STAGES.items():
        shares = [
            100 * float((field(row, "stages_ms") or {}).get(stage, 0)) / max(total, 1e-9)
            for row, total in zip(rows, totals, strict=True)
        ]
        if any(shares):
            axes.barh(labels, shares, left=left, color=shade, label=stage)
        left = [before + more for before, more in zip(left, shares, strict=True)]
    for at, total in enumerate(totals):
        axes.text(101, at, f"{total:.0f} ms", va="center", fontsize=8)
    axes.set(xlim=(0, 112), xlabel="% of a tile's time (medians of the stages)")
    axes.legend(fontsize=8, frameon=False, ncols=8, loc="lower center", bbox_to_anchor=(0.4, 1.0), columnspacing=1)
    axes.set_title("Where the time goes", pad=24)


def short(run: str) -> str:
    """A run's name for a label."""
    for long, brief in (("PyTorch eager", "eager"), ("ONNX Runtime", "ORT"), ("OpenVINO", "OV"), ("TensorRT", "TRT")):
        run = run.replace(long, brief)
    return run


#: File → (what draws it, size in inches, what it shows to those who cannot see it).
PLOTS: Mapping[str, tuple[Callable[[Axes, Document], None], tuple[float, float], str]] = {
    "fps_macs.png": (fps_against_macs, (8, 5), "Images a second against multiply-accumulates, both logarithmic"),
    "latency_nuclei.png": (latency_against_nuclei, (8, 5), "Milliseconds a tile against nuclei in it"),
    "stages.png": (stage_breakdown, (9, 6), "Share of each stage in the time of a tile"),
    "accuracy_fps.png": (accuracy_against_fps, (8, 5), "Printed mPQ against measured images a second"),
}


def draw(document: Document, folder: Path) -> list[Path]:
    """Write every plot into ``folder``."""
    folder.mkdir(parents=True, exist_ok=True)
    paths = []
    for name, (paint, size, _) in PLOTS.items():
        figure, axes = plt.subplots(figsize=size, layout="constrained")
        axes.spines[["top", "right"]].set_visible(False)
        axes.grid(visible=True, which="major", color="#e2e8f0")
        axes.set_axisbelow(True)
        paint(axes, document)
        for axis in (axes.xaxis, axes.yaxis):
            if axis.get_scale() == "log":
                axis.set_major_formatter(FuncFormatter(lambda value, _: f"{value:g}"))
                axis.set_minor_formatter(
                    FuncFormatter(lambda value, _: f"{value:g}" if f"{value:.0e}"[0] in "25" else "")
                )
        figure.savefig(folder / name, dpi=130)
        plt.close(figure)
        paths.append(folder / name)
    return paths
