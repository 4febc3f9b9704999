"""How tests of training run."""

from __future__ import annotations

import pytest
import torch


@pytest.fixture(scope="module")
def one_thread() -> None:
    """PyTorch computes with one thread."""
    torch.set_num_threads(1)
