"""The paper's Table 5 on this machine: parameters, multiply-accumulates and images a second, beside its rivals'.

A run is end to end: pixels in, instance map out, batch 1, with each method's own post-processing.
Weights that none can ship are random; what follows a network works on maps that are made from a
real label map (:mod:`benchmarks.staged`, :mod:`benchmarks.peers.targets`).
"""

from __future__ import annotations

import gc
import tempfile
from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import click
import numpy as np
import torch
from rich.console import Console

from benchmarks.counts import Counts
from benchmarks.paper import TABLE5
from benchmarks.protocol import Document, Interrupted, Latency, Protocol, Row, Watch, document, latencies, throughputs
from benchmarks.runs import EAGER, RIVAL_RUNS, RUNS
from benchmarks.subjects import METHODS, SIZES, Missing, Stages, Subject, open_subjects
from benchmarks.tables import COUNTS, PRINTED, SPEED, busy, counted, explain, grid, measured, not_measured, without
from benchmarks.tiles import TYPICAL, Tile, make_tile
from pnseg_runtime.outputs.atomic import make_folder

QUICK = Protocol(warmup=1, rounds=3, seconds=100, least=2)
FULL = Protocol(warmup=2, rounds=15, seconds=600, least=5)
SWEEP = (0, 24, 50, 100, 150)

#: Methods that are in memory together and take turns; the largest are on their own.
GROUPS = (
    tuple(m for m in METHODS if m not in {"PromptNucSeg-L", "PromptNucSeg-H"}),
    ("PromptNucSeg-L",),
    ("PromptNucSeg-H",),
)

#: What the quick form exports; the others take minutes. Graphs that are there already are used in any form.
QUICK_EXPORTS = frozenset({"PromptNucSeg-B", "PromptNucSeg-nano"})

HOW = (
    "End to end, pixels in to instance map out, batch 1, 256×256, {nuclei} nuclei a tile. Random weights, so the "
    "networks run on the real tile, and post-processing works on maps made from the tile's real label map "
    "(distances, HV maps, rays, kernels; for PromptNucSeg points and mask logits). PromptNucSeg-B, L and H decode "
    "every nucleus twice, with its negative prompt and without; nano, which has none, once. Medians. Methods that fit "
    "into memory together take turns, L and H are on their own; the table says how many runs there were."
)

EXAMPLES = """
\b
Examples:
  python -m benchmarks table5 --quick
  python -m benchmarks table5 --out table5.json
  python -m benchmarks table5 --methods StarDist --methods PromptNucSeg-B --json
  python -m benchmarks report table5.json --out report
"""


def measure(
    methods: Sequence[str],
    runs: Sequence[str],
    protocol: Protocol,
    *,
    nuclei: int = TYPICAL,
    sweep: Sequence[int] = (),
    batches: Sequence[int] = (),
    threads: int | None = None,
    graphs: Path | None = None,
    quick: bool = False,
    say: Callable[[str], object] = str,
) -> Document:
    """Everything about the methods, one row a method and run.

    After Ctrl-C the rest are rows that say so, and the settings' ``stopped`` is true.

    Raises:
        KeyboardInterrupt: before anything was measured.
    """
    if threads:
        torch.set_num_threads(threads)
    device = "cuda" if torch.cuda.is_available() else "cpu"
    rows: list[Row] = []
    watch = Watch()
    stopped = False
    with tempfile.TemporaryDirectory() as scratch:
        folder = graphs or Path(scratch)
        split = {method: split_runs(method, runs, folder, quick) for method in methods}
        for method, (_, left_out) in split.items():
            rows += [unmeasured(method, run, f"not measured: {why}") for run, why in left_out.items()]
        try:
            for group in GROUPS:
                wanted = {method: split[method][0] for method in group if method in methods}
                subjects, missing = open_group(wanted, folder, device, threads, nuclei, say)
                rows += missing
                rows += measure_group(subjects, protocol, nuclei, sweep, batches, device, watch, say)
                subjects.clear()
                gc.collect()
        except KeyboardInterrupt:
            if not any(row.latency for row in rows):
                raise
            stopped = True
            done = {(row.method, row.run) for row in rows}
            left = [(method, run) for method, (able, _) in split.items() for run in able if (method, run) not in done]
            rows += [unmeasured(*each, "not measured: interrupted before") for each in left]
    rows.sort(key=lambda row: (METHODS.index(row.method), RUNS.index(row.run)))
    return document(
        "table5",
        rows,
        protocol,
        watch,
        methods=list(methods),
        runs=list(runs),
        nuclei=nuclei,
        device=device,
        quick=quick,
        stopped=stopped,
        sweep=list(sweep),
        batches=list(batches),
        threads=threads,
        how=HOW.format(nuclei=nuclei),
    )


