"""A run that stops goes on as what it was, is taken for no other, and keeps what it has."""

import contextlib
import errno
import os
import re
import shutil
from pathlib import Path

import pytest
import torch
from lightning_fabric.plugins.precision import Precision
from safetensors import SafetensorError
from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

from pnseg_runtime.errors import PnsegError
from pnseg_train import checkpoints, progress
from pnseg_train import fit as fitting
from pnseg_train.checkpoints import read_card
from tests.train.dots import DotTask, Stopped, lines, tiles_of, train_dot

ONE = {"data": ["one"], "licences": ["LIC-ONE"], "tuned_from": "aa"}


@pytest.mark.parametrize(
    ("change", "says"),
    [
        ({"data": ["two"]}, "data sets: one, now two"),
        ({"licences": ["LIC-TWO"]}, "licences of the data: LIC-ONE, now LIC-TWO"),
        ({"tuned_from": ""}, "weights to start from .*: aa, now none"),
        ({"split": "all"}, "splits for training and validation: train, val, now all, val"),
        ({"processes": 2}, "number of processes: 1, now 2"),
        ({"tiles": tiles_of(7)}, "images or labels"),
    ],
)
def test_a_run_of_other_data_weights_or_processes_is_not_continued(change, says, tmp_path):
    with pytest.raises(Stopped):
        train_dot(tmp_path, tiles_of(), stop_after=3, **ONE)
    before = (tmp_path / "state.pt").read_bytes()
    with pytest.raises(PnsegError, match=says):
        train_dot(tmp_path, **{"tiles": tiles_of(), **ONE, **change}, on_start=lambda: pytest.fail("started"))
    assert (tmp_path / "state.pt").read_bytes() == before
    _, card = train_dot(tmp_path, tiles_of(), **ONE)
    assert (card.data, card.licences, card.step) == (["one"], ["LIC-ONE"], 4)


def test_a_state_that_does_not_say_on_which_data_goes_on_with_a_warning(tmp_path, caplog):
    with pytest.raises(Stopped):
        train_dot(tmp_path, tiles_of(), stop_after=3, **ONE)
    state = torch.load(tmp_path / "state.pt", weights_only=True)
    torch.save({name: part for name, part in state.items() if name not in {"origin", "scaler"}}, tmp_path / "state.pt")
    _, card = train_dot(tmp_path, tiles_of(), **ONE)
    assert card.step == 4
    assert "does not say on which data" in caplog.text


@pytest.mark.parametrize("stop_after", [3, None])
def test_a_run_that_goes_on_with_another_inference_predicts_by_it(stop_after, tmp_path):
    every = {"validate_every": 2, "keep": [2]}
    try:
        train_dot(tmp_path, tiles_of(), stop_after=stop_after, plan=every)
    except Stopped:
        assert stop_after
    names = ("best", "last", "step-2")
    before = {kept: read_card(tmp_path / kept) for kept in names}
    _, best = train_dot(tmp_path, tiles_of(), plan=every, inference={"inference.nms_radius": 7, "inference.tidy": True})
    for kept in names:
        card = read_card(tmp_path / kept)
        assert (card.recipe.inference.nms_radius, card.recipe.inference.tidy) == (7, True)
        assert card.recipe.training() == before[kept].recipe.training()
    assert read_card(tmp_path / "best").model_copy(update={"recipe": before["best"].recipe}) == before["best"]
    assert best == read_card(tmp_path / "best")


class FallingTask(DotTask):
    """Every step is worse than the one before, whatever the settings."""

    judged_by = ("nms_radius", "sensitivity")

    def validate(self, network, samples):
        return {"f1": 1 - float(network.value.detach().abs().sum())}


