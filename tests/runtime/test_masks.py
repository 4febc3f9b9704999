import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy.ndimage import gaussian_filter

from pnseg_runtime.masks import (
    DecodedMasks,
    MaskLogits,
    best_per_point,
    best_whole_masks,
    crop_masks,
    tighten,
    touches_inner_border,
    upsample,
)
from tests import golden
from tests.runtime.drawn import full_size

WINDOW = 256


def bilinear(logits, factor):
    """Upsampling written out: half-pixel centres, the edge repeated."""
    size = logits.shape[-1]
    source = np.clip((np.arange(size * factor) + 0.5) / factor - 0.5, 0, size - 1)
    low = source.astype(int)
    high = np.minimum(low + 1, size - 1)
    weight = source - low
    rows = logits[:, low] * (1 - weight)[None, :, None] + logits[:, high] * weight[None, :, None]
    return rows[:, :, low] * (1 - weight) + rows[:, :, high] * weight


def blobs(seed, size, count=4):
    """Smooth random logits with a few positive regions, also at the borders."""
    noise = np.random.default_rng(seed).normal(size=(count, size, size))
    return np.stack([gaussian_filter(n, size / 16) * size / 8 - 0.2 for n in noise]).astype(np.float32)


def test_upsampled_logits_are_those_of_the_reference_implementation():
    recorded = golden.arrays("segmentor_tiny")
    for row, expected in zip(recorded["pred_masks_rows"], recorded["pred_masks"], strict=True):
        np.testing.assert_allclose(upsample(recorded["low_res_masks"][row, 0], 4), expected, atol=1e-6)


def test_cropped_masks_are_the_positive_part_of_the_full_upsampling_of_recorded_logits():
    logits = golden.arrays("segmentor_tiny")["low_res_masks"][:, 0]
    boxes, masks = crop_masks(logits, np.zeros((len(logits), 2), int), WINDOW, (WINDOW, WINDOW))
    expected = np.stack([upsample(low, 4) for low in logits]) > 0
    np.testing.assert_array_equal(full_size(boxes, masks, (WINDOW, WINDOW)), expected)


