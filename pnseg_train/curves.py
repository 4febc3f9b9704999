"""Training curves as a picture."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np


def draw_curves(run: Path, smooth: int = 50) -> Path:
    """Draw a run's losses (moving mean) and validation metrics into ``curves.png``."""
    from matplotlib.figure import Figure

    lines = [json.loads(line) for line in (run / "metrics.jsonl").read_text(encoding="utf-8").splitlines()]
    names = [name for name in lines[0] if name not in {"step", "lr", "seconds"} and not name.startswith("val_")]
    scored = [line for line in lines if any(name.startswith("val_") for name in line)]
    figure = Figure(figsize=(9, 3.4), layout="constrained")
    left, right = figure.subplots(1, 2)
    for name in names:
        steps = np.array([line["step"] for line in lines if name in line])
        values = np.array([line[name] for line in lines if name in line])
        width = min(smooth, len(values))
        left.plot(steps[width - 1 :], np.convolve(values, np.ones(width) / width, "valid"), label=name, linewidth=1)
    left.set(xlabel="step", ylabel=f"loss (mean of {smooth} steps)", yscale="log")
    for name in sorted({name for line in scored for name in line if name.startswith("val_")}):
        right.plot(
            [line["step"] for line in scored],
            [line[name] for line in scored],
            marker=".",
            label=name.removeprefix("val_"),
        )
    right.set(xlabel="step", ylabel="validation", ylim=(0, 1))
    for axes in (left, right):
        axes.grid(alpha=0.3)
        if axes.lines:
            axes.legend(fontsize=7)
    path = run / "curves.png"
    figure.savefig(path, dpi=120)
    return path
