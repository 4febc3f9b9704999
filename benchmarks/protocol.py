"""How anything here is timed, and the form in which it is kept.

Calls take turns: a round runs each of them once, and every round starts with another, so that
whatever else the machine does, and whatever a call leaves in the caches, falls on all alike. The
first rounds are thrown away. What is quoted is the median; the 5th, 95th and 99th percentile stand
beside it. Latency is one call from start to end; throughput is a run of calls with one wait at its
end. Nothing here imports an engine: a GPU's clock is brought in by ``synchronise``.

    >>> protocol = Protocol(warmup=2, rounds=20)
    >>> latency = latencies({"eager": run_eager, "graph": run_graph}, protocol)
    >>> latency["graph"].p50_ms
"""

from __future__ import annotations

import gc
import time
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import numpy as np
from pydantic import BaseModel, ConfigDict, Field, ValidationError

from benchmarks.machine import Machine, describe
from benchmarks.nvml import Gpu, read_gpus
from pnseg_runtime.errors import PnsegError, first_fault
from pnseg_runtime.outputs.atomic import all_or_none, make_folder

FORMAT_VERSION = 1

#: What is timed.
Call = Callable[[], object]
#: Waits until the device has done all that it was given, e.g. ``torch.cuda.synchronize``.
Synchronise = Callable[[], object]


class _Frozen(BaseModel):
    model_config = ConfigDict(extra="forbid", frozen=True)


class Protocol(_Frozen):
    """How often to run.

    Attributes:
        warmup: rounds that are thrown away.
        rounds: rounds that count.
        seconds: after so many, no further round begins once ``least`` have counted; None for no limit.
        least: rounds that count whatever they take.
    """

    warmup: int = Field(2, ge=0)
    rounds: int = Field(20, ge=1)
    seconds: float | None = Field(None, gt=0)
    least: int = Field(3, ge=1)


class Latency(_Frozen):
    """One call after another, from start to end.

    Attributes:
        runs: calls that counted.
        p5_ms, p50_ms, p95_ms, p99_ms: percentiles over them, ms; p50 is the median.
        samples_ms: every call that counted, in order, for whoever wants another figure.
    """

    runs: int
    p5_ms: float
    p50_ms: float
    p95_ms: float
    p99_ms: float
    samples_ms: list[float] = Field(default_factory=list, repr=False)

    @classmethod
    def of(cls, seconds: Sequence[float]) -> Latency:
        """From the seconds that each call took, at least one."""
        ms = 1e3 * np.asarray(seconds, np.float64)
        p5, p50, p95, p99 = (round(float(value), 4) for value in np.percentile(ms, (5, 50, 95, 99)))
        return cls(runs=len(ms), p5_ms=p5, p50_ms=p50, p95_ms=p95, p99_ms=p99, samples_ms=[*ms.round(4).tolist()])

    @property
    def per_second(self) -> float:
        """Calls a second at the median."""
        return 1e3 / self.p50_ms

    def joined(self, other: Latency) -> Latency:
        """Both series as one."""
        return Latency.of([ms / 1e3 for ms in (*self.samples_ms, *other.samples_ms)])


class Throughput(_Frozen):
    """Calls back to back, with one wait at the end of each run of them.

    Attributes:
        batch: items a call.
        runs: runs that counted.
        p5, p50, p95: percentiles over them, items a second.
        samples: every run that counted, in order, items a second; empty in files of before they were kept.
    """

    batch: int
    runs: int
    p5: float
    p50: float
    p95: float
    samples: list[float] = Field(default_factory=list, repr=False)

    @classmethod
    def of(cls, batch: int, rates: Sequence[float]) -> Throughput:
        """From the items a second of each run, at least one."""
        p5, p50, p95 = (round(float(value), 3) for value in np.percentile(rates, (5, 50, 95)))
        samples = [round(float(rate), 3) for rate in rates]
        return cls(batch=batch, runs=len(samples), p5=p5, p50=p50, p95=p95, samples=samples)


class Row(BaseModel):
    """One thing that was measured; a benchmark adds fields of its own.

    Attributes:
        method: what, e.g. ``"PromptNucSeg-B"``.
        run: by which means, e.g. ``"ONNX Runtime FP32"``.
        batch: images a call.
        latency: of the whole call; None where it was not measured.
        note: why not, or what else a reader must know.
    """

    model_config = ConfigDict(extra="allow", frozen=True)

    method: str
    run: str = ""
    batch: int = 1
    latency: Latency | None = None
    note: str = ""

    @property
    def key(self) -> tuple[str, str, int]:
        """What identifies a row among those of another machine."""
        return self.method, self.run, self.batch


class Document(_Frozen):
    """A benchmark's JSON: what was measured, how and on which machine."""

    format_version: int = FORMAT_VERSION
    benchmark: str = Field(description="the verb that made it")
    settings: dict[str, Any] = Field(default_factory=dict, description="the verb's options")
    protocol: Protocol = Protocol()
    machine: Machine
    gpus_during: list[list[Gpu]] = Field(default_factory=list, description="every GPU after each round")
    rows: list[Row]

    def save(self, path: Path) -> None:
        """Write it as JSON, whole or not at all.

        Raises:
            OutputError: it cannot be written.
        """
        make_folder(path.parent)
        with all_or_none([path]) as (stream,):
            stream.write(f"{self.model_dump_json(indent=1)}\n".encode())


