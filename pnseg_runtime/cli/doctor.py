"""``pnseg doctor``: what works on this machine, and what to do about the rest."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import asdict
from typing import Any

import click

from pnseg_runtime.bundle import Bundle, Manifest
from pnseg_runtime.cli.group import Failure
from pnseg_runtime.doctor.facts import Facts, gather
from pnseg_runtime.doctor.probe import Attempt, attempts
from pnseg_runtime.doctor.rules import Case, Finding, findings, misfit
from pnseg_runtime.documents import print_json
from pnseg_runtime.errors import BundleError
from pnseg_runtime.sessions import CUDA

_EPILOG = """\b
Examples:
  pnseg doctor
  pnseg doctor bundles/mine --threads 4
  pnseg doctor --json

\b
Exit codes: 0 nothing that is installed is broken, 1 something is.
"""


@click.command(epilog=_EPILOG)
@click.argument("bundle", default="nano")
@click.option(
    "--threads", type=click.IntRange(1), help="CPU threads [default: the physical cores, or a container's quota]."
)
@click.option("--try/--no-try", "tried", default=True, show_default=True, help="Run every backend on a tile.")
@click.option("--json", "as_json", is_flag=True, help="Print one JSON document.")
def doctor(bundle: str, threads: int | None, tried: bool, as_json: bool) -> None:
    """Look at this machine: what runs a BUNDLE here, how fast, and what is missing.

    Every backend opens the bundle and runs a tile in a process of its own.
    """
    facts = gather()
    manifest, broken = _open(bundle)
    found = attempts(bundle, manifest, threads) if tried and manifest is not None else []
    told = findings(Case(facts, manifest, found))
    if broken is not None:
        told.insert(0, Finding("problem", broken, "give a bundle's folder, or nano"))
    if as_json:
        print_json(_document(facts, manifest, found, told))
    else:
        for line in page(facts, manifest, found, told):
            click.echo(line)
    if problems := sum(finding.level == "problem" for finding in told):
        raise Failure(f"{problems} problem{'s' * (problems > 1)} found")


def _open(bundle: str) -> tuple[Manifest | None, str | None]:
    try:
        return Bundle.open(bundle).manifest, None
    except BundleError as error:
        return None, str(error)


def page(facts: Facts, manifest: Manifest | None, found: Sequence[Attempt], told: Sequence[Finding]) -> Iterator[str]:
    """The lines of the page."""
    yield from _section("Machine", machine_rows(facts))
    yield from _section("Packages", list(facts.packages.items()))
    if found:
        yield from _section("Backends (a tile with 16 prompts)", [_row(attempt) for attempt in found])
    if manifest is not None and manifest.engines:
        rows = [
            (f"{engine.graph} {engine.flavour} {engine.precision}", misfit(engine, facts) or "fits")
            for engine in manifest.engines
        ]
        yield from _section("Engines of the bundle", rows)
    yield "What to do"
    for finding in told:
        yield f"  {'PROBLEM' if finding.level == 'problem' else 'hint'}: {finding.says}"
        yield f"    → {finding.remedy}"
    if not told:
        yield "  nothing"


def machine_rows(facts: Facts) -> list[tuple[str, str]]:
    """Name and value of what the machine is."""
    driver = facts.driver
    cores = f"{facts.cores} cores" + (f", {facts.quota:g} at a time" if facts.quota is not None else "")
    rows = [
        ("python", facts.python),
        ("system", facts.system),
        ("CPU", f"{facts.cpu}, {cores}"),
        ("instructions", ", ".join(facts.flags) or "none that matter"),
    ]
    if driver.cuda is None:
        return [*rows, ("GPU", "no NVIDIA driver")]
    rows.append(("driver", f"{driver.version or 'unknown version'}, CUDA up to {driver.cuda[0]}.{driver.cuda[1]}"))
    gpus = [("GPU", f"{gpu.name}, {gpu.architecture}, {gpu.gib:.0f} GiB") for gpu in driver.gpus]
    return [*rows, *(gpus or [("GPU", "none")])]


def _row(attempt: Attempt) -> tuple[str, str]:
    name = f"{attempt.backend} {attempt.precision}"
    if attempt.ms is None:
        return name, attempt.error.removeprefix(f"{attempt.backend}: ")
    return name, f"{attempt.ms:.0f} ms" + (" (a sample image, end to end)" if attempt.backend == CUDA else "")


def _section(title: str, rows: Sequence[tuple[str, str]]) -> Iterator[str]:
    yield title
    width = max((len(name) for name, _ in rows), default=0)
    for name, value in rows:
        yield f"  {name:<{width}}  {value}"
    yield ""


def _document(
    facts: Facts, manifest: Manifest | None, found: Sequence[Attempt], told: Sequence[Finding]
) -> dict[str, Any]:
    engines = manifest.engines if manifest else []
    return {
        "machine": asdict(facts),
        "backends": [asdict(attempt) for attempt in found],
        "engines": [{"file": engine.file, "misfit": misfit(engine, facts)} for engine in engines],
        "findings": [asdict(finding) for finding in told],
    }
