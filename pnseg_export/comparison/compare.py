"""Participants against a reference: tensors, points, masks, and PQ and AJI where there are annotations."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np
from numpy.typing import NDArray

from pnseg_export.agreement import Agreement, Finding, Tile, agreement, findings
from pnseg_export.comparison.participants import Participant
from pnseg_export.gates import LIMITS, Limits, can_judge, shortfalls
from pnseg_export.precision.feeds import Arrays, Feeds, record
from pnseg_runtime.bundle import PROMPT_INPUTS, Bundle
from pnseg_runtime.metrics import aggregated_jaccard, panoptic_quality
from pnseg_runtime.rescale import Rescaling
from pnseg_runtime.segmenter import Segmenter
from pnseg_runtime.sessions import Sessions
from pnseg_train.datasets import Sample


@dataclass(frozen=True)
class Result:
    """One participant.

    Attributes:
        name: of the participant.
        precision: of it.
        tensors: output → ``max_abs``, its largest difference, and ``cosine``.
        agreement: its points and masks against the reference's.
        quality: mean ``pq`` and ``aji`` on annotated images; empty without any.
        change: by how much that differs from the reference's.
        findings: what it found in each tile.
    """

    name: str
    precision: str
    tensors: dict[str, dict[str, float]]
    agreement: Agreement
    quality: dict[str, float]
    change: dict[str, float]
    findings: list[Finding] = field(repr=False)

    def failures(self, limits: Limits | None = None) -> list[str]:
        """Sentences on what falls short."""
        limits = limits or LIMITS[self.precision]
        remedy = "" if can_judge(self.agreement) else "; give other --images, which show more"
        said = [f"{self.name}: {shortfall}{remedy}" for shortfall in shortfalls(self.agreement, limits)]
        said += [f"{self.name}: {name} has values that are not finite" for name in self._broken]
        # A lower precision may be better by chance, which is no fault; half precision and float32 are the same model.
        change = self.change.get("pq", 0.0)
        apart = -change if self.precision in {"int8", "bfloat16"} else abs(change)
        if not apart <= limits.pq:
            said.append(f"{self.name}: PQ differs by {change:+.4f}, allowed is {limits.pq:g}")
        return said

    @property
    def _broken(self) -> list[str]:
        return [name for name, entry in self.tensors.items() if not np.isfinite(list(entry.values())).all()]

    def document(self, failures: Sequence[str] = ()) -> dict[str, Any]:
        """As JSON values; ``failures`` are sentences on what falls short."""
        return {
            "name": self.name,
            "precision": self.precision,
            "tensors": {name: {} if name in self._broken else entry for name, entry in self.tensors.items()},
            **self.agreement.figures(),
            **{name: round(value, 5) for name, value in self.quality.items()},
            **{f"{name}_change": round(value, 5) for name, value in self.change.items()},
            "failures": list(failures),
        }


def compare_all(
    bundle: Bundle,
    reference: Participant,
    others: Sequence[Participant],
    tiles: Sequence[Tile],
    samples: Sequence[Sample] = (),
    advance: Callable[[str], None] = lambda _: None,
) -> list[Result]:
    """Every participant against the reference, which is the first of the results.

    Args:
        bundle: whose settings all use, and whose float32 graphs choose the calls on which tensors are compared.
        reference: the first.
        others: the rest.
        tiles: (H, W, 3) uint8 RGB, at the model's resolution.
        samples: the annotated images that the tiles show, of any resolution, or nothing.
        advance: called with a participant's name before it runs.
    """
    feeds = record(bundle, tiles[:4])
    enlargements = [_rescaling(sample, bundle.manifest.mpp).enlargement for sample in samples]
    results: list[Result] = []
    expected: list[Arrays] = []
    for participant in (reference, *others):
        advance(participant.name)
        sessions = participant.open()
        given = outputs(sessions, feeds)
        expected = expected or given
        found = findings(Segmenter(bundle, sessions=sessions), tiles, enlargements)
        quality = _quality(found, samples, bundle.manifest.mpp)
        first = results[0] if results else None
        results.append(
            Result(
                participant.name,
                participant.precision,
                tensor_differences(expected, given),
                agreement(first.findings if first else found, found),
                quality,
                {name: value - first.quality[name] for name, value in quality.items()} if first else {},
                found,
            )
        )
    return results


def outputs(sessions: Sessions, feeds: Feeds) -> list[Arrays]:
    """Outputs of prompter and decoder for recorded calls; windows are encoded by the same participant."""
    found: list[Arrays] = [dict(sessions.prompter({"image": call["image"]})) for call in feeds.prompter]
    for window, prompts in zip(feeds.encoder, feeds.decoder, strict=False):
        inputs = {name: prompts[name] for name in PROMPT_INPUTS}
        inside = inputs["image_index"] < len(window["image"])
        inputs = {name: array[inside] for name, array in inputs.items()}
        if inside.any():
            found.append(dict(sessions.decoder(sessions.encoder(window) | inputs)))
    return found


def tensor_differences(expected: Sequence[Arrays], given: Sequence[Arrays]) -> dict[str, dict[str, float]]:
    """Output → its largest absolute difference over all calls, and its least cosine.

    Neither is finite where a value is not.
    """
    found: dict[str, dict[str, float]] = {}
    for before, after in zip(expected, given, strict=True):
        for name in before.keys() & after.keys():
            a, b = before[name].ravel().astype(np.float64), after[name].ravel().astype(np.float64)
            entry = found.setdefault(name, {"max_abs": 0.0, "cosine": 1.0})
            norms = float(np.linalg.norm(a) * np.linalg.norm(b))
            # NaN stays NaN in both, which Python's max and min do not grant.
            entry["max_abs"] = float(np.maximum(entry["max_abs"], np.abs(a - b).max(initial=0.0)))
            entry["cosine"] = float(np.minimum(entry["cosine"], float(a @ b) / norms if norms else 1.0))
    return {name: found[name] for name in sorted(found)}


def _quality(found: Sequence[Finding], samples: Sequence[Sample], mpp: float) -> dict[str, float]:
    # In the images' own pixels, as pnseg evaluate measures.
    if not samples:
        return {}
    maps = [_in_own_pixels(finding, sample, mpp) for finding, sample in zip(found, samples, strict=True)]
    truths = [sample.instances for sample in samples]
    return {
        "pq": float(np.mean([panoptic_quality(t, m)["pq"] for t, m in zip(truths, maps, strict=True)])),
        "aji": float(np.mean([aggregated_jaccard(t, m) for t, m in zip(truths, maps, strict=True)])),
    }


def _in_own_pixels(finding: Finding, sample: Sample, mpp: float) -> NDArray[np.int32]:
    return _rescaling(sample, mpp).back(finding.nuclei).instance_map()


def _rescaling(sample: Sample, mpp: float) -> Rescaling:
    height, width = sample.instances.shape
    return Rescaling.between((height, width), sample.mpp, mpp)
