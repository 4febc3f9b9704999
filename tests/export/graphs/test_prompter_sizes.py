"""The prompter's graph takes every size that the reference implementation pads to."""

import numpy as np
import onnxruntime
import pytest
import torch

from pnseg_export.bundle import export_prompter
from pnseg_train.models.prompter import Prompter
from tests.export import networks
from tests.train.models.test_golden import load_prompter

pytestmark = pytest.mark.slow

SIZES = [(32, 32), (40, 56), (72, 104), (216, 280)]


@pytest.fixture(scope="module", params=["published", "nano"])
def prompter(request) -> Prompter:
    return networks.prompter() if request.param == "nano" else load_prompter("prompter_pannuke")


@pytest.fixture(scope="module")
def session(prompter, exported, tmp_path_factory) -> onnxruntime.InferenceSession:
    if prompter is networks.prompter():
        return onnxruntime.InferenceSession(exported(("nano", "cpu")) / "prompter.onnx")
    folder = tmp_path_factory.mktemp("prompter")
    return onnxruntime.InferenceSession(folder / export_prompter(prompter, folder).file)


@pytest.mark.parametrize("size", SIZES)
@torch.no_grad()
def test_any_multiple_of_the_anchor_spacing_gives_the_networks_numbers(prompter, session, size):
    image = torch.randn(1, 3, *size, generator=torch.Generator().manual_seed(sum(size)))
    given = session.run(None, {"image": image.numpy()})
    for expected, array in zip(prompter(image), given, strict=True):
        np.testing.assert_allclose(array, expected, atol=1e-4)
