import math

import pytest
import torch
import torch.nn.functional as F

from pnseg_train.checkpoints import Card, build
from pnseg_train.crops import Crop
from pnseg_train.losses import (
    class_focal_loss,
    dice_loss,
    focal_loss,
    prompter_losses,
    segmentor_losses,
    soft_iou,
    vote_losses,
)
from pnseg_train.models.prompter import PrompterOutput
from pnseg_train.recipes import read_recipe
from pnseg_train.targets import VoteTargets
from pnseg_train.tasks import task_of


def test_focal_loss_without_focus_is_cross_entropy():
    logits, target = torch.randn(4, 8, 8), (torch.rand(4, 8, 8) > 0.7).float()
    assert focal_loss(logits, target, gamma=0.0) == pytest.approx(
        float(F.binary_cross_entropy_with_logits(logits, target))
    )


def test_focal_loss_of_one_pixel_is_the_formula():
    p = 1 / (1 + math.exp(-0.8))
    assert float(focal_loss(torch.tensor([0.8]), torch.tensor([1.0]))) == pytest.approx(-((1 - p) ** 2) * math.log(p))


def test_focal_loss_of_classes_is_the_formula():
    logits, target = torch.tensor([[0.8, 0.0, -1.0], [0.3, 0.2, 2.0]]), torch.tensor([0, 1])
    right = logits.softmax(-1)[[0, 1], target]
    expected = -((1 - right) ** 2 * right.log()).mean()
    assert float(class_focal_loss(logits, target)) == pytest.approx(float(expected))


def test_the_iou_of_two_empty_masks_is_a_number():
    assert soft_iou(torch.zeros(2, 4, 4), torch.zeros(2, 4, 4)).tolist() == [0, 0]


def test_the_predicted_iou_learns_from_the_mask_and_not_the_mask_from_it():
    logits, iou = torch.randn(3, 8, 8, requires_grad=True), torch.rand(3, requires_grad=True)
    loss = segmentor_losses(logits, iou, (torch.rand(3, 8, 8) > 0.5).float(), False)["iou"]
    of_logits, of_iou = torch.autograd.grad(loss, (logits, iou), allow_unused=True)
    assert of_logits is None
    assert of_iou.abs().sum() > 0


def test_perfect_masks_have_no_dice_loss_and_unit_iou():
    target = (torch.rand(3, 16, 16) > 0.5).float()
    assert float(dice_loss(target, target)) == pytest.approx(0, abs=1e-6)
    assert soft_iou(target, target).tolist() == pytest.approx([1, 1, 1])


def test_focal_and_dice_loss_have_weights_which_the_published_code_has_the_other_way_round():
    logits, target, iou = torch.randn(3, 8, 8), (torch.rand(3, 8, 8) > 0.5).float(), torch.rand(3)
    focal, dice = focal_loss(logits, target), dice_loss(logits.sigmoid(), target)
    paper = segmentor_losses(logits, iou, target, False)
    published = segmentor_losses(logits, iou, target, False, 1.0, dice_weight=20.0)
    assert (float(paper["focal"]), float(paper["dice"])) == pytest.approx((20 * float(focal), float(dice)))
    assert (float(published["focal"]), float(published["dice"])) == pytest.approx((float(focal), 20 * float(dice)))
    assert paper["iou"] == published["iou"]


def test_a_recipe_says_how_much_focal_and_dice_loss_weigh():
    torch.manual_seed(0)
    network = build(Card(network="segmentor", recipe=read_recipe("nano"))).eval()
    instances = torch.zeros(1, 256, 256, dtype=torch.int64)
    instances[:, 30:60, 40:70] = 1
    crop = Crop(torch.randn(1, 3, 256, 256), instances, instances)

    def terms(**weights):
        task = task_of(network, read_recipe("nano", {f"segmentor.{name}": value for name, value in weights.items()}))
        torch.manual_seed(1)
        return {name: float(term.detach()) for name, term in task.losses(network, crop).items()}

    paper, published = terms(), terms(focal_weight=1, dice_weight=20)
    assert published == pytest.approx(paper | {"focal": paper["focal"] / 20, "dice": paper["dice"] * 20}, rel=1e-4)


def test_dice_of_each_mask_weighs_small_nuclei_like_large_ones():
    target = torch.zeros(2, 32, 32)
    target[0, :30, :30] = 1
    target[1, :2, :2] = 1
    missed = target.clone()
    missed[1] = 0
    assert float(dice_loss(missed, target)) < 0.01
    assert float(dice_loss(missed, target, each=True)) > 0.3


def test_pixels_that_weigh_nothing_change_neither_focal_nor_dice_loss():
    logits, target = torch.randn(3, 8, 8), (torch.rand(3, 8, 8) > 0.5).float()
    weight = torch.ones(3, 8, 8)
    weight[:, 4:] = 1e-9
    other = logits.clone()
    other[:, 4:] = -other[:, 4:]
    for loss in (
        lambda x: focal_loss(x, target, weight=weight),
        lambda x: dice_loss(x.sigmoid(), target, each=True, weight=weight),
    ):
        assert float(loss(logits)) == pytest.approx(float(loss(other)), abs=1e-5)


