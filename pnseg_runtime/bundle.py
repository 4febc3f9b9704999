"""The bundle: a folder of graphs and one manifest, the only door between export and runtime."""

from __future__ import annotations

import json
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal, get_args

from pydantic import (
    BaseModel,
    ConfigDict,
    Field,
    NonNegativeFloat,
    PositiveFloat,
    StrictInt,
    ValidationError,
    model_validator,
)

from pnseg_runtime.errors import BundleError, first_fault
from pnseg_runtime.hashes import sha256_of
from pnseg_runtime.nuclei import NucleusClass

MANIFEST_NAME = "manifest.json"
# A field that an earlier pnseg does not know needs a new number, or that pnseg cannot say that it is too old.
# 2 added reduced precisions, engines and graphs with weights in files of their own; 3 the overlap of masks as a share;
# 4 the softening of colour and the resolution of files that state none; 5 the softening of what is enlarged;
# 6 what a bundle's graphs were exported for, and how many kernels a call of an engine starts.
FORMAT_VERSION = 6
SHIPPED = Path(__file__).parent / "bundles"


class _Frozen(BaseModel):
    model_config = ConfigDict(extra="forbid", frozen=True, allow_inf_nan=False)


GraphName = Literal["prompter", "encoder", "decoder"]
#: The decoder's inputs that have a row for each prompt; its others have one for each window, from the encoder.
PROMPT_INPUTS = ("point_coords", "point_labels", "image_index")
Precision = Literal["float32", "float16", "int8"]
#: What graphs and engines can compute in, the most exact first.
GRAPH_PRECISIONS: tuple[Precision, ...] = get_args(Precision)

#: At which resolution an image that states none is seen: the one that its nuclei suggest
#: (:func:`pnseg_runtime.plausible.at_likely_mpp`), or the model's.
Guess = Literal["auto", "model"]


class BundleFile(_Frozen):
    """A file of a bundle; ``file`` is its path below the bundle's folder."""

    file: str
    sha256: str
    bytes: int


class GraphFile(BundleFile):
    """One network on disk.

    Attributes:
        precision: of most of its arithmetic; inputs and outputs are float32 in any.
        inputs: a tensor's name → its axes; a string axis is dynamic.
        outputs: likewise.
        data: files beside the graph that hold its weights, where they are too large for one file.
        census: element type → how many tensors of the graph have it.
        kept: layers that compute in float32 though the graph has a lower precision → the reason.
    """

    precision: Precision = "float32"
    inputs: dict[str, list[int | str]]
    outputs: dict[str, list[int | str]]
    data: list[BundleFile] = Field(default_factory=list)
    census: dict[str, int] = Field(default_factory=dict)
    kept: dict[str, str] = Field(default_factory=dict)


class ShapeRange(_Frozen):
    """Shapes of an input that an engine takes, and the one it is tuned for."""

    smallest: list[int]
    tuned: list[int]
    largest: list[int]


class EngineFile(BundleFile):
    """One network as an engine that TensorRT has built.

    Attributes:
        flavour: ``rtx`` is TensorRT for RTX.
        version: of the library that built it, which is the one that can run it.
        architectures: of the GPUs it runs on, e.g. ``sm86``.
        precision: of the graph it was built from.
        graph: which network it is.
        inputs: a tensor's name → its axes; a string axis is dynamic.
        outputs: likewise.
        profiles: for each profile, an input's name → the shapes it takes.
        census: element type → how many tensors of the network that was built have it.
        layers: kind of layer → how many the network has.
        attention: attention blocks of the graph.
        fused_attention: how many of them the builder fused, None where its log does not say.
        kernels: that a call starts, for each profile; empty if the builder's log does not say.
        seconds: time of the build.
        log: the builder's log.
    """

    flavour: Literal["rtx", "tensorrt"]
    version: str
    architectures: list[str]
    precision: Precision
    graph: GraphName
    inputs: dict[str, list[int | str]]
    outputs: dict[str, list[int | str]]
    profiles: list[dict[str, ShapeRange]]
    census: dict[str, int]
    layers: dict[str, int]
    attention: int = 0
    fused_attention: int | None = None
    kernels: list[int] = []
    seconds: float
    log: BundleFile


class Classes(_Frozen):
    names: list[str] = Field(min_length=1)
    colors: list[tuple[int, int, int]]

    @model_validator(mode="after")
    def _paired(self) -> Classes:
        if len(self.colors) != len(self.names):
            raise ValueError(f"{len(self.names)} names and {len(self.colors)} colors")
        return self


class Normalisation(_Frozen):
    """Applied to RGB values scaled to 0–1: (x - mean) / std."""

    mean: tuple[float, float, float] = (0.485, 0.456, 0.406)
    std: tuple[PositiveFloat, PositiveFloat, PositiveFloat] = (0.229, 0.224, 0.225)


