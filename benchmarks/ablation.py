"""The paper's ablations (Tables 6 and 7) at nano scale: each row trained, evaluated and printed beside the paper's."""

from __future__ import annotations

import json
import subprocess
import sys
import time
from collections.abc import Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

import click
from rich.console import Console
from rich.table import Table

from benchmarks.paper import TABLE6
from pnseg_runtime.errors import PnsegError
from pnseg_runtime.options import Options
from pnseg_runtime.outputs.atomic import draft_of
from pnseg_train.checkpoints import checkpoint_digest, weights_digest
from pnseg_train.cli.options import assignment
from pnseg_train.evaluate import RADIUS, mean
from pnseg_train.evaluate_sets import evaluate_run
from pnseg_train.recipes import Inference, read_recipe

RECIPE = "nano-kumar"
NETWORKS = ("prompter", "segmentor")
AS_GIVEN = "as given"  # a segmentor that is not trained at all

SHOWN = ("aji", "pq", "dq", "sq", "precision", "recall", "f1")


@dataclass(frozen=True)
class Training:
    """A network that rows share: trained once.

    Attributes:
        network: ``prompter`` or ``segmentor``.
        fields: of the recipe, that differ.
    """

    network: str
    fields: Mapping[str, Any]


TRAININGS: dict[str, Training] = {
    "prompter": Training("prompter", {"prompter.region_weight": 0.0, "inference.region_filter": False}),
    "prompter-aux": Training("prompter", {}),
    "segmentor-k0": Training("segmentor", {"segmentor.negatives": 0}),
    "segmentor-k1": Training("segmentor", {"segmentor.negatives": 1}),
    "segmentor-k2": Training("segmentor", {"segmentor.negatives": 2}),
}


@dataclass(frozen=True)
class Case:
    """A row of a table: which networks, and how they are run.

    Attributes:
        title: what it is called.
        prompter, segmentor: keys of :data:`TRAININGS`, or :data:`AS_GIVEN`.
        options: of the prediction, in place of the recipe's settings, which every other row has too.
        oracle: prompts are the annotated nuclei's centroids.
        paper: the paper's AJI and PQ, on CPM-17; None where it is not known here.
    """

    title: str
    prompter: str
    segmentor: str
    options: Mapping[str, Any] = field(default_factory=dict)
    oracle: bool = False
    paper: tuple[float, float] | None = None

    @property
    def slug(self) -> str:
        """A name for its file."""
        return "".join(character if character.isalnum() else "-" for character in self.title.lower()).strip("-")


_PLAIN = {"region_filter": False, "negatives": 0}

# Each row adds one part to the row above.
TABLE_6 = (
    Case("frozen segmentor", "prompter", AS_GIVEN, _PLAIN, paper=TABLE6["frozen SAM"]),
    Case("+ fine-tuning", "prompter", "segmentor-k0", _PLAIN, paper=TABLE6["+ fine-tuning"]),
    Case("+ auxiliary mask", "prompter-aux", "segmentor-k0", _PLAIN, paper=TABLE6["+ auxiliary mask"]),
    Case(
        "+ mask-aided filtering",
        "prompter-aux",
        "segmentor-k0",
        {"negatives": 0},
        paper=TABLE6["+ mask-aided filtering"],
    ),
    Case("+ negative prompts", "prompter-aux", "segmentor-k1", {"negatives": 1}, paper=TABLE6["+ negative prompts"]),
)

# K in training and in testing, with predicted points and with the centroids of the annotation.
TABLE_7 = tuple(
    Case(
        f"K {train} trained, {test} tested, {'oracle' if oracle else 'predicted'} points",
        "prompter-aux",
        f"segmentor-k{train}",
        {"negatives": test},
        oracle,
    )
    for oracle in (False, True)
    for train in (0, 1, 2)
    for test in (0, 1, 2)
)

TABLES = {"6": TABLE_6, "7": TABLE_7}

# Settings of a prediction that can be chosen when it is run; what cannot is the prompter's own, and all are of one
# recipe.
CHOSEN = frozenset(Inference.model_fields) & frozenset(Options.__dataclass_fields__)


def own_fields() -> dict[str, str]:
    """Fields of the recipe that trainings and rows set themselves → what to do in place of ``--set``."""
    told = "rows differ in it; leave it out"
    fields = {name: told for training in TRAININGS.values() for name in training.fields}
    fields |= {f"inference.{name}": told for case in (*TABLE_6, *TABLE_7) for name in case.options}
    for network in NETWORKS:
        given = f"--{network}-steps says it"
        fields |= {f"{network}.plan.steps": given, f"{network}.plan.validate_every": given}
    return fields


def checked(overrides: Sequence[str]) -> dict[str, object]:
    """Fields of the recipe and their values.

    Raises:
        PnsegError: not FIELD=VALUE, or a field, or one above it, that trainings and rows set themselves.
    """
    given = dict(assignment(text) for text in overrides)
    for name in given:
        for own, remedy in own_fields().items():
            if own == name or own.startswith(f"{name}."):
                raise PnsegError(f"--set {name}: sets {own}, but {remedy}.")
    return given