def test_equal_weights_leave_the_dice_of_large_masks_alone():
    probability, target = torch.rand(2, 64, 64), (torch.rand(2, 64, 64) > 0.5).float()
    plain = dice_loss(probability, target, each=True, smooth=0.0)
    weighted = dice_loss(probability, target, each=True, smooth=0.0, weight=torch.full((2, 64, 64), 3.0))
    assert float(weighted) == pytest.approx(float(plain), abs=1e-6)


def test_prompter_losses_follow_equation_four():
    points = torch.tensor([[[10.0, 10.0], [50.0, 50.0], [90.0, 90.0]]])
    logits = torch.tensor([[[2.0, 0.0], [0.0, 3.0], [0.5, 0.0]]])
    region = torch.zeros(1, 1, 4, 4)
    terms = prompter_losses(
        PrompterOutput(points, logits, region),
        centroids=[torch.tensor([[13.0, 14.0]])],
        classes=[torch.tensor([0])],
        region=torch.zeros(1, 1, 4, 4),
        background_weight=0.4,
    )
    # The first anchor is matched; the error is 3² + 4²; one nucleus.
    assert float(terms["point"]) == pytest.approx(5e-3 * 25)
    nll = -torch.log_softmax(logits[0], -1)
    expected = (nll[0, 0] + 0.4 * nll[1, 1] + 0.4 * nll[2, 1]) / (1 + 0.4 + 0.4)
    assert float(terms["class"]) == pytest.approx(float(expected))
    assert float(terms["region"]) == pytest.approx(0.25 * math.log(2))


def test_the_error_of_points_is_a_mean_over_the_nuclei_of_all_images():
    points = torch.tensor([[[10.0, 10.0], [90.0, 90.0]], [[20.0, 20.0], [60.0, 60.0]]])
    output = PrompterOutput(points, torch.zeros(2, 2, 2), torch.zeros(2, 1, 4, 4))
    centroids = [torch.tensor([[13.0, 14.0]]), torch.tensor([[60.0, 62.0], [21.0, 20.0]])]
    classes = [torch.zeros(1).long(), torch.zeros(2).long()]
    terms = prompter_losses(output, centroids, classes, torch.zeros(2, 1, 4, 4), background_weight=0.4)
    assert float(terms["point"]) == pytest.approx(5e-3 * (25 + 4 + 1) / 3)


def test_an_image_without_nuclei_has_a_finite_loss():
    output = PrompterOutput(
        torch.rand(1, 5, 2, requires_grad=True), torch.randn(1, 5, 2, requires_grad=True), torch.randn(1, 1, 8, 8)
    )
    terms = prompter_losses(
        output, [torch.zeros(0, 2)], [torch.zeros(0).long()], torch.zeros(1, 1, 8, 8), background_weight=0.4
    )
    total = sum(terms.values())
    total.backward()
    assert torch.isfinite(total)
    assert terms["point"].item() == 0


@pytest.mark.parametrize("fault", [math.nan, math.inf, -math.inf])
@pytest.mark.parametrize("of", ["points", "class_logits"])
def test_a_prompter_that_has_diverged_has_a_loss_that_is_not_finite(of, fault):
    outputs = {
        "points": torch.rand(1, 5, 2),
        "class_logits": torch.randn(1, 5, 2),
        "region_logits": torch.randn(1, 1, 8, 8),
    }
    outputs[of].fill_(fault)
    terms = prompter_losses(
        PrompterOutput(**outputs), [torch.ones(2, 2)], [torch.zeros(2).long()], torch.zeros(1, 1, 8, 8), 0.4
    )
    assert not torch.isfinite(sum(terms.values()))


def test_votes_outside_nuclei_cost_nothing():
    owned = torch.zeros(1, 4, 4)
    owned[0, 0, 0] = 1
    targets = VoteTargets(torch.full((1, 2, 4, 4), 7.0), owned, owned)
    votes = torch.full((1, 2, 4, 4), 100.0)
    votes[0, :, 0, 0] = 7.0
    assert float(vote_losses(votes, torch.zeros(1, 4, 4), targets)["vote"]) == 0
    votes[0, :, 0, 0] = 9.0
    assert float(vote_losses(votes, torch.zeros(1, 4, 4), targets)["vote"]) > 0


def test_votes_are_off_by_a_mean_over_the_cells_of_nuclei_and_the_region_learns_the_share_of_each_cell():
    owned = torch.zeros(1, 4, 4)
    owned[0, 0, :2] = 1
    targets = VoteTargets(torch.zeros(1, 2, 4, 4), owned, 0.5 * owned)
    votes, logits = torch.zeros(1, 2, 4, 4), torch.full((1, 4, 4), 2.0)
    votes[0, :, 0, 0] = torch.tensor([8.0, 1.0])  # in units of 8 px, beyond and below a quarter
    terms = vote_losses(votes, logits, targets)
    assert float(terms["vote"]) == pytest.approx(((1 - 0.125) + 0.5 * 0.125**2 / 0.25) / 2)
    assert float(terms["region"]) == pytest.approx(math.log(1 + math.exp(2)) - 2 * 0.5 * 2 / 16, rel=1e-6)
