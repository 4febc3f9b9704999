"""Two models on the same tiles: what is plainly wrong is told from what is rounded, and nothing from agreement."""

from dataclasses import replace

import numpy as np
import pytest

from pnseg_export.agreement import Agreement, TileAgreement, agreement, findings
from pnseg_export.gates import LIMITS, can_judge, shortfalls, told
from pnseg_export.precision.feeds import SAMPLES, read_tiles
from pnseg_runtime.bundle import Bundle
from pnseg_runtime.segmenter import Segmenter
from pnseg_runtime.sessions import open_sessions

SOUND = open_sessions(Bundle.open("nano"), cache=False)


def eager(inputs):
    """A prompter that takes much for nuclei."""
    given = dict(SOUND.prompter(inputs))
    given["class_logits"] = given["class_logits"] + np.float32([2.5, 0.0])  # the background is last
    return given


def half_blind(inputs):
    """A decoder that gives no mask to prompts on the left."""
    given = dict(SOUND.decoder(inputs))
    given["mask_logits"] = given["mask_logits"].copy()
    given["mask_logits"][inputs["point_coords"][:, 0, 0] < 128] = -20000
    return given


PLANTED = {
    "eager": (replace(SOUND, prompter=eager), "gained points come to"),
    "half blind": (replace(SOUND, decoder=half_blind), "of the nuclei are lost", "PQ against the reference"),
}


@pytest.fixture(scope="module")
def tiles() -> list[np.ndarray]:
    return read_tiles(SAMPLES)


@pytest.fixture(scope="module")
def found(tiles):
    return findings(Segmenter(Bundle.open("nano"), sessions=SOUND), tiles)


@pytest.mark.parametrize("fault", PLANTED)
def test_what_is_plainly_wrong_falls_short_in_every_precision(fault, tiles, found):
    sessions, *said = PLANTED[fault]
    wrong = agreement(found, findings(Segmenter(Bundle.open("nano"), sessions=sessions), tiles))
    assert wrong.mean_iou > 0.98  # of what both have, which does not show it
    assert wrong.share_lost < 0.01
    for precision, limits in LIMITS.items():
        sentences = "; ".join(shortfalls(wrong, limits))
        assert all(words in sentences for words in said), precision


@pytest.mark.parametrize("precision", LIMITS)
def test_a_model_agrees_with_itself_in_every_precision(precision, found):
    assert shortfalls(agreement(found, found), LIMITS[precision]) == []


def test_float32_is_held_to_more_than_what_is_rounded():
    exact = LIMITS["float32"]
    for precision, limits in LIMITS.items():
        assert limits.agreement < exact.agreement or precision == "float32"
        assert limits.gained > exact.gained or precision == "float32"
        assert limits.nuclei > exact.nuclei or precision == "float32"


@pytest.mark.parametrize("precision", LIMITS)
def test_nothing_is_judged_by_tiles_in_which_the_reference_finds_nothing(precision, tiles, found):
    blank = findings(Segmenter(Bundle.open("nano"), sessions=SOUND), [np.full_like(tile, 255) for tile in tiles])
    assert not any(len(finding.nuclei) for finding in blank)
    for candidate in (blank, found):  # nothing, and two hundred nuclei out of nothing
        judged = agreement(blank, candidate)
        assert not can_judge(judged)
        (sentence,) = shortfalls(judged, LIMITS[precision])
        assert sentence.startswith("the reference finds 0 nuclei in these images, too few to judge by")
    figures = agreement(blank, blank).figures()
    measured = ("points_moved_mean_px", "points_moved_max_px", "mask_iou_mean", "mask_iou_p5", "mask_iou_min")
    assert {figures[name] for name in (*measured, "pq_against_reference")} == {None}
    assert (figures["nuclei_reference"], figures["nuclei"], figures["tiles"]) == (0, 0, 6)


def test_every_nucleus_counts_the_same_in_pq_whatever_its_tile():
    counts = {"nuclei": (99, 99), "matched": 99, "pq": 1.0}
    none = np.zeros(0)
    empty = {"moved": none, "lost": none, "gained": none, "ious": none, "pairs": np.zeros((0, 2), np.int64)}
    crowded, sparse = TileAgreement(**empty, **counts), TileAgreement(**empty, nuclei=(2, 0), matched=0, pq=0.0)
    assert Agreement([crowded, sparse]).pq == pytest.approx(198 / 200)
    assert Agreement([crowded, sparse]).share_nuclei_gained == pytest.approx(2 / 99)


def test_help_texts_name_the_limits_themselves():
    assert told("iou", "int8") == f"{LIMITS['int8'].iou:g} for int8"
    assert told("iou", "float16", "int8") == "0.995 for float16 and 0.97 for int8"
