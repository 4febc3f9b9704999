"""Graphs against networks: all outputs are compared, and what is not a number is over every tolerance."""

from types import SimpleNamespace

import numpy as np
import pytest
import torch

from pnseg_export import bundle as exporting
from pnseg_export.bundle import check
from pnseg_export.parity import TOLERANCE, largest, tensor_differences
from pnseg_export.precision.int8 import too_sensitive
from pnseg_runtime.bundle import SHIPPED, Bundle
from pnseg_runtime.errors import PnsegError
from pnseg_runtime.sessions import Sessions

TILE = np.zeros((256, 256, 3), np.uint8)


@pytest.mark.parametrize("name", TOLERANCE)
@pytest.mark.parametrize("sound_first", [True, False])
def test_a_difference_that_is_not_a_number_is_over_every_tolerance(name, sound_first, monkeypatch):
    sound = dict.fromkeys(TOLERANCE, 0.0)
    rows = [sound, sound | {name: float("nan")}]
    found = iter(rows if sound_first else rows[::-1])
    model = SimpleNamespace(predict=lambda tile: SimpleNamespace(points=None))
    for replaced, by in {
        "open_sessions": lambda *_, **__: None,
        "torch_sessions": lambda *_: None,
        "Segmenter": lambda *_, **__: model,
        "agreement": lambda *_: {},
        "tensor_differences": lambda *_: next(found),
    }.items():
        monkeypatch.setattr(exporting, replaced, by)
    with pytest.raises(PnsegError, match=f"{name} of the exported graph differs from PyTorch by nan"):
        check(SHIPPED / "nano", None, None, [TILE, TILE])


def test_the_largest_of_several_differences_is_not_a_number_where_one_is_not():
    assert np.isnan(largest([{"iou": 1.0}, {"iou": float("nan")}, {"iou": 2.0}])["iou"])
    assert largest([{"iou": 1.0}, {"points": 3.0}, {"iou": 2.0}]) == {"iou": 2.0, "points": 3.0}


def test_a_layer_whose_error_is_not_a_number_stays_in_float32():
    assert set(too_sensitive({"sound": 0.01, "broken": float("nan")}, 0.02)) == {"broken"}


@pytest.mark.parametrize("points", [[], [[300.0, 300.0]], [[10.0, 20.0], [40.0, 20.0]]])
def test_the_decoder_is_compared_wherever_points_lie(points):
    """In the first window or not, or nowhere: a grid of prompts stands in."""

    def prompter(image):
        return SimpleNamespace(_asdict=lambda: {"points": torch.zeros(1, 4, 2)})

    def segmentor(image, prompts):
        return SimpleNamespace(mask_logits=torch.zeros(len(prompts.coords), 4, 4), iou=torch.zeros(len(prompts.coords)))

    def decoder(inputs):
        count = len(inputs["point_coords"])
        return {"mask_logits": np.full((count, 4, 4), 0.5), "iou": np.full(count, 0.25)}

    sessions = Sessions(lambda _: {"points": np.zeros((1, 4, 2))}, lambda _: {}, decoder)
    given = np.array(points, np.float32).reshape(-1, 2)
    found = tensor_differences(sessions, Bundle.open("nano").manifest, prompter, segmentor, TILE, given)
    assert found == {"points": 0.0, "mask_logits": 0.5, "iou": 0.25}