def open_group(
    wanted: Mapping[str, tuple[str, ...]],
    folder: Path,
    device: str,
    threads: int | None,
    nuclei: int,
    say: Callable[[str], object],
) -> tuple[list[Subject], list[Row]]:
    """What is to take turns, of method → runs; and rows of what cannot run here."""
    subjects: list[Subject] = []
    missing: list[Missing] = []
    for method, runs in wanted.items():
        if not runs:
            continue
        say(f"{method}: building")
        try:
            opened = open_subjects(method, runs, folder, device, threads, nuclei)
        except ImportError as error:
            opened = [Missing(method, run, f"{error}; pip install 'pnseg[peers]'") for run in runs]
        subjects += [each for each in opened if isinstance(each, Subject)]
        missing += [each for each in opened if isinstance(each, Missing)]
    return subjects, [unmeasured(each.method, each.run, f"not measured: {each.why}") for each in missing]


def split_runs(method: str, runs: Sequence[str], folder: Path, quick: bool) -> tuple[tuple[str, ...], dict[str, str]]:
    """Runs that are to be opened, and those that are not with the reason.

    A method that runs by some of the engines that are asked for says nothing of the others.
    """
    able = RUNS if method in SIZES else RIVAL_RUNS
    asked = tuple(run for run in runs if run in able)
    if not asked:
        return (), dict.fromkeys(runs, f"rivals run by {' and '.join(RIVAL_RUNS)} alone")
    if not quick or method in QUICK_EXPORTS or (folder / f"{method}.onnx").is_file():
        return asked, {}
    exported = tuple(run for run in asked if run != EAGER)
    return tuple(run for run in asked if run == EAGER), dict.fromkeys(exported, "left out of the quick form")


def measure_group(
    subjects: Sequence[Subject],
    protocol: Protocol,
    nuclei: int,
    sweep: Sequence[int],
    batches: Sequence[int],
    device: str,
    watch: Watch,
    say: Callable[[str], object],
) -> Iterator[Row]:
    """Rows of methods that take turns.

    Raises:
        Interrupted: by Ctrl-C, after the rows of the rounds that had counted, without sweep and throughput.
    """
    if not subjects:
        return
    tile = make_tile(nuclei)
    wait = torch.cuda.synchronize if device == "cuda" else None
    stages: dict[str, list[Stages]] = {key(s): [] for s in subjects}
    say(f"{len(subjects)} runs take turns")
    calls = {key(s): _recorded(s, tile, stages[key(s)]) for s in subjects}
    interrupted: Interrupted | None = None
    try:
        taken = latencies(calls, protocol, wait, watch)
    except Interrupted as error:
        taken, interrupted, sweep, batches = error.latencies, error, (), ()
    for subject in subjects:
        name = key(subject)
        counted = stages[name][-taken[name].runs :]
        stage_samples = {stage: [round(1e3 * each[stage], 4) for each in counted] for stage in counted[0]}
        sweep_samples = sweep_of(subject, sweep, taken[name], medians(stage_samples), wait)
        say(f"{name}: {taken[name].per_second:.2f} images/s")
        yield Row(
            method=subject.method,
            run=subject.run,
            latency=taken[name],
            fps=taken[name].per_second,
            **counted_fields(subject.method, subject.counts, subject.exported_macs),
            run_gmacs=subject.run_macs and subject.run_macs / 1e9,
            stages_ms=medians(stage_samples),
            stages_samples_ms=stage_samples,
            sweep_ms=medians(sweep_samples),
            sweep_samples_ms=sweep_samples,
            throughput=throughput_of(subject, batches, wait),
            origin=subject.origin,
            difference=subject.difference,
            measured=True,
        )
    if interrupted:
        raise interrupted


def key(subject: Subject) -> str:
    """Method and run in one."""
    return f"{subject.method}, {subject.run}"


def _recorded(subject: Subject, tile: Tile, found: list[Stages]) -> Callable[[], object]:
    return lambda: found.append(subject.predict(tile))


def medians(samples: Mapping[str, Sequence[float]]) -> dict[str, float]:
    """Of each series."""
    return {name: float(np.median(values)) for name, values in samples.items()}


def sweep_of(
    subject: Subject,
    sweep: Sequence[int],
    latency: Latency,
    stages: Mapping[str, float],
    wait: Callable[[], object] | None,
) -> dict[str, list[float]]:
    """Nuclei → ms a tile, run by run. Where the network does not see them, only post-processing is run again."""
    found = {}
    protocol = Protocol(warmup=1, rounds=3)
    for nuclei in sweep:
        tile = make_tile(nuclei)
        call = subject.finish or subject.predict
        taken = latencies({"": lambda call=call, tile=tile: call(tile)}, protocol, wait)[""]  # type: ignore[misc]
        rest = 0.0 if subject.finish is None else latency.p50_ms - stages["post-processing"]
        found[str(nuclei)] = [round(rest + ms, 4) for ms in taken.samples_ms]
    return found


def throughput_of(
    subject: Subject, batches: Sequence[int], wait: Callable[[], object] | None
) -> dict[str, dict[str, float]]:
    """Images of a batch → images a second of the networks alone."""
    if subject.networks is None:
        return {}
    calls = {str(batch): (subject.networks(batch), batch) for batch in batches}
    found = throughputs(calls, Protocol(warmup=0, rounds=2), wait, seconds=0.2) if calls else {}
    return {batch: rate.model_dump() for batch, rate in found.items()}


