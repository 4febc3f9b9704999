"""torchrun with two processes on the CPU (gloo)."""

import json
import subprocess
import sys
from pathlib import Path

import pytest
import torch

from pnseg_train.checkpoints import Card, build
from pnseg_train.crops import Crop, Crops, item_seed
from pnseg_train.datasets import read_folder
from pnseg_train.fit import Learner
from pnseg_train.recipes import read_recipe
from pnseg_train.schedule import learning_rate
from pnseg_train.tasks import task_of
from tests import golden
from tests.train import two_processes


@pytest.fixture(scope="module")
def trained(tmp_path_factory):
    out = tmp_path_factory.mktemp("two")
    command = [sys.executable, "-m", "torch.distributed.run", "--nproc-per-node", "2", "--standalone"]
    command += ["-m", "tests.train.two_processes", str(out)]
    done = subprocess.run(command, cwd=Path(golden.__file__).parents[1], capture_output=True, text=True, timeout=600)
    assert done.returncode == 0, done.stderr[-3000:]
    return out


@pytest.mark.slow
def test_both_processes_end_with_the_same_weights(trained):
    first, second = (torch.load(trained / f"weights{rank}.pt", weights_only=True) for rank in (0, 1))
    # Statistics of a batch norm are a process's own; those of the first are kept.
    learnt = [name for name in first if "running" not in name and "num_batches" not in name]
    assert all(torch.equal(first[name], second[name]) for name in learnt)


@pytest.mark.slow
def test_only_the_first_writes_the_run(trained):
    steps = [json.loads(line)["step"] for line in (trained / "run" / "metrics.jsonl").read_text().splitlines()]
    assert steps == [1, 2]
    assert (trained / "run" / "best" / "model.safetensors").is_file()


def in_one_process(divisor):
    """The weights of the same run, each step on the gradients of both processes' crops, summed and divided."""
    torch.set_num_threads(1)
    recipe = read_recipe("nano", two_processes.OVERRIDES)
    plan = recipe.prompter.plan
    torch.manual_seed(1)
    network = build(Card(network="prompter", recipe=recipe))
    learner, optimizer = Learner(task_of(network, recipe), network), two_processes.plain_descent(network, plan)
    crops = Crops(read_folder(golden.TILES, None)[:4], recipe.augment, plan.seed, 4)
    for step in range(plan.steps):
        for group in optimizer.param_groups:
            group["lr"] = learning_rate(step, plan) * group["factor"]
        optimizer.zero_grad()
        buffers = {name: buffer.clone() for name, buffer in network.named_buffers()}
        for rank in (1, 0):  # the first process's statistics are the ones that stay
            for name, buffer in network.named_buffers():
                buffer.copy_(buffers[name])
            torch.manual_seed(item_seed(plan.seed + 1, 2 * step + rank))
            batch = Crop(*(part[None] for part in crops[2 * step + rank]))
            (sum(learner.train()(*batch).values()) / divisor).backward()
        optimizer.step()
    return network.state_dict()


def assert_same(weights, others):
    for name, tensor in weights.items():
        torch.testing.assert_close(tensor, others[name], atol=2e-4, rtol=1e-3, msg=name)


@pytest.mark.slow
def test_a_step_of_two_processes_is_one_on_the_mean_of_their_gradients(trained):
    together = torch.load(trained / "weights0.pt", weights_only=True)
    assert_same(in_one_process(divisor=2), together)
    for other in (1, 0.2):  # their sum, or ten times the mean
        with pytest.raises(AssertionError):
            assert_same(in_one_process(divisor=other), together)
