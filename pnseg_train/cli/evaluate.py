"""``pnseg evaluate``: a bundle, checkpoints or anyone's label maps against annotated images."""

from __future__ import annotations

import json
import math
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any

import click
from rich.console import Console
from rich.progress import track
from rich.table import Table

from pnseg_runtime.bundle import MANIFEST_NAME, Bundle, shipped_bundles
from pnseg_runtime.errors import PnsegError
from pnseg_runtime.nuclei import Nuclei
from pnseg_runtime.options import Options
from pnseg_runtime.params import LIKELY, Mpp, MppChoice
from pnseg_runtime.plausible import ENLARGED, SMALL, at_likely_mpp
from pnseg_runtime.segmenter import Segmenter
from pnseg_train.checkpoints import CARD
from pnseg_train.cli.options import data_option
from pnseg_train.datasets import Sample, layout_of, open_dataset, other_classes
from pnseg_train.evaluate import (
    RADIUS,
    SHOWN,
    Found,
    Result,
    Row,
    by_tissue,
    class_scores,
    detection_scores,
    mean,
    measure,
    over_folds,
    true_points,
)
from pnseg_train.label_maps import LabelMaps
from pnseg_train.recipes import Splits

Find = Callable[[Sample], Found]

EXAMPLES = """
\b
Examples:
  pnseg evaluate nano --data TNBC --split val
  pnseg evaluate runs/nano/prompter/best runs/nano/segmentor/best --data DSB --data TNBC
  pnseg evaluate cellpose_masks/ --data Kumar --split test
  pnseg evaluate nano --data Kumar --points oracle --tta
  pnseg evaluate nano --data DSB --mpp auto --tta
  pnseg evaluate --data PanNuke --fold 123:test=bundles/a --fold 213:test=bundles/b --fold 321:test=bundles/c
  pnseg evaluate nano --data TNBC --json > tnbc.json
"""


@dataclass(frozen=True)
class Run:
    """One model on one split; ``classes`` names its classes, if it tells several."""

    name: str
    split: str
    find: Find
    classes: tuple[str, ...]
    sets: dict[str, list[Result]]

    @property
    def results(self) -> list[Result]:
        """Of all sets."""
        return [result for results in self.sets.values() for result in results]


