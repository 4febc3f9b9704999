"""Counts of what runs are those of the calls that a prediction makes."""

from typing import NamedTuple

import numpy as np
import pytest
import torch

from benchmarks.limit import macs_of_calls
from benchmarks.promptnucseg import exported_macs, passes, plain_counts
from benchmarks.runs import EAGER, ORT
from benchmarks.staged import staged
from benchmarks.subjects import open_subjects
from benchmarks.tiles import make_tile
from pnseg_runtime.bundle import Bundle
from pnseg_runtime.segmenter import Segmenter
from pnseg_runtime.sessions import open_sessions
from pnseg_train.inference import torch_sessions


@pytest.mark.parametrize("negatives", [0, 1])
@pytest.mark.parametrize("nuclei", [0, 3, 50])
def test_multiply_accumulates_as_run_are_those_of_the_calls_that_are_made(nuclei, negatives):
    nano = Bundle.open("nano")
    prompting = nano.manifest.prompting.model_copy(update={"negatives": negatives})
    bundle = Bundle(nano.folder, nano.manifest.model_copy(update={"prompting": prompting}))
    sessions, tile = open_sessions(bundle, threads=1), make_tile(nuclei)

    def predict(counted):
        Segmenter(bundle, sessions=staged(counted, tile, prompting.anchor_spacing)).predict(tile.image)

    assert exported_macs(bundle, nuclei, passes(bundle.manifest)) == macs_of_calls(
        bundle, sessions, frozenset(), predict
    )


def test_the_second_pass_has_one_point_a_prompt():
    once, alone, both, twice = (plain_counts("B", 24, points).macs for points in ((2,), (1,), (2, 1), (2, 2)))
    assert both - alone == twice - once
    assert both < twice
    assert plain_counts("B", 0, (2, 1)).macs < once / 2, "without a nucleus there is nothing to encode"


@pytest.mark.parametrize("run", [EAGER, ORT])
def test_a_runs_count_is_of_the_tiles_nuclei_and_the_methods_is_not(run, tmp_path):
    few, many = (open_subjects("PromptNucSeg-nano", (run,), tmp_path, threads=1, nuclei=n)[0] for n in (5, 100))
    assert many.run_macs > 1.4 * few.run_macs
    assert many.counts == few.counts
    assert many.exported_macs == few.exported_macs


def test_a_batch_without_nuclei_is_not_encoded(tmp_path):
    (subject,) = open_subjects("PromptNucSeg-nano", (ORT,), tmp_path, threads=1, nuclei=0)
    assert subject.networks(2)() == []


def test_arrays_are_taken_to_the_networks_device_and_back():
    seen = []

    class Output(NamedTuple):
        points: torch.Tensor

    def prompter(image):
        seen.append(image.device.type)
        return Output(torch.ones(2))

    sessions = torch_sessions(prompter, None, torch.device("meta"))
    assert sessions.prompter({"image": np.zeros((1, 3, 8, 8), np.float32)})["points"].tolist() == [1, 1]
    torch_sessions(prompter, None).prompter({"image": np.zeros(1, np.float32)})
    assert seen == ["meta", "cpu"]
