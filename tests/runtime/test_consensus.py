"""Points on which views agree."""

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from pnseg_runtime.consensus import SLACK, agreed_points, judged_points
from pnseg_runtime.options import Options
from pnseg_runtime.prompts import PointPrompts, decode_points
from pnseg_runtime.views import SIX
from tests.fakes import FakeNetworks
from tests.runtime.test_pipeline import by_position, marked_image, scattered_discs, segment


def points_of(*rows):
    """Points from (x, y, class, judgement)."""
    table = np.array(rows, np.float32).reshape(-1, 4)
    return PointPrompts(table[:, :2], table[:, 2].astype(np.int64), table[:, 3])


@given(st.sampled_from(SIX), st.integers(1, 40), st.integers(1, 40), st.data())
def test_a_point_of_a_view_returns_to_its_pixel_of_the_image(view, height, width, data):
    x, y = data.draw(st.integers(0, width - 1)), data.draw(st.integers(0, height - 1))
    image = np.zeros((height, width, 3), np.uint8)
    image[y, x] = 255
    rows, columns, _ = np.nonzero(view.pixels(image)[..., :1])
    found = np.array([[columns[0], rows[0]]], np.float32)
    assert view.returned(found, (height, width)).tolist() == [[x, y]]


@pytest.mark.parametrize("sensitivity", [0.0, 1.6])
def test_judgements_are_log_odds_against_the_background_and_reach_a_little_below_the_threshold(sensitivity):
    rng = np.random.default_rng(0)
    coords = rng.uniform(0, 99, (400, 2)).astype(np.float32)
    logits = rng.normal(0, 3, (400, 3)).astype(np.float32)
    coords[7] = np.nan
    judged = judged_points(coords, logits, (100, 100), sensitivity)
    odds = logits[:, :2].max(axis=1) - logits[:, 2] + np.float32(sensitivity)
    expected = (odds > -SLACK) & np.isfinite(coords).all(axis=1)
    np.testing.assert_array_equal(judged.coords, coords[expected])
    np.testing.assert_array_equal(judged.scores, odds[expected])
    sure = judged.select(judged.scores > 0)
    plain = decode_points(coords, logits, (100, 100), sensitivity)
    np.testing.assert_array_equal(sure.coords, plain.coords)
    np.testing.assert_array_equal(sure.classes, plain.classes)


@pytest.mark.parametrize("sensitivity", [1.6, 0.0, 0.7, -1.3])
def test_every_judged_point_has_its_judgement_however_near_the_edge_its_logits_are(sensitivity):
    background = np.random.default_rng(1).normal(3, 3, 20_000).astype(np.float32)
    edge = (background.astype(np.float64) - sensitivity - SLACK).astype(np.float32)
    for steps in range(-4, 5):  # to the next float32, up or down
        nucleus = edge
        for _ in range(abs(steps)):
            nucleus = np.nextafter(nucleus, np.float32(np.copysign(np.inf, steps)))
        logits = np.stack([nucleus, background], axis=1)
        coords = np.stack([np.arange(len(logits)), np.zeros(len(logits))], axis=1).astype(np.float32)
        judged = judged_points(coords, logits, (1, len(logits)), sensitivity)
        assert len(judged.coords) == len(judged.classes) == len(judged.scores)
        own = logits[judged.coords[:, 0].astype(int)]
        np.testing.assert_array_equal(judged.scores, own[:, 0] - own[:, 1] + np.float32(sensitivity))
        plain = decode_points(coords, logits, (1, len(logits)), sensitivity + SLACK)
        np.testing.assert_array_equal(judged.coords, plain.coords)


def test_an_anchor_on_the_edge_of_doubt_is_a_point_with_a_judgement_or_none():
    logits = np.array([[1.4367527, 4.0367527], [5.0, 0.0]], np.float32)
    judged = judged_points(np.array([[3, 4], [5, 6]], np.float32), logits, (9, 9), 1.6)
    assert len(judged.coords) == len(judged.classes) == len(judged.scores)
    assert judged.coords[-1].tolist() == [5, 6]
    assert judged.scores[-1] == np.float32(6.6)


