"""A prompter is taught to say the same of a crop as two files hold it."""

import pytest
import torch
import torch.nn.functional as F

from pnseg_runtime.errors import PnsegError
from pnseg_train.checkpoints import Card, build
from pnseg_train.crops import Crop
from pnseg_train.losses import disagreement
from pnseg_train.models.prompter import PrompterOutput
from pnseg_train.recipes import read_recipe
from pnseg_train.tasks import task_of

AGREEING = {"prompter.agreement": 1.0, "augment.pairs": 1}
WEIGHTS = (5e-3, 1.0)  # of points and region


def random_output(seed: int) -> PrompterOutput:
    generator = torch.Generator().manual_seed(seed)
    shapes = ((2, 9, 2), (2, 9, 2), (2, 1, 8, 8))
    return PrompterOutput(*(torch.randn(shape, generator=generator).requires_grad_() for shape in shapes))


def test_outputs_that_agree_cost_nothing_and_others_cost_both_alike():
    one, other = random_output(0), random_output(1)
    assert disagreement(one, one, *WEIGHTS).item() == pytest.approx(0, abs=1e-6)
    assert disagreement(one, other, *WEIGHTS).item() > 0.1
    assert disagreement(one, other, *WEIGHTS).item() == pytest.approx(disagreement(other, one, *WEIGHTS).item())


@pytest.mark.parametrize("part", PrompterOutput._fields)
def test_a_step_against_the_disagreement_of_either_file_brings_both_together(part):
    one, other = random_output(0), random_output(1)
    other = one._replace(**{part: getattr(other, part)})
    before = disagreement(one, other, *WEIGHTS)
    for moved, still in ((one, other), (other, one)):
        value = getattr(moved, part)
        (gradient,) = torch.autograd.grad(before, value, retain_graph=True)
        nearer = moved._replace(**{part: (value - 0.5 * gradient / gradient.norm()).detach()})
        assert disagreement(nearer, still, *WEIGHTS).item() < before.item()


def test_points_of_anchors_that_are_no_nucleus_may_differ():
    background = torch.tensor([-40.0, 40.0]).expand(1, 4, 2)
    region = torch.zeros(1, 1, 8, 8)
    one, other = (PrompterOutput(torch.randn(1, 4, 2), background, region) for _ in range(2))
    assert disagreement(one, other, *WEIGHTS).item() == pytest.approx(0, abs=1e-6)


def test_a_region_map_that_is_not_trained_may_differ():
    one, other = random_output(0), random_output(1)
    other = one._replace(region_logits=other.region_logits)
    assert disagreement(one, other, 5e-3, 0.0).item() == pytest.approx(0, abs=1e-6)
    assert disagreement(one, other, 5e-3, 1.0).item() > 1e-3


def test_what_a_region_map_costs_is_the_divergence_of_its_probabilities():
    one, other = random_output(0), random_output(1)
    alone = [output._replace(points=one.points, class_logits=one.class_logits) for output in (one, other)]
    p, q = (output.region_logits.detach().double().sigmoid() for output in alone)
    divergence = p * (p / q).log() + (1 - p) * ((1 - p) / (1 - q)).log()
    back = q * (q / p).log() + (1 - q) * ((1 - q) / (1 - p)).log()
    expected = float((divergence + back).mean() / 2)
    assert disagreement(*alone, *WEIGHTS).item() == pytest.approx(expected, rel=1e-5)


def test_agreement_is_computed_where_cuda_runs_in_mixed_precision():
    # CUDA refuses the cross-entropy of probabilities under autocast; its dispatch key tells so on a CPU, too.
    one, other = random_output(0), random_output(1)
    expected = disagreement(one, other, *WEIGHTS)
    before = torch.is_autocast_enabled("cuda")
    torch.set_autocast_enabled("cuda", True)
    try:
        with torch._C._IncludeDispatchKeyGuard(torch._C.DispatchKey.AutocastCUDA):
            with pytest.raises(RuntimeError, match="unsafe to autocast"):
                F.binary_cross_entropy(torch.rand(4), torch.rand(4))
            found = disagreement(one, other, *WEIGHTS)
    finally:
        torch.set_autocast_enabled("cuda", before)
    assert torch.equal(found, expected)


def test_agreement_is_a_term_of_its_own_beside_those_of_the_paper():
    recipe = read_recipe("nano", {})
    torch.manual_seed(0)
    network = build(Card(network="prompter", recipe=recipe)).eval()
    instances = torch.zeros(2, 128, 128, dtype=torch.int64)
    instances[:, 12:24, 10:24] = 1
    instances[:, 80:92, 30:44] = 2
    batch = Crop(torch.randn(2, 3, 128, 128), instances, (instances > 0).long())
    agreeing = task_of(network, read_recipe("nano", AGREEING))
    alone = task_of(network, recipe).losses(network, batch)
    same = agreeing.losses(network, batch._replace(other=batch.image))
    apart = agreeing.losses(network, batch._replace(other=batch.image.flip(0)))
    assert "agreement" not in alone
    assert float(same["agreement"]) == pytest.approx(0, abs=1e-5)
    assert float(apart["agreement"]) > 1e-3
    for name, term in alone.items():
        assert float(same[name]) == pytest.approx(float(term), rel=1e-4)
        assert float(apart[name]) == pytest.approx(float(term), rel=1e-4)


@pytest.mark.parametrize(
    ("also", "says"),
    [
        ({"augment.pairs": 0}, r"augment\.pairs must be above 0"),
        ({"shared_encoder": True, "inference.pad_multiple": 32}, "with shared_encoder, prompter.agreement must be 0"),
    ],
)
def test_agreement_that_nothing_would_come_of_is_refused(also, says):
    with pytest.raises(PnsegError, match=says):
        read_recipe("nano", {**AGREEING, **also})
