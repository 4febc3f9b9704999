"""What a lower precision must keep of the nuclei before a manifest names it."""

import shutil
from itertools import product
from pathlib import Path

import numpy as np
import pytest
from click.testing import CliRunner

from pnseg_export.agreement import Agreement, TileAgreement
from pnseg_export.cli.quantise import quantise
from pnseg_export.folders import write_manifest
from pnseg_export.gates import LIMITS
from pnseg_export.precision import variants
from pnseg_export.precision.feeds import Feeds
from pnseg_export.precision.variants import add_variants
from pnseg_runtime.bundle import SHIPPED, Bundle, EngineFile, file_entry
from pnseg_runtime.errors import PnsegError


def agreement(kept=100, lost=(), iou=1.0, gained=(), unlike=0, pq=0.99) -> Agreement:
    """One tile: masks and points of ``kept`` nuclei, of which some are ``unlike``, and scores of those lost and gained.

    A point that is lost is a nucleus less; one that is gained is no nucleus.
    """
    return Agreement(
        [
            TileAgreement(
                moved=np.zeros(kept),
                lost=np.array(lost, np.float32),
                gained=np.array(gained, np.float32),
                ious=np.full(kept, iou),
                pairs=np.zeros((kept, 2), np.int64),
                nuclei=(kept, kept + len(lost)),
                matched=kept - unlike,
                pq=pq,
            )
        ]
    )


def add(precision, agreed, out, monkeypatch, **settings):
    graphs = Bundle.open("nano").manifest.graphs
    monkeypatch.setattr(variants, "record", lambda *_: Feeds())
    monkeypatch.setattr(variants, "halve_graphs", lambda *_: (graphs, {}))
    monkeypatch.setattr(variants, "quantise_graphs", lambda *_: graphs)
    monkeypatch.setattr(variants, "judge", lambda *_: agreed)
    return add_variants(Bundle.open("nano"), out, [precision], [], **settings)


@pytest.mark.parametrize(
    ("precision", "agreed", "says"),
    [
        ("float16", agreement(lost=[0.61]), "1 points with a score over 0.6 are lost"),
        ("float16", agreement(lost=[0.5, 0.5]), "2.0% of the points are lost, allowed is 1.0%"),
        ("float16", agreement(iou=0.99), "mean mask IoU 0.9900, at least 0.995 is needed"),
        ("int8", agreement(kept=50, lost=[0.9] * 50), "50.0% of the points are lost, allowed is 5.0%"),
        ("int8", agreement(iou=0.96), "mean mask IoU 0.9600, at least 0.97 is needed"),
        ("int8", agreement(iou=np.nan), "mean mask IoU nan, at least 0.97 is needed"),
        ("int8", agreement(gained=[0.3] * 30), "gained points come to 30.0% of the reference's, allowed is 5.0%"),
        ("float16", agreement(gained=[0.3] * 2), "gained points come to 2.0% of the reference's, allowed is 1.0%"),
        ("int8", agreement(unlike=6), "6.0% of the nuclei are lost, allowed is 5.0%"),
        ("float16", agreement(unlike=3), "gained nuclei come to 3.0% of the reference's, allowed is 2.0%"),
        ("int8", agreement(pq=0.92), "PQ against the reference 0.9200, at least 0.93 is needed"),
        ("float16", agreement(pq=0.97), "PQ against the reference 0.9700, at least 0.98 is needed"),
        ("float16", agreement(pq=np.nan), "PQ against the reference nan, at least 0.98 is needed"),
        ("int8", agreement(kept=0), "the reference finds 0 nuclei in these images, .*; give other --tiles, which show"),
        ("int8", agreement(kept=9), "the reference finds 9 nuclei in these images, too few to judge by"),
    ],
)
def test_a_precision_that_loses_nuclei_or_masks_is_kept_only_when_that_is_accepted(
    precision, agreed, says, tmp_path, monkeypatch
):
    with pytest.raises(PnsegError, match=says):
        add(precision, agreed, tmp_path / "refused", monkeypatch)
    assert not list(tmp_path.iterdir())
    manifest = add(precision, agreed, tmp_path / "accepted", monkeypatch, accept=True)
    assert manifest.parity[precision]["nuclei"] == len(agreed.tiles[0].ious)


