import numpy as np
from hypothesis import example, given
from hypothesis import strategies as st
from scipy.ndimage import gaussian_filter

from pnseg_runtime.masks import DecodedMasks
from pnseg_runtime.painting import largest_piece, paint, tidied
from tests.runtime.drawn import full_size, random_boxes


@given(random_boxes())
def test_painting_shows_the_most_confident_nucleus_of_every_pixel(boxes_and_scores):
    boxes, scores = boxes_and_scores
    masks = [np.ones((y1 - y0, x1 - x0), bool) for x0, y0, x1, y1 in boxes]
    order, visible_boxes, visible = paint(boxes, masks, scores, (130, 130))
    assert (np.diff(scores[order]) <= 0).all()
    shown = full_size(visible_boxes, visible, (130, 130))
    assert shown.sum(axis=0).max(initial=0) <= 1
    assert all(mask.any() for mask in visible)
    winner = np.full((130, 130), -1)
    for index in sorted(range(len(boxes)), key=lambda i: (scores[i], -i)):
        x0, y0, x1, y1 = boxes[index]
        winner[y0:y1, x0:x1] = index
    for index, mask in zip(order, shown, strict=True):
        np.testing.assert_array_equal(mask, winner == index)
    assert set(order) == set(np.unique(winner)) - {-1}


def test_a_nucleus_that_is_covered_completely_goes():
    boxes = np.array([[2, 2, 4, 4], [0, 0, 9, 9]], np.int32)
    masks = [np.ones((2, 2), bool), np.ones((9, 9), bool)]
    kept, _, _ = paint(boxes, masks, np.array([0.1, 0.9], np.float32), (10, 10))
    assert kept.tolist() == [1]


def pieces_of(seed: int) -> np.ndarray:
    return gaussian_filter(np.random.default_rng(seed).standard_normal((24, 30)), 1.5) > 0.05


@given(st.integers(0, 2**32 - 1))
@example(757)  # there is an island in a hole
def test_the_largest_piece_is_the_largest_that_an_outline_encloses(seed):
    from scipy.ndimage import binary_fill_holes, label

    mask = pieces_of(seed)
    # What lies inside an outline belongs to its piece, an island in a hole too.
    outlined, count = label(binary_fill_holes(mask), np.ones((3, 3)))
    areas = np.bincount(outlined[mask], minlength=count + 1)[1:]
    kept = largest_piece(mask)
    assert kept.sum() == areas.max(initial=0)
    assert not (kept & ~mask).any()
    assert label(binary_fill_holes(kept), np.ones((3, 3)))[1] <= 1
    filled = largest_piece(mask, fill=True)
    # OpenCV joins pieces that touch at a corner, so a hole is what 4-connected background encloses.
    assert (filled >= largest_piece(mask)).all()
    assert np.array_equal(filled, binary_fill_holes(filled))


def test_of_equally_large_pieces_the_first_one_stays():
    mask = np.zeros((9, 12), bool)
    mask[4:6, 1:3] = mask[1:3, 8:10] = mask[1:3, 4:6] = True
    assert np.argwhere(largest_piece(mask)).tolist() == [[1, 4], [1, 5], [2, 4], [2, 5]]


def test_a_tidied_mask_has_one_piece_without_holes_in_a_box_that_fits():
    mask = np.zeros((10, 20), bool)
    mask[2:9, 3:10] = True
    mask[5, 6] = False
    mask[0, 15:18] = True
    found = tidied(DecodedMasks(np.array([4]), np.array([0.5], np.float32), np.array([[100, 50, 120, 60]]), [mask]))
    assert found.boxes.tolist() == [[103, 52, 110, 59]]
    assert found.masks[0].all()
    assert found.points.tolist() == [4]


def test_a_nucleus_that_another_cuts_in_two_keeps_its_larger_piece_when_tidy():
    boxes = np.array([[0, 0, 10, 3], [3, 0, 5, 3]], np.int32)
    masks = [np.ones((3, 10), bool), np.ones((3, 2), bool)]
    ious = np.array([0.5, 0.9], np.float32)
    _, whole, _ = paint(boxes, masks, ious, (3, 10))
    _, tidy, _ = paint(boxes, masks, ious, (3, 10), tidy=True)
    assert whole.tolist() == [[3, 0, 5, 3], [0, 0, 10, 3]]
    assert tidy.tolist() == [[3, 0, 5, 3], [5, 0, 10, 3]]


def test_more_nuclei_than_16_bits_hold_are_all_painted():
    place = np.arange(66_000)
    boxes = np.stack([place % 300, place // 300, place % 300 + 1, place // 300 + 1], axis=1).astype(np.int32)
    kept, _, _ = paint(boxes, [np.ones((1, 1), bool)] * len(boxes), np.ones(len(boxes), np.float32), (220, 300))
    np.testing.assert_array_equal(kept, place)


def test_tidying_leaves_the_masks_that_were_given_alone():
    ring = np.ones((5, 5), bool)
    ring[2, 2] = ring[:, 0] = False
    given_ = DecodedMasks(np.array([0]), np.ones(1, np.float32), np.array([[10, 20, 15, 25]], np.int32), [ring])
    assert tidied(given_).boxes.tolist() == [[11, 20, 15, 25]]
    assert given_.boxes.tolist() == [[10, 20, 15, 25]]
    assert given_.masks[0] is ring


def test_a_nucleus_of_two_pieces_that_nothing_covers_keeps_its_larger_one_when_tidy():
    mask = np.ones((3, 10), bool)
    mask[:, 3:5] = False
    boxes, ious = np.array([[0, 0, 10, 3]], np.int32), np.ones(1, np.float32)
    for tidy, expected in ((False, [0, 0, 10, 3]), (True, [5, 0, 10, 3])):
        assert paint(boxes, [mask], ious, (3, 10), tidy)[1].tolist() == [expected]


def test_a_nucleus_that_another_lies_in_gives_it_its_pixels_when_tidy():
    boxes = np.array([[0, 0, 9, 9], [3, 3, 6, 6]], np.int32)
    masks = [np.ones((9, 9), bool), np.ones((3, 3), bool)]
    _, _, (inner, outer) = paint(boxes, masks, np.array([0.5, 0.9], np.float32), (9, 9), tidy=True)
    assert (inner.sum(), outer.sum()) == (9, 72)
