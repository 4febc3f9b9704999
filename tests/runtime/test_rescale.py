"""Images of another resolution are seen at the model's, and everything found comes back to their own pixels."""

from dataclasses import replace

import numpy as np
import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st
from PIL import Image
from scipy import ndimage

from pnseg_runtime import load
from pnseg_runtime.errors import ImageError
from pnseg_runtime.images import read_image
from pnseg_runtime.metrics import match_points, panoptic_quality
from pnseg_runtime.nuclei import Nuclei, NucleusClass
from pnseg_runtime.prompts import PointPrompts
from pnseg_runtime.rescale import Rescaling
from tests.runtime.made import SAMPLES

sides = st.integers(1, 90)
shapes = st.tuples(sides, sides)


def nuclei_of(labels) -> Nuclei:
    boxes, masks = [], []
    for label, place in enumerate(ndimage.find_objects(labels), start=1):
        if place is not None:
            rows, columns = place
            boxes.append((columns.start, rows.start, columns.stop, rows.stop))
            masks.append(labels[place] == label)
    number = len(masks)
    return Nuclei(
        shape=labels.shape,
        points=np.array([((x0 + x1 - 1) / 2, (y0 + y1 - 1) / 2) for x0, y0, x1, y1 in boxes], np.float32).reshape(
            -1, 2
        ),
        classes=np.zeros(number, np.int64),
        scores=np.linspace(1, 0.5, number, dtype=np.float32),
        ious=np.ones(number, np.float32),
        boxes=np.array(boxes, np.int32).reshape(-1, 4),
        masks=tuple(masks),
        class_table=(NucleusClass("nucleus", (0, 0, 0)),),
    )


@pytest.mark.parametrize(
    ("mpp", "work"),
    [
        (None, (100, 60)),
        (0.25, (100, 60)),
        (0.24, (100, 60)),
        (0.239, (100, 60)),
        (0.237, (95, 57)),
        (0.5, (200, 120)),
        (0.125, (50, 30)),
    ],
)
def test_an_image_is_taken_as_it_is_if_it_fits_or_nothing_is_known_of_it(mpp, work):
    rescaling = Rescaling.between((100, 60), mpp, 0.25)
    assert rescaling.work == work
    assert rescaling.needed == (work != (100, 60))


@pytest.mark.parametrize(("side", "mpp"), [(15_000, 1.0), (5_001, 1.0), (20_000, 0.27)])
def test_an_image_that_would_be_too_large_at_the_models_resolution_is_refused_with_the_remedy(side, mpp):
    work = round(side * mpp / 0.25)
    with pytest.raises(ImageError, match=f"^{side}×{side} px at {mpp:g} .* {work}×{work} px .* run pnseg slide"):
        Rescaling.between((side, side), mpp, 0.25)


@pytest.mark.parametrize(("side", "mpp"), [(5_000, 1.0), (40_000, 0.125), (30_000, 0.25), (10, 0.05), (10, 5.0)])
def test_what_is_small_enough_at_the_models_resolution_or_seen_as_it_is_is_taken(side, mpp):
    assert Rescaling.between((side, side), mpp, 0.25).shape == (side, side)


def test_what_fits_is_not_copied():
    rgb = np.zeros((4, 5, 3), np.uint8)
    assert Rescaling.between((4, 5), 0.25, 0.25).image(rgb) is rgb


@given(shapes, shapes, st.integers(0, 2**31))
def test_nuclei_come_back_as_the_label_map_does_whose_pixels_are_looked_up_one_by_one(shape, work, seed):
    labels = np.random.default_rng(seed).integers(0, 4, work).astype(np.int32)
    back = Rescaling(shape, work).back(nuclei_of(labels)).instance_map()
    rows, columns = (
        np.minimum((np.arange(side) + 0.5) * (other / side), other - 1).astype(int)
        for side, other in zip(shape, work, strict=True)
    )
    expected = labels[rows[:, None], columns]
    assert back.shape == shape
    assert np.array_equal(back > 0, expected > 0)
    pairs = np.unique(np.stack([back[back > 0], expected[expected > 0]]), axis=1)
    assert len(set(pairs[0])) == len(set(pairs[1])) == pairs.shape[1], "two nuclei have become one, or one two"


