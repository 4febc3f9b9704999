"""Rivals are what the paper measured: their counts are its, and on perfect maps they find what is there."""

import numpy as np
import pytest
import torch

pytest.importorskip("cellseg_models_pytorch", reason="install the extra peers: pip install '.[peers]'")

from benchmarks.counts import count
from benchmarks.paper import TABLE5
from benchmarks.peers import PEERS, open_peer
from benchmarks.peers.targets import centre_cells, distance, hover, star_rays
from benchmarks.tiles import make_tile
from pnseg_runtime.metrics import evaluate_pair


@pytest.fixture(scope="module", params=PEERS)
def rival(request):
    return request.param, open_peer(request.param)


def on_meta(peer):
    with torch.device("meta"):
        return peer.build().eval(), torch.empty(1, 3, 256, 256)


def test_counts_are_within_one_percent_of_what_the_paper_prints(rival):
    method, peer = rival
    network, image = on_meta(peer)
    counts, printed = count(network, lambda: network(image)), TABLE5[method]
    assert counts.paper_params / 1e6 == pytest.approx(printed.params_m, rel=0.01)
    assert counts.paper_macs / 1e9 == pytest.approx(printed.gmacs, rel=0.01)


def test_made_maps_have_the_names_and_shapes_of_the_networks(rival):
    _, peer = rival
    network, image = on_meta(peer)
    with torch.no_grad():
        raw = network(image)
        given = peer.activate(raw)
    assert tuple(raw) == peer.outputs
    tile = make_tile(24)
    for name, values in peer.maps(tile.labels, tile.classes).items():
        channels, height, width = given[name].shape[1:]
        assert values.shape[0] == channels
        assert values.dtype == np.float32
        # HoVer-Net's maps of a tile are smaller than the tile; the made ones are of all of it.
        assert values.shape[1:] in {(height, width), (256, 256)}


@pytest.mark.parametrize("nuclei", [0, 1, 24, 150])
def test_post_processing_of_perfect_maps_finds_every_nucleus(rival, nuclei):
    method, peer = rival
    tile = make_tile(nuclei)
    found = peer.finish(peer.maps(tile.labels, tile.classes))
    metrics = evaluate_pair(tile.labels, found)
    assert metrics["dq"] > 0.85, method
    assert metrics["sq"] > 0.85 or nuclei == 0, method


def test_rays_of_a_disc_have_its_radius():
    y, x = np.mgrid[:64, :64]
    labels = ((x - 32) ** 2 + (y - 32) ** 2 <= 15**2).astype(np.int32)
    rays = star_rays(labels, 32)
    assert np.allclose(rays[:, 32, 32], 15.5, atol=1)
    assert not rays[:, labels == 0].any()
    # From a pixel on the right, the ray to the right is short and the one to the left is long.
    assert rays[0, 32, 42] < 6.5 < 24 < rays[16, 32, 42]


def test_distances_and_offsets_belong_to_each_nucleus_alone():
    labels = np.zeros((32, 32), np.int32)
    labels[4:14, 4:14], labels[4:14, 14:20] = 1, 2  # they touch
    assert distance(labels)[labels == 1].max() == distance(labels)[labels == 2].max() == 1
    x, y = hover(labels)
    assert (x[8, 4], x[8, 13], x[8, 14], x[8, 19]) == (-1, 1, -1, 1)
    assert (y[4, 8], y[13, 8]) == (-1, 1)
    assert not x[labels == 0].any()


def test_every_nucleus_has_a_cell_at_its_centre():
    labels = np.zeros((64, 64), np.int32)
    labels[0:3, 0:3], labels[20:44, 20:60] = 1, 2
    cells = {number: (rows, columns) for number, rows, columns in centre_cells(labels, 4)}
    assert cells[1] == (slice(0, 1), slice(0, 1))
    rows, columns = cells[2]
    assert rows.start <= 8 < rows.stop
    assert columns.stop - columns.start > 1
