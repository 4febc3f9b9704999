import numpy as np
import pytest

from pnseg_train.datasets import Sample
from pnseg_train.datasets.sheet import CAPTION, COLORS, WINDOW, ZOOM, contact_sheet, draw_cell, draw_outlines
from tests.train.datasets.made import boxes_map


def test_outlines_run_along_the_edges_of_the_enlarged_pixels():
    instances = boxes_map({4: (5, 6, 15, 12)}, (30, 40))
    canvas = np.zeros((60, 80, 3), np.uint8)
    draw_outlines(canvas, instances, (2 * (instances > 0)).astype(np.uint8))
    ink = canvas.sum(axis=2, dtype=float)
    # Edges at 10 and 30, 12 and 24 px of the sheet, where pixel centres lie half a pixel lower.
    assert np.average(np.arange(80), weights=ink.sum(axis=0)) == pytest.approx(19.5, abs=0.1)
    assert np.average(np.arange(60), weights=ink.sum(axis=1)) == pytest.approx(17.5, abs=0.1)
    ys, xs = np.nonzero(ink)
    assert (xs.min(), ys.min()) >= (8, 10)
    assert (xs.max(), ys.max()) <= (31, 25)
    inner = canvas[14:22, 12:28]
    assert not inner.any()
    # Anti-aliased, so no brighter than the colour of class 2.
    assert (canvas[18, 9:11].max(axis=0) <= COLORS[1]).all()
    assert canvas[18, 9:11].any()


def test_a_cell_shows_the_middle_and_leaves_white_what_is_missing():
    image = np.zeros((100, 400, 3), np.uint8)
    image[:, 200] = 255
    blank = np.zeros((100, 400), np.int32)
    cell = draw_cell(Sample("s", image, blank, blank.astype(np.uint8)), "")
    assert cell.shape == (CAPTION + ZOOM * WINDOW, ZOOM * WINDOW, 3)
    assert (cell[CAPTION + 200 :] == 255).all()
    assert cell[CAPTION + 50, ZOOM * (200 - 72)].min() > 200
    assert cell[CAPTION + 50, 20].max() < 30


def test_the_last_row_of_a_sheet_is_filled_with_white():
    cells = [np.full((4, 6, 3), value, np.uint8) for value in range(5)]
    sheet = contact_sheet(cells, columns=3)
    assert sheet.shape == (8, 18, 3)
    assert sheet[0, ::6, 0].tolist() == [0, 1, 2]
    assert sheet[4, ::6, 0].tolist() == [3, 4, 255]
    assert contact_sheet(cells[:2], columns=3).shape == (4, 12, 3)