@settings(max_examples=60, deadline=None)
@given(
    st.tuples(st.integers(1, 1200), st.integers(1, 40)),
    st.integers(500, 10_000).map(lambda number: number / 10_000),
    st.sets(st.integers(1, 4800), max_size=30),
    st.sets(st.integers(1, 160), max_size=3),
)
# Centres of px that lie on the very edge between two work px.
@example((500, 4), 0.2201, set(range(1, 500)), set())
@example((900, 4), 0.2201, set(range(1, 900)), set())
@example((1000, 4), 0.2201, set(range(1, 1000)), set())
@example((1000, 4), 0.22, set(range(1, 1000)), set())
@example((1001, 4), 0.4545, set(range(1, 2000)), set())
@example((999, 4), 0.499, set(range(1, 2000)), set())
@example((285, 285), 0.125, {61, 71}, {61, 71})
def test_boxes_that_tile_the_work_px_cover_each_px_once_as_the_nearest_neighbour_has_it(shape, mpp, below, right):
    rescaling = Rescaling.between(shape, mpp, 0.25)
    row, column = (
        np.searchsorted(sorted(cuts), np.arange(side), side="right")
        for cuts, side in zip((below, right), rescaling.work, strict=True)
    )
    labels = (row[:, None] * (len(right) + 1) + column + 1).astype(np.int32)
    nuclei = nuclei_of(labels)
    back = rescaling.back(replace(nuclei, classes=np.unique(labels).astype(np.int64)))
    covered, found = np.zeros(shape, int), np.zeros(shape, int)
    for (x0, y0, x1, y1), mask, label in zip(back.boxes, back.masks, back.classes, strict=True):
        covered[y0:y1, x0:x1] += mask
        found[y0:y1, x0:x1][mask] = label
    rows, columns = (
        np.minimum((np.arange(side) + 0.5) * (other / side), other - 1).astype(int)
        for side, other in zip(shape, rescaling.work, strict=True)
    )
    assert (covered == 1).all()
    np.testing.assert_array_equal(found, labels[rows[:, None], columns])


@given(shapes, shapes, st.integers(0, 2**31))
def test_boxes_fit_the_masks_that_come_back(shape, work, seed):
    labels = np.random.default_rng(seed).integers(0, 3, work).astype(np.int32)
    back = Rescaling(shape, work).back(nuclei_of(labels))
    for (x0, y0, x1, y1), mask in zip(back.boxes, back.masks, strict=True):
        assert mask.shape == (y1 - y0, x1 - x0)
        assert all(edge.any() for edge in (mask[0], mask[-1], mask[:, 0], mask[:, -1]))
        assert 0 <= x0 < x1 <= shape[1]
        assert 0 <= y0 < y1 <= shape[0]


@pytest.mark.parametrize("work", [(20, 30), (40, 60)])
def test_nuclei_that_come_back_have_the_types_of_others_and_the_images_resolution(work):
    nuclei = nuclei_of(np.ones(work, np.int32))
    back = Rescaling((20, 30), work, mpp=0.5).back(nuclei)
    assert back.mpp == 0.5
    for name in ("points", "classes", "scores", "ious", "boxes"):
        assert getattr(back, name).dtype == getattr(nuclei, name).dtype, name


@given(shapes, shapes)
def test_a_point_goes_there_and_comes_back(shape, work):
    coords = np.array([(0, 0), (shape[1] - 1, shape[0] - 1)], np.float32)
    rescaling = Rescaling(shape, work)
    moved = rescaling.points(PointPrompts(coords, np.zeros(2, np.int64), np.ones(2, np.float32))).coords
    whole = np.ones(work, np.int32)
    nuclei = nuclei_of(whole)
    back = rescaling.back(Nuclei(**{**vars(nuclei), "points": moved[:1]})).points
    assert np.allclose(back[0], coords[0], atol=1e-3)