def read_document(path: Path) -> Document:
    """A benchmark's JSON.

    Raises:
        PnsegError: not such a file.
    """
    try:
        return Document.model_validate_json(path.read_bytes())
    except OSError as error:
        raise PnsegError(f"{path}: cannot be read ({error.strerror}).") from error
    except ValidationError as error:
        fault = first_fault(error, "file")
        raise PnsegError(f"{path}: not a benchmark's JSON ({fault}); write it with --json of a benchmark.") from error


class Interrupted(KeyboardInterrupt):
    """Ctrl-C when every call had counted at least once.

    Attributes:
        latencies: what had been taken.
    """

    def __init__(self, latencies: dict[str, Latency]) -> None:
        super().__init__()
        self.latencies = latencies


def document(
    benchmark: str, rows: Iterable[Row], protocol: Protocol, watch: Watch | None = None, **settings: Any
) -> Document:
    """Rows with the machine they were measured on, described now."""
    return Document(
        benchmark=benchmark,
        settings=settings,
        protocol=protocol,
        machine=describe(),
        gpus_during=watch.seen if watch else [],
        rows=list(rows),
    )


class Watch:
    """Looks at the GPUs, outside of what is timed: clocks that fell or throttling show in what it has seen."""

    def __init__(self) -> None:
        self.seen: list[list[Gpu]] = []

    def __call__(self) -> None:
        if gpus := read_gpus():
            self.seen.append(gpus)


def turns(names: Sequence[str], protocol: Protocol) -> Iterator[tuple[str, bool]]:
    """Whose turn it is, and whether it counts; each round starts with the next of the names."""
    start = time.perf_counter()
    for index in range(protocol.warmup + protocol.rounds):
        counted = index - protocol.warmup
        if counted == 0:
            start = time.perf_counter()  # the limit is for what counts
        over = protocol.seconds is not None and time.perf_counter() - start > protocol.seconds
        if over and counted >= protocol.least:
            return
        first = index % len(names) if names else 0
        for name in (*names[first:], *names[:first]):
            yield name, counted >= 0


@contextmanager
def uncollected() -> Iterator[None]:
    """Python's garbage collector waits, so that it does not fall on one of the calls."""
    was = gc.isenabled()
    gc.collect()
    gc.disable()
    try:
        yield
    finally:
        if was:
            gc.enable()


def latencies(
    calls: Mapping[str, Call],
    protocol: Protocol | None = None,
    synchronise: Synchronise | None = None,
    watch: Call | None = None,
) -> dict[str, Latency]:
    """Latency of every call, when all take turns.

    Args:
        calls: name → what to time.
        protocol: how often.
        synchronise: called before a clock starts and before it stops.
        watch: called after each round, outside of what is timed, e.g. a :class:`Watch`.

    Raises:
        Interrupted: by Ctrl-C, with what had been taken; a plain KeyboardInterrupt where a call had not counted yet.
    """
    wait = synchronise or _nothing
    seconds: dict[str, list[float]] = {name: [] for name in calls}
    try:
        with uncollected():
            for number, (name, counts) in enumerate(turns(list(calls), protocol or Protocol()), start=1):
                wait()
                start = time.perf_counter()
                calls[name]()
                wait()
                taken = time.perf_counter() - start
                if counts:
                    seconds[name].append(taken)
                if watch and number % len(calls) == 0:
                    watch()
    except KeyboardInterrupt as error:
        if not all(seconds.values()):
            raise
        raise Interrupted({name: Latency.of(taken) for name, taken in seconds.items()}) from error
    return {name: Latency.of(taken) for name, taken in seconds.items()}


def throughputs(
    calls: Mapping[str, tuple[Call, int]],
    protocol: Protocol | None = None,
    synchronise: Synchronise | None = None,
    seconds: float = 0.5,
) -> dict[str, Throughput]:
    """Throughput of every call, when all take turns.

    Args:
        calls: name → what to time, and how many items it does.
        protocol: how often a run is made.
        synchronise: called before a run and at its end, not between its calls.
        seconds: least duration of a run, by what a first call takes.
    """
    wait = synchronise or _nothing
    lengths: dict[str, int] = {}
    for name, (call, _) in calls.items():
        call()  # whatever is done once
        taken = _timed([call], wait)
        lengths[name] = max(1, int(np.ceil(seconds / max(taken, 1e-6))))
    rates: dict[str, list[float]] = {name: [] for name in calls}
    with uncollected():
        for name, counts in turns(list(calls), protocol or Protocol(warmup=0, rounds=5)):
            call, items = calls[name]
            taken = _timed([call] * lengths[name], wait)
            if counts:
                rates[name].append(items * lengths[name] / taken)
    return {name: Throughput.of(calls[name][1], found) for name, found in rates.items()}


def _timed(calls: Sequence[Call], wait: Synchronise) -> float:
    wait()
    start = time.perf_counter()
    for call in calls:
        call()
    wait()
    return time.perf_counter() - start


def _nothing() -> None:
    """A CPU's call is over when it returns."""
