"""Tiles have the nuclei that were asked for, all of them real ones, and staged networks find them all."""

import numpy as np
import pytest

from benchmarks.staged import anchors_for, mask_logits, staged
from benchmarks.tiles import APART, SOURCE, make_tile, read_pairs
from pnseg_runtime.bundle import Bundle
from pnseg_runtime.errors import PnsegError
from pnseg_runtime.metrics import evaluate_pair
from pnseg_runtime.segmenter import Segmenter
from pnseg_runtime.sessions import open_sessions


@pytest.mark.parametrize("nuclei", [0, 1, 24, 60, 150])
def test_a_tile_has_the_nuclei_that_were_asked_for(nuclei):
    tile = make_tile(nuclei)
    assert tile.nuclei == nuclei == tile.labels.max()
    assert np.array_equal(np.unique(tile.labels), np.arange(nuclei + 1))
    assert np.array_equal(tile.classes > 0, tile.labels > 0)
    gaps = np.linalg.norm(tile.centres[:, None] - tile.centres, axis=-1) + 1e3 * np.eye(nuclei)
    assert nuclei < 2 or gaps.min() > APART


def test_a_sparse_tile_has_only_nuclei_of_its_own_image():
    tile = make_tile(24)
    _, labels = next(pair for pair in read_pairs(SOURCE) if np.array_equal(pair[0], tile.image))
    for number in range(1, 25):
        own = labels[tile.labels == number]
        assert len(np.unique(own)) == 1
        assert (labels == own[0]).sum() == (tile.labels == number).sum()


def test_more_nuclei_than_there_is_room_for_are_refused():
    with pytest.raises(PnsegError, match="no room for 900"):
        make_tile(900)


def test_a_folder_without_images_is_refused(tmp_path):
    with pytest.raises(PnsegError, match="no annotated images"):
        make_tile(3, tmp_path)


@pytest.mark.parametrize("nuclei", [0, 24, 150])
def test_the_pipeline_finds_every_nucleus_that_is_staged(nuclei):
    tile, bundle = make_tile(nuclei), Bundle.open("nano")
    spacing = bundle.manifest.prompting.anchor_spacing
    sessions = staged(open_sessions(bundle, threads=1), tile, spacing)
    found = Segmenter(bundle, sessions=sessions).predict(tile.image)
    assert len(found) >= 0.98 * nuclei  # boxes of neighbours may overlap by half, and then one goes
    assert evaluate_pair(tile.labels, found.instance_map())["dq"] > 0.97


def test_every_nucleus_has_an_anchor_of_its_own():
    points, logits = anchors_for(make_tile(150), (256, 256), 16, 5)
    assert points.shape == (1, 256, 2)
    assert (logits[0].argmax(axis=1) < 5).sum() == 150


def test_staged_logits_are_positive_where_the_nucleus_is():
    tile = make_tile(24)
    logits = mask_logits(tile, 64)
    for index, mask in enumerate(logits > 0):
        full = np.kron(mask, np.ones((4, 4), bool))
        nucleus = tile.labels == index + 1
        assert (full & nucleus).sum() / (full | nucleus).sum() > (0.6 if nucleus.sum() > 100 else 0.3)