EXAMPLES = """
\b
Examples:
  python -m benchmarks ablation --data Kumar --segmentor runs/nano/segmentor/last
  python -m benchmarks ablation --data Kumar --segmentor runs/nano/segmentor/last --table 7 --jobs 2 --threads 1
"""


@click.command(epilog=EXAMPLES)
@click.option("--data", type=click.Path(path_type=Path, exists=True, file_okay=False), required=True, help="Kumar.")
@click.option(
    "--segmentor",
    type=click.Path(path_type=Path, exists=True, file_okay=False),
    required=True,
    help="A nano segmentor's checkpoint trained on other data: the part that SAM has in the paper.",
)
@click.option(
    "--prompter",
    type=click.Path(path_type=Path, exists=True, file_okay=False),
    help="Start prompters from it [default: ImageNet weights of the backbone, as in the paper].",
)
@click.option(
    "--out",
    type=click.Path(path_type=Path, file_okay=False),
    default="runs/ablation",
    show_default=True,
    help="Folder of trainings and tables.",
)
@click.option(
    "--table",
    "tables",
    type=click.Choice(list(TABLES)),
    multiple=True,
    default=["6"],
    show_default=True,
    help="Of the paper; may be repeated.",
)
@click.option("--prompter-steps", type=click.IntRange(1), default=700, show_default=True, help="Of each prompter.")
@click.option("--segmentor-steps", type=click.IntRange(1), default=600, show_default=True, help="Of each segmentor.")
@click.option("--threads", type=click.IntRange(1), help="CPU threads of each training [default: torch's].")
@click.option("--jobs", type=click.IntRange(1), default=1, show_default=True, help="Trainings at a time.")
@click.option(
    "--set", "overrides", multiple=True, metavar="FIELD=VALUE", help="Override a field of the recipe; may be repeated."
)
def ablation(
    data: Path,
    segmentor: Path,
    prompter: Path | None,
    out: Path,
    tables: Sequence[str],
    prompter_steps: int,
    segmentor_steps: int,
    threads: int | None,
    jobs: int,
    overrides: Sequence[str],
) -> None:
    """Train and evaluate the rows of the paper's Table 6 (and 7) at nano scale.

    Every row predicts with the settings of the recipe, but for what the row is about.
    What rows have in common is trained once. A row that is done is not done again, and a stopped
    training goes on where it was; one of other steps, settings or data is refused. Writes
    ablation.md and ablation.json.
    """
    steps = {"prompter": prompter_steps, "segmentor": segmentor_steps}
    checked(overrides)
    lab = Lab(data, out, segmentor, prompter, steps, threads, tuple(overrides))
    keys = dict.fromkeys(key for name in tables for case in TABLES[name] for key in (case.prompter, case.segmentor))
    with ThreadPoolExecutor(jobs) as pool:
        list(pool.map(lab.trained, keys))
    parts = []
    for name in tables:
        rows = [lab.run(case) for case in TABLES[name]]
        parts.append((name, rows))
        print_table(name, rows)
    write(out, parts, lab)