@pytest.mark.parametrize(
    ("inference", "best"),
    [({}, 1), ({"inference.tidy": True}, 1), ({"inference.nms_radius": 7}, 3), ({"inference.sensitivity": 0.5}, 3)],
)
def test_steps_are_compared_by_the_same_settings_alone(inference, best, tmp_path, caplog):
    asked = {"task": FallingTask, "plan": {"validate_every": 1, "lr": 0.1, "schedule": "constant", "ema": 0}}
    with pytest.raises(Stopped):
        train_dot(tmp_path, tiles_of(), stop_after=2, **asked)
    assert read_card(tmp_path / "best").step == 1
    for stop_after in (3, None):  # what is chosen anew stays so when the run is stopped again
        with contextlib.suppress(Stopped):
            train_dot(tmp_path, tiles_of(), stop_after=stop_after, inference=inference, **asked)
        assert read_card(tmp_path / "best").step == best
    named = [name.removeprefix("inference.") for name in inference if best == 3]
    assert ("its best step was chosen with inference." in caplog.text) == bool(named)
    assert all(f"inference.{name} " in caplog.text for name in named)


def test_a_run_that_was_stopped_before_its_first_state_begins_its_log_anew(tmp_path):
    with pytest.raises(Stopped):
        train_dot(tmp_path, tiles_of(), stop_after=1)
    assert [line["step"] for line in lines(tmp_path)] == [1]
    train_dot(tmp_path, tiles_of())
    assert [line["step"] for line in lines(tmp_path)] == [1, 2, 3, 4]


def test_what_a_stopped_run_has_logged_for_tensorboard_is_on_the_disk(tmp_path, monkeypatch):
    boards = []

    def opened(*asked):
        boards.append(progress.open_board(*asked))
        return boards[-1]

    monkeypatch.setattr(fitting, "open_board", opened)
    with pytest.raises(Stopped):
        train_dot(tmp_path, tiles_of(), stop_after=3)
    (board,) = boards
    assert board.all_writers is None  # closed
    written = EventAccumulator(str(tmp_path / "tensorboard"))
    written.Reload()
    assert [event.step for event in written.Scalars("lr")] == [1, 2, 3]


@pytest.mark.parametrize("says_of_which", [True, False])
def test_a_run_of_another_network_is_not_continued(says_of_which, tmp_path):
    with pytest.raises(Stopped):
        train_dot(tmp_path, tiles_of(), stop_after=3)
    state = torch.load(tmp_path / "state.pt", weights_only=True)
    if says_of_which:
        state["origin"]["network"] = "segmentor"  # of the same recipe and data
    else:  # a state of an earlier version, of a network with other tensors
        del state["origin"]["network"]
        state["network"] = {"mask_decoder.weight": torch.zeros(1)}
    torch.save(state, tmp_path / "state.pt")
    says = "differs in the network: segmentor, now prompter" if says_of_which else "another network"
    with pytest.raises(PnsegError, match=rf"holds a run .*{says}; give another --out"):
        train_dot(tmp_path, tiles_of())
    assert [line["step"] for line in lines(tmp_path)] == [1, 2, 3]


@pytest.mark.parametrize("kept", ["best", "last", "step-1"])
def test_checkpoints_without_a_state_to_go_on_from_are_not_replaced(kept, tmp_path):
    train_dot(tmp_path / "whole", tiles_of(), plan={"validate_every": 2, "keep": [1]})
    run = tmp_path / "run"
    shutil.copytree(tmp_path / "whole" / kept, run / kept)
    shutil.copy(tmp_path / "whole" / "metrics.jsonl", run)
    before = {path: path.read_bytes() for path in run.rglob("*") if path.is_file()}
    with pytest.raises(
        PnsegError, match=rf"holds {kept}, but no state\.pt .*; give another --out, or delete the folder"
    ):
        train_dot(run, tiles_of(), on_start=lambda: pytest.fail("started"))
    assert {path: path.read_bytes() for path in run.rglob("*") if path.is_file()} == before


@pytest.mark.parametrize("fault", ['{"step": 4, "lr"', "4", '"', "\0\0\0", '{"lr": 1}'])
def test_a_last_line_of_the_log_that_is_not_whole_is_dropped_and_the_run_goes_on(fault, tmp_path):
    with pytest.raises(Stopped):
        train_dot(tmp_path, tiles_of(), stop_after=3)
    with (tmp_path / "metrics.jsonl").open("a") as stream:
        stream.write(fault)
    train_dot(tmp_path, tiles_of())
    assert [line["step"] for line in lines(tmp_path)] == [1, 2, 3, 4]


