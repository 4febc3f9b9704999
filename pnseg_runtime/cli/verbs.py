"""The verbs of ``pnseg``: what each is called, where it lives and what it needs."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True)
class Verb:
    """A verb of the command line.

    Attributes:
        name: the word typed after ``pnseg``.
        target: ``module:attribute`` of its click command.
        help: one line for the list of verbs, so that listing imports nothing.
        extra: the optional dependencies it needs, None if the plain installation suffices.
    """

    name: str
    target: str
    help: str
    extra: str | None = None


VERBS: tuple[Verb, ...] = (
    Verb("predict", "pnseg_runtime.cli.predict:predict", "Outline the nuclei in images."),
    Verb("slide", "pnseg_runtime.cli.slide:slide", "Outline the nuclei of whole slides.", extra="slide"),
    Verb("doctor", "pnseg_runtime.cli.doctor:doctor", "Show what works on this machine, and what is missing."),
    Verb("view", "pnseg_runtime.cli.view:view", "Look at a result in the browser.", extra="slide"),
    Verb("info", "pnseg_runtime.cli.info:info", "Show what a bundle holds and where it comes from."),
    Verb("train", "pnseg_train.cli.train:train", "Train a prompter or a segmentor.", extra="train"),
    Verb(
        "evaluate", "pnseg_train.cli.evaluate:evaluate", "Measure PQ and AJI against annotated images.", extra="train"
    ),
    Verb("average", "pnseg_train.cli.average:average_", "Join steps of a training by their mean.", extra="train"),
    Verb("import", "pnseg_train.cli.import_:import_", "Bring in a published checkpoint.", extra="train"),
    Verb("data", "pnseg_train.cli.data:data", "Check a data set before training on it.", extra="train"),
    Verb("export", "pnseg_export.cli.export:export", "Turn checkpoints into a bundle.", extra="export"),
    Verb("restore", "pnseg_export.cli.restore:restore_", "Turn a nano bundle into checkpoints again.", extra="export"),
    Verb(
        "quantise",
        "pnseg_export.cli.quantise:quantise",
        "Add half-precision and 8-bit graphs to a bundle.",
        extra="export",
    ),
    Verb("build", "pnseg_export.cli.build:build", "Build TensorRT engines for a bundle.", extra="export"),
    Verb(
        "parity",
        "pnseg_export.cli.parity:parity",
        "Compare a bundle's precisions and engines, mask by mask.",
        extra="export",
    ),
    Verb(
        "export-triton",
        "pnseg_export.cli.export_triton:export_triton",
        "Write a model repository for NVIDIA Triton.",
        extra="export",
    ),
    Verb("inspect", "pnseg_export.cli.inspect:inspect", "Count what a bundle's graphs cost.", extra="export"),
)

# Import name → what users call it, where the two differ.
LIBRARY_NAMES = {"torch": "PyTorch", "yaml": "PyYAML", "lightning_fabric": "Lightning Fabric", "onnx": "ONNX"}