def test_an_anchor_whose_logits_are_no_numbers_is_judged_nowhere():
    logits = np.array([[np.nan, 0, 0], [0, np.nan, 0], [1, 0, np.nan], [np.nan] * 3, [5, 0, 0]], np.float32)
    judged = judged_points(np.tile(np.arange(5, dtype=np.float32)[:, None], 2), logits, (9, 9), 0.0)
    assert judged.coords.tolist() == [[4, 4]]
    assert judged.scores.tolist() == [5]


def test_what_most_views_see_stays_at_the_mean_place_with_the_class_of_most():
    views = [points_of((10 + shift, 20, shift == 0, 2.0)) for shift in (0, 1, 2)]
    agreed = agreed_points(views, radius=3)
    np.testing.assert_allclose(agreed.coords, [[11, 20]] * 3)
    assert agreed.classes.tolist() == [0, 0, 0]
    np.testing.assert_allclose(agreed.scores, 1 / (1 + np.exp(-2.0)), rtol=1e-6)


def test_a_class_that_the_first_view_does_not_see_may_have_most_of_the_views():
    views = [points_of((10, 20, kind, 2.0)) for kind in (0, 1, 1)]
    assert agreed_points(views, radius=3).classes.tolist() == [1, 1, 1]


def test_what_one_view_sees_and_the_others_do_not_goes_unless_that_one_is_sure():
    absent = points_of((90, 90, 0, 5.0))
    for judgement, stays in ((1.9, False), (2.0, False), (2.1, True)):  # with two silent views at −1 each
        found = agreed_points([points_of((10, 10, 0, judgement)), absent, absent], radius=3)
        assert ([10, 10] in found.coords.tolist()) == stays


def test_doubtful_points_of_all_views_stay_away_and_one_sure_view_carries_them():
    doubtful = points_of((10, 10, 0, -0.4))
    assert not len(agreed_points([doubtful] * 6, radius=3))
    assert len(agreed_points([doubtful] * 5 + [points_of((10, 10, 0, 3.0))], radius=3)) == 6


def test_views_without_points_agree_on_nothing():
    assert not len(agreed_points([points_of()] * 6, radius=3))
    assert not len(agreed_points([points_of((1, 1, 0, 0.5)), *[points_of()] * 5], radius=3))


@settings(max_examples=10, deadline=None)
@given(height=st.integers(40, 300), width=st.integers(40, 300), seed=st.integers(0, 100))
def test_networks_that_turn_with_their_image_give_the_same_nuclei(height, width, seed):
    image = marked_image((height, width), scattered_discs((height, width), seed))
    plain, _ = segment(image)
    agreed, networks = segment(image, Options(tta_points=True))
    assert by_position(agreed) == by_position(plain)
    assert len(networks.prompter_shapes) == len(SIX)


class Moody(FakeNetworks):
    """Sees nothing in one of the views."""

    def prompter(self, inputs):
        raw = super().prompter(inputs)
        if len(self.prompter_shapes) == 3:
            raw["class_logits"][..., :-1] = -30
        return raw


def test_one_view_that_sees_nothing_takes_away_no_sure_nucleus(monkeypatch):
    monkeypatch.setattr("tests.runtime.test_pipeline.FakeNetworks", Moody)
    image = marked_image((200, 260), [(x, y, 8, 0, 200) for x in (40, 120, 200) for y in (50, 150)])
    found, _ = segment(image, Options(tta_points=True))
    assert len(found) == 6


@pytest.mark.parametrize(("moved", "place"), [(2, 40 + 2 / 6), (3, 40)])
def test_views_mean_one_nucleus_by_points_nearer_than_two_thirds_of_the_radius_of_the_nms(moved, place, monkeypatch):
    class Shifted(FakeNetworks):
        def prompter(self, inputs):
            raw = super().prompter(inputs)
            if len(self.prompter_shapes) == 1:
                raw["points"][..., 0] += moved
            return raw

    monkeypatch.setattr("tests.runtime.test_pipeline.FakeNetworks", Shifted)
    found, _ = segment(marked_image((96, 96), [(40, 50, 8, 0, 200)]), Options(tta_points=True))
    np.testing.assert_allclose(found.points, [[place, 50]], rtol=1e-6)