def test_a_line_within_the_log_that_is_no_record_is_named(tmp_path):
    with pytest.raises(Stopped):
        train_dot(tmp_path, tiles_of(), stop_after=3)
    log = tmp_path / "metrics.jsonl"
    log.write_text("{\n" + log.read_text())
    with pytest.raises(PnsegError, match=r"metrics\.jsonl: line 1 is not a step's record; delete the line"):
        train_dot(tmp_path, tiles_of())


NO_SPACE = OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))
FULL_DISK = {
    "log": (fitting, "append", NO_SPACE, "No space left on device"),
    "rename": (Path, "replace", NO_SPACE, "No space left on device"),
    # As torch and safetensors have it.
    "state": (torch, "save", RuntimeError("unexpected pos 704 vs 598"), r"state\.pt\.part is not written whole"),
    "weights": (checkpoints, "save_file", SafetensorError("I/O error: No space left (os error 28)"), "No space left"),
}


@pytest.mark.parametrize("what", FULL_DISK)
def test_a_disk_that_is_full_is_one_sentence_and_the_run_goes_on_once_there_is_room(what, tmp_path, monkeypatch):
    place, name, error, says = FULL_DISK[what]
    every = {"checkpoint_every": 1}

    def fails(*_, **__):
        raise error

    with pytest.raises(Stopped):
        train_dot(tmp_path, tiles_of(), stop_after=3, plan=every)
    with monkeypatch.context() as patch:
        patch.setattr(place, name, fails)
        with pytest.raises(PnsegError, match=rf"the training cannot go on \(.*{says}.*\); make room"):
            train_dot(tmp_path, tiles_of(), plan=every)
    _, card = train_dot(tmp_path, tiles_of(), plan=every)
    assert card.step == 4
    assert [line["step"] for line in lines(tmp_path)] == [1, 2, 3, 4]


@pytest.mark.parametrize("fault", ["empty", "truncated", "no archive", "no state"])
@pytest.mark.parametrize("validated", [True, False])
def test_a_state_that_is_damaged_is_one_sentence_and_nothing_is_touched(fault, validated, tmp_path):
    with pytest.raises(Stopped):
        train_dot(tmp_path, tiles_of(), stop_after=3, plan={"validate_every": 1 if validated else 9})
    state, whole = tmp_path / "state.pt", (tmp_path / "state.pt").read_bytes()
    state.write_bytes({"empty": b"", "truncated": whole[:-100], "no archive": b"\0" * 999, "no state": whole}[fault])
    if fault == "no state":
        torch.save({"network": {}}, state)
    before = {path: path.read_bytes() for path in tmp_path.rglob("*") if path.is_file()}
    start = f"start another --out from {tmp_path / 'last'} by --init" if validated else "give another --out"
    says = rf"cannot be read, so the run does not go on \(.+\); {re.escape(start)}, or remove the"
    with pytest.raises(PnsegError, match=f"^{re.escape(str(state))}: {says}") as raised:
        train_dot(tmp_path, tiles_of(), on_start=lambda: pytest.fail("started"))
    assert "\n" not in str(raised.value)
    assert {path: path.read_bytes() for path in tmp_path.rglob("*") if path.is_file()} == before


def test_a_state_is_on_the_disk_before_it_takes_its_name(tmp_path, monkeypatch):
    flushed = []

    def fsync(number):
        flushed.append((os.fstat(number).st_ino, os.fstat(number).st_size))
        assert flushed[-1][0] == (tmp_path / "state.pt.part").stat().st_ino

    monkeypatch.setattr(os, "fsync", fsync)
    train_dot(tmp_path, tiles_of())
    kept = (tmp_path / "state.pt").stat()
    assert (len(flushed), flushed[-1]) == (2, (kept.st_ino, kept.st_size))


class Scaled(Precision):
    """Stands for 16-mixed, whose gradient scaler has a state."""

    def __init__(self, scale):
        self.scale = scale

    def state_dict(self):
        return {"scale": self.scale}

    def load_state_dict(self, state_dict):
        self.scale = state_dict["scale"]


def test_a_gradient_scaler_goes_on_where_it_was(tmp_path):
    with pytest.raises(Stopped):
        train_dot(tmp_path, tiles_of(), stop_after=3, scaler=Scaled(64.0))
    resumed = Scaled(65536.0)
    train_dot(tmp_path, tiles_of(), scaler=resumed)
    assert resumed.scale == 64.0