@pytest.mark.parametrize("mpp", [0, -0.25, float("nan"), float("inf"), 0.00025, 250])
def test_microns_per_pixel_that_no_image_has_are_refused(mpp):
    with pytest.raises(ImageError, match=r"µm per pixel is not what an image has.*give None"):
        Rescaling.between((10, 10), mpp, 0.25)


def test_a_nucleus_that_rescaling_takes_apart_keeps_its_largest_piece_where_masks_are_tidy():
    labels = np.zeros((40, 40), np.int32)
    labels[2:12, 2:12] = labels[15:35, 15:35] = 1
    labels[11, 11:16] = labels[11:16, 15] = 1  # a bridge that no centre of the image's px falls on
    rescaling, nuclei = Rescaling((10, 10), (40, 40)), nuclei_of(labels)
    (apart,), (tidy,) = rescaling.back(nuclei).masks, rescaling.back(nuclei, tidy=True).masks
    assert ndimage.label(apart, np.ones((3, 3)))[1] == 2
    assert ndimage.label(tidy, np.ones((3, 3)))[1] == 1
    assert tidy.sum() == 25


@pytest.mark.parametrize("mpp", [0.25, 0.125, 0.1, 0.06])
def test_points_on_the_first_pixels_are_decoded_at_any_resolution(mpp):
    rgb = read_image(SAMPLES / "he_pink.png").pixels
    places = np.array([(0, 0), (0, 100), (100, 0), (0.4, 60)], np.float32)
    points, decoded = PointPrompts(places, np.zeros(4, np.int64), np.ones(4, np.float32)), []
    with load("nano", threads=1) as segmenter:
        decode = segmenter.sessions.decoder
        noted = replace(
            segmenter.sessions, decoder=lambda asked: decoded.append(len(asked["image_index"])) or decode(asked)
        )
        segmenter.pipeline.sessions = noted
        segmenter.predict(rgb, mpp, points=points)
    assert sum(decoded) == len(places)


@pytest.mark.parametrize("factor", [2, 3])
def test_the_centre_of_a_dot_stays_within_half_a_pixel_of_where_it_was(factor):
    rgb = np.full((61, 83, 3), 255, np.uint8)
    rgb[30, 40] = 0
    seen = Rescaling.between((61, 83), 0.25 * factor, 0.25).image(rgb)[..., 0]
    y, x = ndimage.center_of_mass(255.0 - seen)
    assert (y + 0.5) / factor - 0.5 == pytest.approx(30, abs=0.5)
    assert (x + 0.5) / factor - 0.5 == pytest.approx(40, abs=0.5)


@pytest.mark.parametrize(("factor", "least"), [(2, 0.9), (0.5, 0.6)])
def test_nano_finds_the_nuclei_of_an_image_in_a_copy_of_another_resolution(factor, least):
    image = read_image(SAMPLES / "he_pink.png").pixels
    height, width = image.shape[:2]
    copy = np.asarray(
        Image.fromarray(image).resize((int(width * factor), int(height * factor)), Image.Resampling.LANCZOS)
    )
    segmenter = load("nano")
    plain, found = segmenter.predict(image, mpp=0.25), segmenter.predict(copy, mpp=0.25 / factor)
    assert found.shape == copy.shape[:2]
    assert found.mpp == 0.25 / factor
    points = (found.points + 0.5) / factor - 0.5
    pairs = match_points(plain.points, points, 6.0).pairs
    assert 2 * len(pairs) / (len(plain) + len(found)) > least
    if factor > 1:
        rows, columns = (np.arange(side) * factor + factor // 2 for side in (height, width))
        assert panoptic_quality(plain.instance_map(), found.instance_map()[rows[:, None], columns])["pq"] > least
