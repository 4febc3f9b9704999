"""Boxes and masks on small canvases, drawn at random."""

import numpy as np
from hypothesis import strategies as st


def full_size(boxes, masks, shape):
    maps = np.zeros((len(masks), *shape), bool)
    for canvas, (x0, y0, x1, y1), mask in zip(maps, boxes, masks, strict=True):
        canvas[y0:y1, x0:x1] = mask
    return maps


@st.composite
def random_boxes(draw):
    count = draw(st.integers(0, 30))
    side = st.one_of(st.integers(1, 12), st.integers(1, 80))
    rows = [
        (x, y, x + w, y + h)
        for x, y, w, h in draw(
            st.lists(st.tuples(st.integers(0, 40), st.integers(0, 40), side, side), min_size=count, max_size=count)
        )
    ]
    scores = draw(st.lists(st.sampled_from([0.2, 0.5, 0.7, 0.9]), min_size=count, max_size=count))
    return np.array(rows, np.int32).reshape(-1, 4), np.array(scores, np.float32)
