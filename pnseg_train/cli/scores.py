"""What ``pnseg evaluate`` tells: how its numbers came about, one document, tables."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import asdict
from typing import Any

from rich.console import Console
from rich.table import Table

from pnseg_runtime.options import Options
from pnseg_runtime.plausible import ENLARGED, SMALL
from pnseg_train.evaluate import SHOWN, Row, by_tissue, class_scores, detection_scores, mean, over_folds
from pnseg_train.evaluate_sets import Run
from pnseg_train.label_maps import LabelMaps

# Options that change results, and so belong to the protocol.
CHOSEN = (
    *("assignment", "negatives", "overlap", "region_filter", "sensitivity"),
    *("colour_blur", "enlarged_blur", "tta", "tta_points"),
)


def protocol_of(runs: Sequence[Run], options: Options, points: str, radius: float) -> list[str]:
    """How the numbers came about, in sentences."""
    results = [result for run in runs for result in run.results]
    empty = sum(not result.row["nuclei"] for result in results)
    lines = [
        "PQ, DQ, SQ: pairs with an IoU over 0.5 match.",
        "AJI: each nucleus takes the prediction of highest IoU, of equal ones the lower id, taken ones included.",
        "AJI+: one to one with the highest total IoU.",
        f"Means are over images. Two empty maps count as 1, one empty map as 0; {empty} of {len(results)} are empty.",
        f"Points: one to one within {radius:g} px of a centroid, as many as possible, nearest first by total distance.",
    ]
    if any(result.tissue for result in results) or any(run.classes for run in runs):
        lines.append(
            f"bPQ (all classes together) and mPQ (mean over the classes annotated in an image): the {empty} images "
            "without a nucleus are left out; mean over the images of a tissue, then over the tissues."
        )
    if any(run.classes for run in runs):
        lines.append("Class F1 as HoVer-Net counts it, over all images together: see docs/evaluate.md.")
    if isinstance(runs[0].find, LabelMaps):
        lines.append("Label maps as they are; their points are the centroids of their nuclei.")
    else:
        said = [f"{name} {value}" for name, value in asdict(options).items() if value is not None and name in CHOSEN]
        whose = "centroids of the annotation (oracle)" if points == "oracle" else "the prompter's"
        lines.append(f"Prompts: {whose}; {', '.join(said)}; all else as the model says.")
        if any(run.guess == "auto" for run in runs):
            lines.append(
                f"Images of unknown resolution with nuclei under {SMALL:g} µm are enlarged {ENLARGED:g} times."
            )
    return lines


def document_of(runs: Sequence[Run], protocol: Sequence[str], options: Options) -> Any:
    """Everything measured, as JSON has it: of one run, or of several and over them."""
    documents = [report(run, protocol, options) for run in runs]
    return _without_nan(documents[0] if len(runs) == 1 else {"folds": documents, "over_folds": _over_folds(runs)})


def report(run: Run, protocol: Sequence[str], options: Options) -> dict[str, Any]:
    """Everything measured, and how."""
    return {
        "model": run.name,
        "protocol": " ".join(protocol),
        "split": run.split,
        "options": {name: value for name, value in asdict(options).items() if value is not None},
        "sets": {
            name: {
                "images": len(results),
                "mean": mean([result.row for result in results]),
                "detection": detection_scores(results),
                "rows": {result.name: result.row for result in results},
            }
            for name, results in run.sets.items()
        },
        "tissues": by_tissue(run.results),
        "classes": {_class_name(run, kind): row for kind, row in class_scores(run.results).items()}
        if run.classes
        else {},
    }


def print_scores(runs: Sequence[Run], protocol: Sequence[str]) -> None:
    """One row a set and fold; tissues and classes, where there are any; and the protocol below."""
    console = Console(highlight=False, markup=False, emoji=False)
    console.width = max(console.width, 120)
    table = Table("set", "split", "images", *SHOWN, box=None)
    for run in runs:
        for name, results in run.sets.items():
            average = mean([result.row for result in results])
            table.add_row(name, run.split, str(len(results)), *(f"{average[metric]:.4f}" for metric in SHOWN))
    console.print(table)
    if any(result.tissue for run in runs for result in run.results):
        console.print(_tissue_table(runs))
    if any(run.classes for run in runs):
        console.print(_class_table(runs))
    for line in protocol:
        console.print(line, style="dim", soft_wrap=True)


def _over_folds(runs: Sequence[Run]) -> dict[str, Row]:
    return over_folds([by_tissue(run.results) for run in runs])


def _tissue_table(runs: Sequence[Run]) -> Table:
    folds = "" if len(runs) == 1 else f", mean ± standard deviation of {len(runs)} folds"
    table = Table("tissue", "images", f"bPQ{folds}", f"mPQ{folds}", box=None)
    for tissue, row in _over_folds(runs).items():
        table.add_row(tissue or "(unknown)", f"{row['images']:.0f}", _spread(row, "bpq"), _spread(row, "mpq"))
    return table


def _spread(row: Row, name: str) -> str:
    if math.isnan(row[name]):
        return "–"
    deviation = row[f"{name}_sd"]
    return f"{row[name]:.4f}" + ("" if math.isnan(deviation) else f" ± {deviation:.4f}")


def _class_table(runs: Sequence[Run]) -> Table:
    results = [result for run in runs for result in run.results]
    table = Table("class", "nuclei", "precision", "recall", "f1", box=None)
    overall = detection_scores(results)
    table.add_row("detection", "", *(f"{overall[name]:.4f}" for name in ("precision", "recall", "f1")))
    for kind, row in class_scores(results).items():
        cells = (f"{row[name]:.4f}" if not math.isnan(row[name]) else "–" for name in ("precision", "recall", "f1"))
        table.add_row(_class_name(runs[0], kind), f"{row['nuclei']:.0f}", *cells)
    return table


def _class_name(run: Run, kind: int) -> str:
    return run.classes[kind - 1] if 0 < kind <= len(run.classes) else f"class {kind}"


def _without_nan(value: Any) -> Any:
    # JSON has no NaN.
    if isinstance(value, dict):
        return {key: _without_nan(each) for key, each in value.items()}
    if isinstance(value, list):
        return [_without_nan(each) for each in value]
    return None if isinstance(value, float) and math.isnan(value) else value
