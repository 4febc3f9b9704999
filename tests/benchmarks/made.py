"""Made-up measurements, for tests of what is done with them."""

from __future__ import annotations

from benchmarks.counts import Counts
from benchmarks.protocol import Document, Latency, Protocol, Row, Throughput, document
from benchmarks.runs import EAGER, ORT
from benchmarks.table5 import counted_fields, unmeasured

OUR_STAGES = {"prepare": 1.0, "prompter": 80.0, "points": 1.0, "encoder": 150.0, "decoder": 60.0, "masks": 8.0}
RIVAL_STAGES = {"prepare": 1.0, "network": 1400.0, "post-processing": 25.0}


def made_row(method: str, run: str, ms: float, counts: Counts | None = None, exported: int | None = None) -> Row:
    """A measured row; its time scatters by a tenth."""
    factors = (0.95, 1.0, 1.05)
    latency = Latency.of([ms / 1e3 * factor for factor in factors])
    stages = OUR_STAGES if method.startswith("PromptNucSeg") else RIVAL_STAGES
    shares = {stage: share * ms / sum(stages.values()) for stage, share in stages.items()}
    sweep = {"0": 0.8 * ms, "24": ms, "150": 2.5 * ms}
    return Row(
        method=method,
        run=run,
        latency=latency,
        fps=latency.per_second,
        **counted_fields(method, counts, exported),
        run_gmacs=exported / 1e9 if exported else counts and counts.macs / 1e9,
        stages_ms=shares,
        stages_samples_ms={stage: [factor * share for factor in factors] for stage, share in shares.items()},
        sweep_ms=sweep,
        sweep_samples_ms={nuclei: [factor * each for factor in factors] for nuclei, each in sweep.items()},
        throughput={"8": Throughput.of(8, [1e3 / ms, 1e3 / ms]).model_dump()},
        origin="made up",
        difference="it is made up",
        measured=True,
    )


def made_document(scale: float = 1.0) -> Document:
    """Two rivals and ours; times are multiplied by ``scale``."""
    b = Counts(148_848_795, 59_508_020_224, 145_850_523, 58_801_411_072)
    star = Counts(123_220_071, 262_646_267_904, 123_220_071, 262_646_267_904)
    rows = [
        made_row("StarDist", EAGER, 1500 * scale, star),
        made_row("StarDist", ORT, 1200 * scale, star),
        made_row("HoVer-Net", EAGER, 1100 * scale, Counts(37_640_000, 148_930_000_000, 37_640_000, 148_930_000_000)),
        made_row("PromptNucSeg-B", EAGER, 900 * scale, b),
        made_row("PromptNucSeg-B", ORT, 300 * scale, b, 46_772_104_192),
        made_row("PromptNucSeg-nano", ORT, 30 * scale, None, 3_089_152_320),
        unmeasured("PromptNucSeg-B", "TensorRT FP16", "not measured: no GPU here"),
    ]
    return document("table5", rows, Protocol(warmup=1, rounds=3), nuclei=24, how="Made up & not measured.")