@settings(deadline=None)
@given(st.integers(0, 10_000), st.sampled_from([64, 128]))
def test_cropped_masks_are_the_positive_part_of_the_full_upsampling(seed, size):
    logits = blobs(seed, size)
    boxes, masks = crop_masks(logits, np.zeros((len(logits), 2), int), WINDOW, (WINDOW, WINDOW))
    expected = bilinear(logits.astype(np.float64), WINDOW // size)
    np.testing.assert_array_equal(full_size(boxes, masks, (WINDOW, WINDOW)), expected > 0)


def test_masks_agree_with_pytorch():
    torch = pytest.importorskip("torch")
    logits = blobs(7, 64)
    full = torch.nn.functional.interpolate(
        torch.from_numpy(logits)[:, None], (WINDOW, WINDOW), mode="bilinear", align_corners=False
    )
    boxes, masks = crop_masks(logits, np.zeros((len(logits), 2), int), WINDOW, (WINDOW, WINDOW))
    np.testing.assert_array_equal(full_size(boxes, masks, (WINDOW, WINDOW)), full[:, 0].numpy() > 0)


@given(st.integers(0, 10_000), st.tuples(st.integers(1, 400), st.integers(1, 400)))
def test_masks_lie_where_their_window_lies_and_end_at_the_image(seed, shape):
    rng = np.random.default_rng(seed)
    logits = blobs(seed, 64)
    origins = np.stack([rng.integers(0, max(side - WINDOW, 0) + 1, len(logits)) for side in shape[::-1]], axis=1)
    boxes, masks = crop_masks(logits, origins, WINDOW, shape)
    for low, (x, y), box, mask in zip(logits, origins, boxes, masks, strict=True):
        canvas = np.zeros((y + WINDOW, x + WINDOW), bool)
        canvas[y:, x:] = upsample(low, 4) > 0
        np.testing.assert_array_equal(full_size([box], [mask], shape)[0], _fitted(canvas, shape))
        if mask.size:
            assert mask[0].any()
            assert mask[-1].any()
            assert mask[:, 0].any()
            assert mask[:, -1].any()


def _fitted(canvas, shape):
    fitted = np.zeros(shape, bool)
    part = canvas[: shape[0], : shape[1]]
    fitted[: part.shape[0], : part.shape[1]] = part
    return fitted


def test_a_mask_without_a_positive_logit_is_empty():
    boxes, masks = crop_masks(np.full((1, 64, 64), -1, np.float32), np.array([[5, 6]]), WINDOW, (300, 300))
    x0, y0, x1, y1 = boxes[0]
    assert (x1 - x0, y1 - y0) == (0, 0)
    assert masks[0].size == 0


def test_a_mask_keeps_no_memory_of_what_lies_around_it():
    logits = np.full((1, 64, 64), -1, np.float32)
    logits[0, 10:12, 20:50] = 1
    _, (mask,) = crop_masks(logits, np.zeros((1, 2), int), WINDOW, (WINDOW, WINDOW))
    assert mask.base is None


def test_tightening_keeps_the_true_pixels_in_their_place():
    mask = np.zeros((5, 6), bool)
    mask[1, 2] = mask[3, 4] = True
    box, cropped = tighten(mask, (10, 20))
    assert box == (12, 21, 15, 24)
    assert cropped.tolist() == [[True, False, False], [False, False, False], [False, False, True]]


@pytest.mark.parametrize(
    ("box", "touches"),
    [
        ((60, 60, 200, 200), False),
        ((0, 60, 40, 200), False),  # at the image's left border
        ((60, 60, 248, 200), False),
        ((60, 200, 200, 256), False),  # at its lower border
        ((60, 60, 256, 200), True),
        ((60, 0, 250, 200), True),
    ],
)
def test_only_borders_inside_the_image_cut_masks(box, touches):
    found = touches_inner_border(np.array([box], np.int32), np.array([[0, 0]]), WINDOW, (256, 448))
    assert found.tolist() == [touches]


@pytest.mark.parametrize(("edge", "touches"), [(249, False), (250, True), (256, True)])
def test_the_margin_is_inclusive_on_the_far_side(edge, touches):
    box = np.array([[100, 100, edge, 120]], np.int32)
    assert touches_inner_border(box, np.array([[0, 0]]), WINDOW, (256, 448)).tolist() == [touches]


@pytest.mark.parametrize(("start", "touches"), [(192, True), (199, True), (200, False)])
def test_the_margin_is_inclusive_on_the_near_side(start, touches):
    box = np.array([[start, 100, 230, 120]], np.int32)
    assert touches_inner_border(box, np.array([[192, 0]]), WINDOW, (256, 448)).tolist() == [touches]


def test_the_best_mask_of_a_point_has_the_highest_predicted_iou_and_of_equal_ones_is_the_first():
    points, ious = np.array([3, 1, 3, 1, 3]), np.array([0.5, 0.7, 0.9, 0.7, 0.9], np.float32)
    assert best_per_point(points, ious).tolist() == [1, 2]


@settings(deadline=None)
@given(st.integers(0, 10_000), st.integers(0, 12), st.sampled_from([(WINDOW, WINDOW), (300, 448)]), st.booleans())
def test_the_best_whole_mask_of_a_point_is_the_best_of_those_that_are_neither_cut_nor_empty(seed, count, shape, told):
    rng = np.random.default_rng(seed)
    logits = np.concatenate([blobs(seed + i, 64, 1) for i in range(count)] + [np.empty((0, 64, 64), np.float32)])
    logits[rng.random(count) < 0.2] = -1
    origins = np.stack([rng.integers(0, side - WINDOW + 1, count) for side in shape[::-1]], axis=1)
    ious = rng.integers(0, 4, count).astype(np.float32)  # few values, so that some are equal
    classes = rng.integers(0, 3, count) if told else None
    found = MaskLogits(rng.integers(0, 5, count), origins, ious, logits, classes)

    boxes, masks = crop_masks(logits, origins, WINDOW, shape)
    whole = ~touches_inner_border(boxes, origins, WINDOW, shape, 3) & (boxes[:, 0] < boxes[:, 2])
    every = DecodedMasks(found.points, ious, boxes, masks, classes).select(whole)
    expected = every.select(best_per_point(every.points, every.ious))
    best = best_whole_masks(found, WINDOW, shape, 3)
    best = best.select(np.argsort(best.points))
    np.testing.assert_array_equal(best.points, expected.points)
    np.testing.assert_array_equal(best.boxes, expected.boxes)
    np.testing.assert_array_equal(best.ious, expected.ious)
    assert all(np.array_equal(a, b) for a, b in zip(best.masks, expected.masks, strict=True))
    if told and len(best.points):
        np.testing.assert_array_equal(best.classes, expected.classes)


def test_a_mask_is_cropped_only_if_those_that_are_more_certain_are_cut_or_empty(monkeypatch):
    asked = []

    def counted(logits, *rest):
        asked.append(len(logits))
        return crop_masks(logits, *rest)

    monkeypatch.setattr("pnseg_runtime.masks.crop_masks", counted)
    logits = np.full((6, 64, 64), -1, np.float32)
    logits[[0, 1, 2, 4, 5], 30:34, 30:34] = 1  # of the second point's masks the more certain one is empty
    points, ious = np.array([0, 1, 2, 1, 0, 2]), np.array([0.5, 0.5, 0.5, 0.9, 0.4, 0.6], np.float32)
    best = best_whole_masks(MaskLogits(points, np.zeros((6, 2), int), ious, logits), WINDOW, (WINDOW, WINDOW))
    assert asked == [3, 1]
    assert dict(zip(best.points.tolist(), best.ious.tolist(), strict=True)) == pytest.approx({0: 0.5, 1: 0.5, 2: 0.6})


def test_joining_no_masks_gives_an_empty_table():
    empty = DecodedMasks.joined([])
    assert (empty.points.shape, empty.ious.shape, empty.boxes.shape, empty.masks) == ((0,), (0,), (0, 4), [])


def test_masks_that_are_moved_keep_the_type_of_their_boxes():
    boxes = np.array([[1, 2, 3, 4]], np.int32)
    moved = DecodedMasks(np.zeros(1, np.intp), np.ones(1, np.float32), boxes, [np.ones((2, 2), bool)]).shifted((10, 20))
    assert moved.boxes.tolist() == [[11, 22, 13, 24]]
    assert moved.boxes.dtype == np.int32