class Prompting(_Frozen):
    """How points are found and handed over (paper sections 3.1 and 3.3)."""

    anchor_spacing: int = Field(ge=1, description="λ, px")
    levels: int = Field(ge=1, description="L, feature levels sampled at an anchor")
    pad_multiple: int = Field(32, ge=1, description="the prompter's image sides are mirrored up to this multiple, px")
    nms_radius: float = Field(ge=0, description="px")
    region_filter: bool = Field(description="mask-aided filtering of the points")
    sensitivity: float = Field(0.0, description="taken from the background's class logit: more finds more nuclei")
    negatives: int = Field(ge=0, description="K, nearest other points handed over as negative prompts")


class Masking(_Frozen):
    """How masks are decoded and joined (paper section 3.3)."""

    window: int = Field(256, ge=1, description="side of a window, px")
    overlap: int = Field(64, ge=0, description="ε, px")
    border: int = Field(7, ge=0, description="a mask this close to an inner window border is cut, px")
    tidy: bool = Field(False, description="a mask is cut to its largest piece, and its holes are filled")
    nms_iou: float = Field(0.5, ge=0, le=1, description="of two masks whose boxes overlap more, one goes")
    nms_overlap: float | None = Field(
        None,
        ge=0,
        le=1,
        description="share of the smaller of two masks: if more of it lies in the other, one goes; in place of nms_iou",
    )
    score_threshold: float = Field(0.0, ge=0, le=1, description="points with a lower class probability are dropped")
    iou_threshold: float = Field(0.0, le=1, description="masks with a lower predicted IoU are dropped")

    @model_validator(mode="after")
    def _advances(self) -> Masking:
        if self.overlap >= self.window:
            raise ValueError(f"windows of {self.window} px cannot overlap by {self.overlap} px")
        return self


class Provenance(_Frozen):
    """How the bundle was made."""

    checkpoints: dict[str, str] = Field(default_factory=dict, description="network → sha256 of its checkpoint")
    tools: dict[str, str] = Field(default_factory=dict, description="package → version")
    target: str | None = Field(None, description="what its graphs were exported for, which chose how they compute")
    weights_licence: str = "unknown"
    data_licences: list[str] = Field(default_factory=list)
    attribution: list[str] = Field(default_factory=list)


class Manifest(_Frozen):
    """Everything the runtime must know about a model."""

    format_version: StrictInt = FORMAT_VERSION
    model: str
    mpp: float = Field(gt=0, description="microns per pixel the model was trained at")
    classes: Classes
    normalisation: Normalisation = Normalisation()
    colour_blur: float = Field(0.0, ge=0, description="of differences of colour, before all else, px of the model's")
    enlarged_blur: tuple[NonNegativeFloat, NonNegativeFloat] = Field(
        (0.0, 0.0),
        description="of brightness and of differences of colour, besides, before the prompter sees an image which "
        "states a coarser resolution; px of the model's, for each time it is enlarged",
    )
    unknown_mpp: Guess = Field("model", description="what verbs take files that state no resolution for")
    prompting: Prompting
    masking: Masking
    graphs: dict[GraphName, GraphFile] = Field(description="in float32")
    variants: dict[Literal["float16", "int8"], dict[GraphName, GraphFile]] = Field(
        default_factory=dict, description="the graphs in other precisions, all of them or none"
    )
    engines: list[EngineFile] = Field(default_factory=list)
    provenance: Provenance = Provenance()
    parity: dict[str, Any] = Field(
        default_factory=dict, description="largest differences from PyTorch when it was made"
    )
    accuracy: dict[str, Any] = Field(
        default_factory=dict, description="metrics on named validation sets when it was made"
    )

    @model_validator(mode="after")
    def _whole(self) -> Manifest:
        # Manifests without any graph are made where the networks do not come from files.
        for precision, graphs in [("float32", self.graphs), *self.variants.items()]:
            missing = sorted(set(get_args(GraphName)) - set(graphs))
            if missing and (graphs or precision != "float32"):
                raise ValueError(f"the {precision} graphs lack {', '.join(missing)}")
        return self

    @property
    def precisions(self) -> tuple[str, ...]:
        """Precisions that the bundle has graphs of."""
        return ("float32", *self.variants)

    @property
    def engine_precision(self) -> str | None:
        """What the engines compute in where nobody has chosen: the most exact that there is, None without engines."""
        built = {engine.precision for engine in self.engines}
        return next((precision for precision in GRAPH_PRECISIONS if precision in built), None)

    def files(self) -> list[BundleFile]:
        """Every file of the bundle but the manifest, once each."""
        graphs = [graph for graphs in (self.graphs, *self.variants.values()) for graph in graphs.values()]
        parts = [part for graph in graphs for part in (graph, *graph.data)]
        parts += [part for engine in self.engines for part in (engine, engine.log)]
        return list({part.file: part for part in parts}.values())

    @property
    def class_table(self) -> tuple[NucleusClass, ...]:
        return tuple(NucleusClass(n, c) for n, c in zip(self.classes.names, self.classes.colors, strict=True))