@click.command(epilog=EXAMPLES)
@click.argument("model", nargs=-1)
@data_option
@click.option(
    "--mpp",
    type=Mpp(),
    metavar="MPP|auto",
    help="Microns per pixel of images that do not state theirs [default: taken as the model's]. auto: those with small "
    "nuclei are seen again, 1.5 times enlarged.",
)
@click.option(
    "--split",
    help="Split of the data set; 'all' for every image  [default: what the checkpoints' recipes held out; else val].",
)
@click.option(
    "--fold",
    "folds",
    multiple=True,
    metavar="SPLIT=MODEL",
    help="Instead of MODEL and --split: a split and the model tested on it (two checkpoints joined by a comma). "
    "Given several times, mean and spread over the folds are printed.",
)
@click.option(
    "--points",
    type=click.Choice(["predicted", "oracle"]),
    default="predicted",
    show_default=True,
    help="Prompts: the prompter's, or the annotated nuclei's centroids.",
)
@click.option("--threads", type=click.IntRange(1), help="CPU threads.")
@click.option("--assignment", type=click.Choice(["central", "all"]), default="central", show_default=True)
@click.option("--negatives", type=click.IntRange(0), help="K, negative prompts [default: the model's].")
@click.option("--overlap", type=click.IntRange(0, 255), help="ε, of neighbouring windows, px [default: the model's].")
@click.option("--region-filter/--no-region-filter", default=None, help="Mask-aided filtering [default: the model's].")
@click.option("--sensitivity", type=float, help="More finds more, and more that is none [default: the model's].")
@click.option("--tta", is_flag=True, help="Average six flipped and turned views of each window.")
@click.option("--tta-points", is_flag=True, help="Take points on which six flipped and turned views agree.")
@click.option("--radius", type=float, default=RADIUS, show_default=True, help="Of a point around a nucleus, px.")
@click.option("--json", "as_json", is_flag=True, help="Print one JSON document with every image.")
def evaluate(
    model: tuple[str, ...],
    folders: tuple[Path, ...],
    mpp: MppChoice,
    split: str | None,
    folds: tuple[str, ...],
    points: str,
    threads: int | None,
    assignment: str,
    negatives: int | None,
    overlap: int | None,
    region_filter: bool | None,
    sensitivity: float | None,
    tta: bool,
    tta_points: bool,
    radius: float,
    as_json: bool,
) -> None:
    """Measure PQ, AJI, detection and classes of MODEL on annotated images.

    MODEL is a bundle, a prompter's and a segmentor's checkpoint, or a folder of label maps that any
    other tool has made: one PNG, TIFF, NPY or MAT an image, under the image's name.
    """
    options = Options(
        threads=threads,
        assignment=assignment,  # type: ignore[arg-type]
        negatives=negatives,
        overlap=overlap,
        region_filter=region_filter,
        sensitivity=sensitivity,
        tta=tta,
        tta_points=tta_points,
    )
    if bool(model) == bool(folds):
        raise PnsegError("give one MODEL, or one for every --fold; pnseg evaluate --help shows both.")
    named = [_fold(text) for text in folds] or [(split or held_out(model), list(model))]
    runs = [evaluate_run(name, parts, folders, options, points == "oracle", radius, mpp) for name, parts in named]
    protocol = protocol_of(runs, options, points, radius, mpp)
    if as_json:
        documents = [report(run, protocol, options) for run in runs]
        document = documents[0] if len(runs) == 1 else {"folds": documents, "over_folds": _over_folds(runs)}
        click.echo(json.dumps(_without_nan(document), indent=1))
    else:
        print_runs(runs, protocol)


def held_out(model: Sequence[str]) -> str:
    """The split that a model was not trained on, as far as it says so.

    Raises:
        PnsegError: checkpoints that agree on none.
    """
    if len(model) == 2 and all((Path(part) / CARD).is_file() for part in model):
        from pnseg_train.inference import validation_split

        return validation_split(Path(model[0]), Path(model[1]))
    return Splits().val


def evaluate_run(
    split: str,
    model: Sequence[str],
    folders: Sequence[Path],
    options: Options,
    oracle: bool,
    radius: float,
    mpp: MppChoice = None,
) -> Run:
    """One model on one split of every data set; ``mpp`` is that of images that do not state theirs, or ``"auto"``.

    Raises:
        PnsegError: no such model, label maps that do not cover the split, two data sets of one name, or label maps with
            classes for data sets of different ones.
    """
    _refuse_namesakes(folders)
    find, classes = open_model(model, options, oracle, mpp)
    others = [f"{folder} {other}" for folder in folders if (other := other_classes(folder, classes))]
    if others:
        click.echo(f"{'; '.join(others)}: nuclei are measured without their classes.", err=True)
        find, classes = _without_classes(find), ()
    told = _told_by(folders) if isinstance(find, LabelMaps) and find.tells_classes else classes
    sets: dict[str, list[Result]] = {}
    for folder in folders:
        samples = open_dataset(folder, None if split == "all" else split)
        console = Console(stderr=True)
        shown = track(samples, description=folder.name, console=console, disable=not console.is_terminal)
        results = sets[folder.resolve().name] = []
        for sample in shown:
            own = sample.with_classes(len(told)) if len(classes) > 1 else sample
            results.append(measure(own, find(sample), radius))
    return Run("+".join(Path(part).name for part in model), split, find, told, sets)


