"""Graphs against networks: all outputs are compared, and what is not a number is over every tolerance."""

from types import SimpleNamespace

import numpy as np
import pytest
import torch

from pnseg_export import bundle as exporting
from pnseg_export.bundle import check
from pnseg_export.parity import TOLERANCE, largest, overall_pq, tensor_differences
from pnseg_export.precision.int8 import too_sensitive
from pnseg_runtime.bundle import PROMPT_INPUTS, SHIPPED, Bundle
from pnseg_runtime.errors import PnsegError
from pnseg_runtime.pixels import padded_shape
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


class Network:
    """A prompter and a segmentor of formulas; the masks of a prompt are its place and the pixels of its window."""

    def prompter(self, image):
        self.seen = tuple(image.shape)
        return SimpleNamespace(_asdict=lambda: {"points": torch.zeros(1, 4, 2)})

    def segmentor(self, image, prompts):
        means = image.mean(dim=(1, 3))[prompts.image_index]  # by rows, which a mirror turns round
        return SimpleNamespace(mask_logits=means + prompts.coords[:, :1, 1], iou=torch.zeros(len(prompts.coords)))

    def sessions(self, fault=lambda masks, index: masks) -> Sessions:
        def decoder(inputs):
            image, coords, index = (torch.from_numpy(inputs[name]) for name in ("image", *PROMPT_INPUTS[::2]))
            given = self.segmentor(image, SimpleNamespace(coords=coords, image_index=index))
            return {"mask_logits": fault(given.mask_logits.numpy(), index.numpy()), "iou": given.iou.numpy()}

        return Sessions(lambda _: {"points": np.zeros((1, 4, 2))}, lambda inputs: inputs, decoder)

    def differences(self, tile=TILE, **how) -> dict[str, float]:
        points, manifest = np.array([[10.0, 20.0], [40.0, 20.0]], np.float32), Bundle.open("nano").manifest
        return tensor_differences(self.sessions(**how), manifest, self.prompter, self.segmentor, tile, points)


FAULTS = {
    "wiped behind the first": lambda masks, index: np.where(index[:, None] > 0, -50.0, masks),
    "of the first for all": lambda masks, index: masks[np.arange(len(masks)) % max(1, (index == 0).sum())],
    "not finite": lambda masks, index: np.full_like(masks, np.inf),
}


@pytest.mark.parametrize("fault", FAULTS)
def test_a_decoder_that_is_wrong_for_other_windows_than_the_first_is_found(fault):
    rows = np.arange(256, dtype=np.uint8)[:, None, None]
    tile = np.broadcast_to(rows, (256, 256, 3))
    assert set(Network().differences(tile).values()) == {0.0}
    assert not Network().differences(tile, fault=FAULTS[fault])["mask_logits"] <= 1.0


@pytest.mark.parametrize("shape", [(1, 1), (20, 300), (256, 320)])
def test_the_prompter_is_compared_on_what_it_sees_of_a_tile_of_any_size(shape):
    network = Network()
    assert set(network.differences(np.zeros((*shape, 3), np.uint8)).values()) == {0.0}
    manifest = Bundle.open("nano").manifest
    assert network.seen == (1, 3, *padded_shape(shape, manifest.prompting.pad_multiple))


def graphs_that_find(share, monkeypatch):
    """Sound tensors; of what PyTorch finds, the graphs find a share. What was predicted, in turn."""
    predicted, labels = [], np.kron(np.arange(1, 101).reshape(10, 10), np.ones((8, 8), int))

    class Found:
        points = None

        def __init__(self, share):
            self.count = round(100 * share)

        def __len__(self):
            return self.count

        def instance_map(self):
            return np.where(labels <= self.count, labels, 0)

    def segmenter(bundle, sessions):
        found = Found(share if sessions == "graphs" else 1.0)
        return SimpleNamespace(predict=lambda tile: predicted.append(sessions) or found)

    for replaced, by in {
        "open_sessions": lambda *_, **__: "graphs",
        "torch_sessions": lambda *_: "PyTorch",
        "Segmenter": segmenter,
        "tensor_differences": lambda *_: dict.fromkeys(TOLERANCE, 0.0),
    }.items():
        monkeypatch.setattr(exporting, replaced, by)
    return predicted


def test_graphs_that_find_other_nuclei_than_pytorch_are_refused(monkeypatch):
    graphs_that_find(0.9, monkeypatch)
    with pytest.raises(PnsegError, match=r"have a PQ of 0\.9\d* against PyTorch's, at least 0\.98 is needed"):
        check(SHIPPED / "nano", None, None, [TILE, TILE])


def test_each_tile_is_predicted_once_by_each_model(monkeypatch):
    predicted = graphs_that_find(1.0, monkeypatch)
    assert check(SHIPPED / "nano", None, None, [TILE, TILE])["pq_against_pytorch"] == 1.0
    assert sorted(predicted) == ["PyTorch", "PyTorch", "graphs", "graphs"]


def test_a_model_that_finds_nothing_is_no_reason_to_refuse_its_graphs(monkeypatch):
    graphs_that_find(1.0, monkeypatch)
    assert check(SHIPPED / "nano", None, None, [])["nuclei_pytorch"] == 0
    assert overall_pq([{"nuclei_reference": 0, "nuclei": 0, "pq": 1.0}]) == 1.0
