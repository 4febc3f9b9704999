"""What a lower precision must keep of the nuclei before a manifest names it."""

import numpy as np
import pytest

from pnseg_export.agreement import Agreement, TileAgreement
from pnseg_export.gates import LIMITS
from pnseg_export.precision import variants
from pnseg_export.precision.feeds import Feeds
from pnseg_export.precision.variants import add_variants
from pnseg_runtime.bundle import Bundle
from pnseg_runtime.errors import PnsegError


def agreement(kept=100, lost=(), iou=1.0) -> Agreement:
    """One tile, the masks and points of ``kept`` nuclei, and the scores of those that are lost."""
    none, scores = np.zeros(0, np.float32), np.array(lost, np.float32)
    pairs = np.zeros((kept, 2), np.int64)
    return Agreement(
        [TileAgreement(np.zeros(kept), scores, none, np.full(kept, iou), pairs, (kept, kept + len(lost)), pq=0.9)]
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
