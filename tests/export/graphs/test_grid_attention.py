"""One attention over the whole grid: what each query sees of it, and in what order its positions come."""

import numpy as np
import torch
from hypothesis import given
from hypothesis import strategies as st

from pnseg_export.graphs.encoder import EncoderGraph
from pnseg_export.graphs.grid_attention import UNSEEN, offset_table, shifted, unseen_places
from pnseg_export.graphs.positions import relative_positions
from pnseg_export.graphs.rewrites import GPU
from pnseg_export.onnx import export_graph
from pnseg_runtime.sessions.onnxruntime import open_session
from tests.export.networks import images, segmentor


@given(side=st.integers(1, 8), places=st.integers(1, 20))
def test_a_table_by_offset_is_read_by_place(side, places):
    offsets = torch.arange(side + places) - (side - 1)
    by_offset = offsets.expand(1, 2, 3, side, -1)
    expected = torch.arange(places) - torch.arange(side)[:, None]
    assert (shifted(by_offset, side, places) == expected).all()


@given(side=st.integers(1, 8), window=st.integers(1, 8))
def test_a_query_of_a_window_finds_the_windows_own_relative_positions(side, window):
    places = side + -side % window
    positions = relative_positions(torch.randn(2 * window - 1, 4), window)
    table = offset_table(positions, side, places)
    for query in range(side):
        start = query // window * window
        for key in range(start, min(start + window, places)):
            torch.testing.assert_close(table[:, key - query + side - 1], positions[query - start, key - start])


def test_a_query_sees_the_places_of_its_window_and_its_padding():
    places = unseen_places(side=5, places=10, window=3)
    seen = [[place for place in range(10) if places[query, place] == 0] for query in range(5)]
    assert seen == [[0, 1, 2]] * 3 + [[3, 4, 5]] * 2  # 5 lies in the padding, 6 and on in no window of the grid
    assert set(places.unique().tolist()) == {0.0, UNSEEN}


@torch.no_grad()
def test_the_graph_of_windows_that_attend_together_takes_any_number_of_images(tmp_path):
    network = segmentor("B")
    export_graph(EncoderGraph(network, GPU), (images(2),), tmp_path / "encoder.onnx")
    run = open_session(tmp_path / "encoder.onnx")
    for count in (1, 3):
        expected = network.image_encoder(images(count)).flatten(2).transpose(1, 2)
        expected = expected + network.prompt_encoder.no_mask_embed.weight
        given = run({"image": images(count).numpy()})["image_tokens"]
        np.testing.assert_allclose(given, expected, atol=1e-4)