def _refuse_namesakes(folders: Sequence[Path]) -> None:
    # Results stand under the folder's name.
    seen: dict[str, Path] = {}
    for folder in folders:
        name = folder.resolve().name
        if name in seen:
            raise PnsegError(
                f"--data {seen[name]} and {folder}: two of one name; evaluate them one by one, or rename one."
            )
        seen[name] = folder


def _told_by(folders: Sequence[Path]) -> tuple[str, ...]:
    # Numbers in label maps mean what they mean in the data.
    told = {folder: layout_of(folder).classes for folder in folders}
    if len(set(told.values())) > 1:
        names = "; ".join(f"{folder}: {', '.join(classes) or 'unknown'}" for folder, classes in told.items())
        raise PnsegError(f"these data sets have other classes each ({names}); evaluate them one by one.")
    return told[folders[0]]


def _without_classes(find: Find) -> Find:
    return lambda sample: replace(find(sample), classes=None, point_classes=None)


def open_model(
    model: Sequence[str], options: Options, oracle: bool = False, mpp: MppChoice = None
) -> tuple[Find, tuple[str, ...]]:
    """What finds nuclei in a sample, and the names of the classes if it tells several.

    Raises:
        PnsegError: neither one bundle nor two checkpoints nor a folder of label maps.
    """
    if len(model) == 1 and _holds_label_maps(Path(model[0])):
        if oracle:
            raise PnsegError(f"{model[0]}: label maps are not prompted; --points oracle is for models.")
        return LabelMaps(Path(model[0])), ()
    segmenter = open_segmenter(model, options)
    names = tuple(kind.name for kind in segmenter.manifest.class_table)

    def find(sample: Sample) -> Found:
        points = true_points(sample.with_classes(len(names))) if oracle else None

        def at(stated: float | None) -> Nuclei:
            return segmenter.predict(sample.image, stated, points=points)

        if sample.mpp is None and mpp == LIKELY:
            return Found.of(at_likely_mpp(at, segmenter.manifest.mpp))
        return Found.of(at(sample.mpp or (None if mpp == LIKELY else mpp)))

    return find, names if len(names) > 1 else ()


def open_segmenter(model: Sequence[str], options: Options) -> Segmenter:
    """A segmenter on a bundle, or on two checkpoints run in PyTorch.

    Raises:
        PnsegError: neither one bundle nor two checkpoints.
    """
    if len(model) == 1:
        return Segmenter(Bundle.open(model[0]), options)
    if len(model) != 2:
        raise PnsegError("give one bundle, a prompter's and a segmentor's checkpoint, or one folder of label maps.")
    from pnseg_train.inference import open_checkpoints

    return open_checkpoints(Path(model[0]), Path(model[1]), options)


def _holds_label_maps(path: Path) -> bool:
    if str(path) in shipped_bundles() and not path.is_dir():
        return False
    if (path / CARD).is_file():
        raise PnsegError(f"{path}: one checkpoint alone; give the prompter's and the segmentor's.")
    return path.is_dir() and not (path / MANIFEST_NAME).is_file()


def _fold(text: str) -> tuple[str, list[str]]:
    split, equals, model = text.partition("=")
    if not equals or not model:
        raise PnsegError(f"--fold {text}: expected SPLIT=MODEL, such as 123:test=bundles/fold1.")
    return split, model.split(",")


def protocol_of(runs: Sequence[Run], options: Options, points: str, radius: float, mpp: MppChoice = None) -> list[str]:
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
        if mpp == LIKELY:
            lines.append(
                f"Images of unknown resolution with nuclei under {SMALL:g} µm are enlarged {ENLARGED:g} times."
            )
    return lines


# Options that change results, and so belong to the protocol.
CHOSEN = ("assignment", "negatives", "overlap", "region_filter", "sensitivity", "tta", "tta_points")


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


def print_runs(runs: Sequence[Run], protocol: Sequence[str]) -> None:
    """One row a set and fold; tissues and classes, where there are any; and the protocol below."""
    console = Console(highlight=False)
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