@dataclass(frozen=True)
class Lab:
    """Where and how the rows are made."""

    data: Path
    out: Path
    segmentor: Path
    prompter: Path | None
    steps: Mapping[str, int]
    threads: int | None = None
    overrides: tuple[str, ...] = ()

    def run(self, case: Case) -> dict[str, Any]:
        """A row's metrics; those of an earlier run with the same settings and checkpoints are taken from its file."""
        path = self.out / "rows" / f"{case.slug}.json"
        checkpoints = [self.trained(case.prompter), self.trained(case.segmentor)]
        settings = {**self.settings(case), "checkpoints": [checkpoint_digest(folder) for folder in checkpoints]}
        if path.is_file():
            row: dict[str, Any] = json.loads(path.read_text(encoding="utf-8"))
            if row["settings"] == settings:
                return row
        start = time.perf_counter()
        inference = self.inference
        chosen = {**inference.model_dump(include=set(CHOSEN)), **case.options}
        options = Options(threads=self.threads, **chosen)
        pair = [str(folder) for folder in checkpoints]
        run = evaluate_run("val", pair, [self.data], options, case.oracle, RADIUS, inference.unknown_mpp)
        metrics = mean([result.row for result in run.results])
        row = {
            "title": case.title,
            "metrics": {name: metrics[name] for name in SHOWN},
            "images": {result.name: {name: result.row[name] for name in SHOWN} for result in run.results},
            "paper": case.paper,
            "seconds": round(time.perf_counter() - start, 1),
            "settings": settings,
        }
        path.parent.mkdir(parents=True, exist_ok=True)
        with draft_of(path) as draft:
            draft.write_text(json.dumps(row, indent=1) + "\n", encoding="utf-8")
        return row

    @property
    def inference(self) -> Inference:
        """How every row predicts, whatever the checkpoints were trained with: as the recipe says."""
        return read_recipe(RECIPE, checked(self.overrides)).inference

    def settings(self, case: Case) -> dict[str, Any]:
        """What determines a row besides its two checkpoints."""
        starts = [weights_digest(folder) for folder in (self.segmentor, self.prompter) if folder is not None]
        written = {key: value for key, value in asdict(case).items() if key not in {"title", "paper"}}
        settings = {**written, "steps": dict(self.steps), "overrides": list(self.overrides), "starts": starts}
        settings |= {"data": str(self.data.resolve()), "inference": self.inference.model_dump()}
        same: dict[str, Any] = json.loads(json.dumps(settings))
        return same

    def trained(self, key: str) -> Path:
        """The best checkpoint of a training, made now if it is not there.

        Raises:
            PnsegError: the training fails, or the folder holds one of other settings, data or start.
        """
        if key == AS_GIVEN:
            return self.segmentor
        training = TRAININGS[key]
        folder = self.out / key
        steps = self.steps[training.network]
        made = json.dumps(self.training_settings(key), indent=1)
        if not (folder / "done").is_file():
            start = time.perf_counter()
            done = subprocess.run(self.command(key), check=False)  # noqa: S603
            if done.returncode:
                raise PnsegError(f"{folder}: its training failed; mend what it says above, and run the same command.")
            (folder / "settings.json").write_text(made + "\n", encoding="utf-8")
            (folder / "done").write_text(f"{steps} steps, {time.perf_counter() - start:.0f} s\n", encoding="utf-8")
        elif not (folder / "settings.json").is_file() or (folder / "settings.json").read_text().strip() != made:
            raise PnsegError(
                f"{folder}: trained with other steps, settings, data or start than are asked for now, or before these "
                "were noted in settings.json; give another --out, or remove the folder to train anew."
            )
        return folder / "best"

    def training_settings(self, key: str) -> dict[str, Any]:
        """What determines a training: the recipe as it is resolved, the data, and the weights that it starts from."""
        training = TRAININGS[key]
        start = self.segmentor if training.network == "segmentor" else self.prompter
        recipe = read_recipe(RECIPE, {**checked(self.overrides), **self.fields(key)})
        return {
            "recipe": recipe.model_dump(mode="json"),
            "data": str(self.data.resolve()),
            "start": "" if start is None else weights_digest(start),
        }

    def fields(self, key: str) -> dict[str, Any]:
        """The fields of the recipe that a training sets."""
        training = TRAININGS[key]
        steps = self.steps[training.network]
        plan = f"{training.network}.plan"
        return {f"{plan}.steps": steps, f"{plan}.validate_every": max(steps // 3, 1), **training.fields}

    def command(self, key: str) -> list[str]:
        """The command that trains a network."""
        training = TRAININGS[key]
        start = self.segmentor if training.network == "segmentor" else self.prompter
        return [
            *(sys.executable, "-m", "pnseg_runtime.cli", "train", training.network, "--recipe", RECIPE),
            *("--data", str(self.data), "--out", str(self.out / key)),
            *(() if start is None else ("--init", str(start))),
            *(() if self.threads is None else ("--threads", str(self.threads))),
            *(part for name, value in self.fields(key).items() for part in ("--set", f"{name}={json.dumps(value)}")),
            *(part for text in self.overrides for part in ("--set", text)),
        ]

    def times(self) -> dict[str, str]:
        """How long each training took."""
        return {key: path.read_text().strip() for key in TRAININGS if (path := self.out / key / "done").is_file()}


def cells(row: Mapping[str, Any]) -> list[str]:
    """A row's title, its metrics and the paper's."""
    metrics, paper = row["metrics"], row["paper"]
    given = ["–", "–"] if paper is None else [f"{value:.3f}" for value in paper]
    return [row["title"], *(f"{metrics[name]:.3f}" for name in SHOWN), *given]


HEAD = ("row", "AJI", "PQ", "DQ", "SQ", "precision", "recall", "F1", "paper's AJI", "paper's PQ")


def print_table(name: str, rows: Sequence[Mapping[str, Any]]) -> None:
    """A table on the terminal."""
    table = Table(*HEAD, box=None, title=f"Table {name}")
    for row in rows:
        table.add_row(*cells(row))
    console = Console(highlight=False)
    console.width = max(console.width, 120)
    console.print(table)


def write(out: Path, parts: Sequence[tuple[str, Sequence[Mapping[str, Any]]]], lab: Lab) -> None:
    """``ablation.md`` and ``ablation.json``.

    Raises:
        PnsegError: the folder cannot be written to.
    """
    lines = []
    for name, rows in parts:
        lines += [f"Table {name}, nano on Kumar's validation images; the paper's row is B on CPM-17.", ""]
        lines += ["| " + " | ".join(HEAD) + " |", "|" + "---|" * len(HEAD)]
        lines += ["| " + " | ".join(cells(row)) + " |" for row in rows] + [""]
    lines += [f"- {key}: {took}" for key, took in lab.times().items()]
    document = {"tables": dict(parts), "trainings": lab.times()}
    try:
        (out / "ablation.md").write_text("\n".join(lines) + "\n", encoding="utf-8")
        (out / "ablation.json").write_text(json.dumps(document, indent=1) + "\n", encoding="utf-8")
    except OSError as error:
        raise PnsegError(f"{out}: cannot be written to ({error.strerror}); give another --out.") from error
