"""What the process that builds an engine is told, and what it tells."""

from __future__ import annotations

from pydantic import BaseModel, ConfigDict

from pnseg_runtime.bundle import GraphName, Precision, ShapeRange


class _Frozen(BaseModel):
    model_config = ConfigDict(extra="forbid", frozen=True)


class EngineJob(_Frozen):
    """One engine to build.

    Attributes:
        flavour: see :class:`pnseg_export.engines.targets.Target`.
        architecture: likewise.
        graph: which network.
        precision: of its graph.
        model: path of the ONNX file.
        engine: path of the file to write.
        log: path of the builder's log.
        profiles: for each profile, an input's name → the shapes it takes.
        half_products: products and convolutions that the graph has in half precision.
        quantised: whether the graph is quantised.
        workspace: most memory for a layer's scratch space, bytes; None leaves it to the builder.
        level: the builder's effort, 0 to 5; None leaves it to the builder.
    """

    flavour: str
    architecture: str
    graph: GraphName
    precision: Precision
    model: str
    engine: str
    log: str
    profiles: list[dict[str, ShapeRange]]
    half_products: int = 0
    quantised: int = 0
    workspace: int | None = None
    level: int | None = None


class Built(_Frozen):
    """What came of it.

    Attributes:
        error: one sentence, empty if all went well.
        version: of the library.
        architecture: that the engine runs on.
        layers: kind of layer → how many the network has.
        census: element type → tensors of the network.
        attention: softmaxes between two products.
        fused_attention: those of them that the builder's log counts among its attention patterns.
        kernels: that a call starts, for each profile; empty if the builder's log does not say.
        seconds: of the build.
        memory: the most that the process needed, bytes.
    """

    error: str = ""
    version: str = ""
    architecture: str = ""
    layers: dict[str, int] = {}
    census: dict[str, int] = {}
    attention: int = 0
    fused_attention: int | None = None
    kernels: list[int] = []
    seconds: float = 0.0
    memory: int = 0