@pytest.mark.parametrize(("precision", "lost"), [("float16", [0.5]), ("int8", [0.9] * 5)])
def test_a_precision_within_its_limits_is_kept(precision, lost, tmp_path, monkeypatch):
    manifest = add(precision, agreement(kept=100, lost=lost), tmp_path / "kept", monkeypatch)
    assert set(manifest.variants) == {precision}
    assert LIMITS[precision].share * 105 >= len(lost)


def with_engines(folder: Path) -> Bundle:
    """nano, its float32 graphs named as float16 too, with engines of prompter and encoder in both precisions."""
    shutil.copytree(SHIPPED / "nano", folder, ignore=shutil.ignore_patterns(".cache"))
    bundle = Bundle.open(folder)
    engines, unmeasured = [], {"flavour": "rtx", "version": "1.0", "architectures": ["sm86"], "seconds": 1.0}
    unmeasured |= {"inputs": {}, "outputs": {}, "profiles": [], "census": {}, "layers": {}}
    for precision, graph in product(("float32", "float16"), ("prompter", "encoder")):
        for suffix in ("engine", "log"):
            (folder / "engines" / "rtx").mkdir(parents=True, exist_ok=True)
            (folder / "engines" / "rtx" / f"{graph}.{precision}.{suffix}").write_text(suffix)
        path = folder / "engines" / "rtx" / f"{graph}.{precision}"
        engines.append(
            EngineFile(
                **file_entry(path.with_name(f"{path.name}.engine"), folder).model_dump(),
                **unmeasured,
                precision=precision,
                graph=graph,
                log=file_entry(path.with_name(f"{path.name}.log"), folder),
            )
        )
    changes = {"engines": engines, "variants": {"float16": dict(bundle.manifest.graphs)}}
    write_manifest(folder, bundle.manifest.model_copy(update=changes))
    return Bundle.open(folder)


def test_engines_of_graphs_that_are_replaced_go_and_others_stay(tmp_path, monkeypatch):
    bundle = with_engines(tmp_path / "mine")

    def other_encoder(bundle, folder, *_):
        graphs = dict(bundle.manifest.graphs)
        path = folder / "encoder.float16.onnx"
        path.write_bytes(b"another graph")
        return graphs | {"encoder": graphs["encoder"].model_copy(update=file_entry(path, folder).model_dump())}, {}

    monkeypatch.setattr(variants, "record", lambda *_: Feeds())
    monkeypatch.setattr(variants, "halve_graphs", other_encoder)
    monkeypatch.setattr(variants, "judge", lambda *_: agreement(lost=[0.9] * 9))
    before = sorted(bundle.folder.rglob("*"))
    with pytest.raises(PnsegError):
        add_variants(bundle, bundle.folder, ["float16"], [])
    assert (sorted(bundle.folder.rglob("*")), Bundle.open(bundle.folder).manifest) == (before, bundle.manifest)
    monkeypatch.setattr(variants, "judge", lambda *_: agreement())
    said = CliRunner().invoke(quantise, [str(bundle.folder), "--precision", "float16"])
    assert said.exit_code == 0, said.output
    kept = {(engine.graph, engine.precision) for engine in Bundle.open(bundle.folder).manifest.engines}
    assert kept == {("prompter", "float32"), ("encoder", "float32"), ("prompter", "float16")}
    assert not list(bundle.folder.rglob("encoder.float16.engine"))
    assert not list(bundle.folder.rglob("encoder.float16.log"))
    assert "encoder.float16.engine: removed, as it was built of other float16 graphs; run pnseg build." in said.stdout
    assert "prompter.float16.engine" not in said.stdout