@dataclass(frozen=True)
class Bundle:
    """An opened and verified bundle."""

    folder: Path
    manifest: Manifest

    @classmethod
    def open(cls, name_or_path: str | Path) -> Bundle:
        """Open a shipped bundle by name (``"nano"``) or any bundle by its folder.

        Raises:
            BundleError: no such bundle, a manifest that cannot be read or is newer than this
                pnseg, or a file that is missing or not the one the manifest names.
        """
        folder = _locate(name_or_path)
        manifest = read_manifest(folder / MANIFEST_NAME)
        if not manifest.graphs:
            raise BundleError(f"{folder}: the manifest names no graphs; export the bundle again.")
        for file in manifest.files():
            _verify(folder, file)
        return cls(folder, manifest)

    def graph(self, name: str, precision: str = "float32") -> GraphFile:
        """A network's entry.

        Raises:
            BundleError: the bundle has no graphs of this precision.
        """
        manifest = self.manifest
        graphs = manifest.graphs if precision == "float32" else manifest.variants.get(precision)  # type: ignore[call-overload]
        if graphs is None:
            named = self.folder.name if self.folder.parent == SHIPPED else self.folder
            raise BundleError(
                f"{self.folder}: the bundle has no {precision} graphs (it has {', '.join(manifest.precisions)}); "
                f"choose one of these or add it: pnseg quantise {named} --precision {precision} --out FOLDER."
            )
        return graphs[name]  # type: ignore[index]

    def path(self, graph: str, precision: str = "float32") -> Path:
        """Path of a network's file.

        Raises:
            BundleError: the bundle has no graphs of this precision.
        """
        return self.folder / self.graph(graph, precision).file


def shipped_bundles() -> list[str]:
    """Names of the bundles that come with pnseg."""
    return sorted(path.parent.name for path in SHIPPED.glob(f"*/{MANIFEST_NAME}"))


def _locate(name_or_path: str | Path) -> Path:
    folder = Path(name_or_path)
    try:
        if (folder / MANIFEST_NAME).is_file():
            return folder
    except (OSError, ValueError) as error:
        raise BundleError(f"{name_or_path}: cannot be read ({error}); give a bundle's folder.") from error
    if (SHIPPED / folder.name / MANIFEST_NAME).is_file() and str(name_or_path) == folder.name:
        return SHIPPED / folder.name
    known = ", ".join(shipped_bundles()) or "none"
    raise BundleError(
        f"{name_or_path}: no bundle here (no {MANIFEST_NAME}); "
        f"give a bundle's folder or the name of a shipped one ({known})."
    )


def read_manifest(path: Path) -> Manifest:
    """Read and validate a manifest.

    Raises:
        BundleError: see :meth:`Bundle.open`.
    """
    try:
        document = json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError, RecursionError) as error:
        raise BundleError(f"{path}: the manifest cannot be read ({error}); export the bundle again.") from error
    version = document.get("format_version") if isinstance(document, dict) else None
    if isinstance(version, (int, float)) and version > FORMAT_VERSION:
        raise BundleError(
            f"{path}: made by a newer pnseg (manifest version {version}, this one reads up to {FORMAT_VERSION}); "
            "upgrade pnseg."
        )
    try:
        return Manifest.model_validate(document)
    except ValidationError as error:
        fault = first_fault(error, "manifest")
        raise BundleError(f"{path}: not a valid manifest ({fault}); export the bundle again.") from error


def file_entry(path: Path, folder: Path) -> BundleFile:
    """A manifest's entry of a file that lies in the bundle's folder."""
    return BundleFile(file=path.relative_to(folder).as_posix(), sha256=sha256_of(path), bytes=path.stat().st_size)


def _verify(folder: Path, file: BundleFile) -> None:
    try:
        _verify_readable(folder, file)
    except (OSError, ValueError) as error:  # not to be read, or not even a path
        raise BundleError(f"{folder}: {file.file} cannot be read ({error}); copy the bundle again.") from error


def _verify_readable(folder: Path, file: BundleFile) -> None:
    path = folder / file.file
    if not path.resolve().is_relative_to(folder.resolve()):
        raise BundleError(
            f"{folder}: the manifest names a file outside the bundle ({file.file}); export the bundle again."
        )
    if not path.is_file():
        raise BundleError(f"{path}: missing from the bundle; copy the whole folder or export the bundle again.")
    if path.stat().st_size != file.bytes or sha256_of(path) != file.sha256:
        raise BundleError(f"{path}: not the file its manifest names (SHA-256 differs); copy the bundle again.")