def counted_fields(method: str, counts: Counts | None, exported: int | None) -> dict[str, Any]:
    """Parameters in millions, GMACs: ours, in the paper's way, printed, and how far from it in per cent."""
    printed = TABLE5.get(method)
    fields: dict[str, Any] = {
        "params_m": counts and counts.params / 1e6,
        "gmacs": counts and counts.macs / 1e9,
        "paper_way_params_m": counts and counts.paper_params / 1e6,
        "paper_way_gmacs": counts and counts.paper_macs / 1e9,
        "exported_gmacs": exported and exported / 1e9,
        "printed": printed and vars(printed),
    }
    if counts and printed:
        fields["params_off_percent"] = 100 * (counts.paper_params / 1e6 / printed.params_m - 1)
        fields["gmacs_off_percent"] = 100 * (counts.paper_macs / 1e9 / printed.gmacs - 1)
    return fields


def unmeasured(method: str, run: str, why: str) -> Row:
    """A row that says why there is no figure."""
    return Row(method=method, run=run, note=why, fps=None, measured=False, **counted_fields(method, None, None))


@click.command(epilog=EXAMPLES)
@click.option("--quick", is_flag=True, help="A few rounds and no long exports: minutes on two cores.")
@click.option("--methods", multiple=True, type=click.Choice(METHODS), help="Only these [default: all].")
@click.option("--runs", multiple=True, type=click.Choice(RUNS), help="Only by these engines [default: all].")
@click.option("--nuclei", type=click.IntRange(0, 150), default=TYPICAL, show_default=True, help="Nuclei of the tile.")
@click.option("--rounds", type=click.IntRange(1), help="Rounds that count [default: 15; 3 if quick].")
@click.option("--seconds", type=click.FloatRange(1), help="Begin no round after so many [default: 600; 100 if quick].")
@click.option("--no-sweep", is_flag=True, help="Leave out the times at other numbers of nuclei.")
@click.option(
    "--batches", multiple=True, type=click.IntRange(1), help="Also the networks' throughput at these batches."
)
@click.option("--threads", type=click.IntRange(1), help="CPU threads [default: what the engines choose].")
@click.option(
    "--graphs",
    type=click.Path(file_okay=False, path_type=Path),
    help="Keep exported graphs here, and take those that are there.",
)
@click.option("--out", type=click.Path(dir_okay=False, path_type=Path), help="Write the JSON here.")
@click.option("--json", "as_json", is_flag=True, help="Print one JSON document.")
def table5(
    quick: bool,
    methods: tuple[str, ...],
    runs: tuple[str, ...],
    nuclei: int,
    rounds: int | None,
    seconds: float | None,
    no_sweep: bool,
    batches: tuple[int, ...],
    threads: int | None,
    graphs: Path | None,
    out: Path | None,
    as_json: bool,
) -> None:
    """Measure StarDist, HoVer-Net, CPP-Net, PointNu-Net, CellViT-B and PromptNucSeg, as in the paper's Table 5.

    On a GPU all of it runs there, TensorRT included; without one the figures are the CPU's. Ctrl-C keeps what has
    been measured.
    """
    changes = {name: value for name, value in (("rounds", rounds), ("seconds", seconds)) if value is not None}
    base = QUICK if quick else FULL
    protocol = base.model_copy(update=changes | {"least": min(base.least, rounds or base.rounds)})
    for folder in filter(None, (out and out.parent, graphs)):  # not after the measuring
        make_folder(folder)
    console = Console(stderr=True, highlight=False)
    with console.status("building") as status:
        found = measure(
            methods or METHODS,
            runs or RUNS,
            protocol,
            nuclei=nuclei,
            sweep=() if no_sweep else SWEEP,
            batches=batches,
            threads=threads,
            graphs=graphs,
            quick=quick,
            say=lambda text: status.update(text) if console.is_terminal else console.print(text, style="dim"),
        )
    if out:
        found.save(out)
    if as_json:
        click.echo(found.model_dump_json(indent=1))
    else:
        print_table(found, Console(highlight=False))
    if found.settings["stopped"]:
        raise KeyboardInterrupt


#: What a terminal of 80 columns has room for; the JSON and the report have all.
SHOWN_SPEED = without(SPEED, "p99 ms")
SHOWN_COUNTS = without(COUNTS, "M params, paper's way") | PRINTED


def print_table(found: Document, console: Console) -> None:
    """Speed and counts, what the figures are, what was not measured, and where they come from."""
    nuclei = found.settings["nuclei"]
    if runs := measured(found):
        console.print(grid(runs, SHOWN_SPEED, f"Speed on this machine, fastest first, {nuclei} nuclei a tile"))
        console.print()
    if methods := counted(found):
        console.print(grid(methods, SHOWN_COUNTS, "Counts, and what the paper prints"))
        console.print()
    for text in not_measured(found):
        console.print(text)
    for text in busy(found):
        console.print(f"\n{text}", style="bold")
    console.print(f"\n{found.settings['how']}", style="dim")
    console.print(f"{found.machine.title}; measured {found.machine.time}.", style="dim")
    for row in methods:
        console.print(f"{row.method}: {explain(row)}", style="dim")
