import pytest
import torch
from torchvision import tv_tensors

from pnseg_runtime.errors import PnsegError
from pnseg_train.augment import colour
from pnseg_train.cli.options import assignment
from pnseg_train.recipes import RECIPES, SegmentorRecipe, read_recipe
from pnseg_train.schedule import learning_rate


@pytest.mark.parametrize("name", [path.stem for path in RECIPES.glob("*.yaml")])
def test_shipped_recipes_are_valid(name):
    assert read_recipe(name).classes


# (λ, L, β, batch, point NMS, mask NMS): values of the paper's section 4.
PAPER = {
    "pannuke-123": (8, 3, 0.4, 16, 12, 0.5),
    "pannuke-213": (8, 3, 0.4, 16, 12, 0.5),
    "pannuke-321": (8, 3, 0.4, 16, 12, 0.5),
    "kumar": (16, 4, 0.2, 8, 11, 0.3),
    "cpm17": (16, 4, 0.25, 8, 12, 0.5),
}


@pytest.mark.parametrize("name", PAPER)
def test_the_papers_recipes_have_the_papers_values(name):
    recipe = read_recipe(name)
    prompter, plan, inference = recipe.prompter, recipe.prompter.plan, recipe.inference
    assert (
        *(prompter.spacing, prompter.levels, prompter.background_weight, plan.batch),
        *(inference.nms_radius, inference.nms_iou),
    ) == PAPER[name]
    assert (plan.optimizer, plan.lr, plan.weight_decay, plan.clip, plan.ema) == ("adam", 1e-4, 1e-4, 0.1, 0.99)
    assert plan.steps == 40 * plan.ema_from  # 200 epochs, of which 5 come before the average
    assert plan.step_at == (plan.steps / 2 if name.startswith("pannuke") else 0)
    segmentor = recipe.segmentor
    assert (segmentor.plan.optimizer, segmentor.plan.lr, segmentor.plan.weight_decay) == ("adamw", 1e-4, 1e-4)
    assert segmentor.plan.clip == 0
    assert (segmentor.negatives, inference.negatives, inference.region_filter, inference.overlap) == (1, 1, True, 64)
    assert 20 <= segmentor.instances <= 25
    if name.startswith("pannuke"):
        assert recipe.splits.train == f"{name[-3:]}:train"
        assert len(recipe.classes) == 5


def test_any_field_can_be_overridden():
    recipe = read_recipe("nano", {"prompter.plan.lr": 0.5, "augment.colour": 0})
    assert recipe.prompter.plan.lr == 0.5
    assert recipe.augment.colour == 0


@pytest.mark.parametrize("wrong", [{"prompter.plan.lrr": 1}, {"size": "XL"}, {"segmentor.negatives": "many"}])
def test_a_wrong_field_is_named(wrong):
    with pytest.raises(PnsegError, match=next(iter(wrong)).replace(".", r"\.")):
        read_recipe("nano", wrong)


@pytest.mark.parametrize(
    ("field", "value"),
    [
        *(("steps", 0), ("batch", 0), ("lr", 0), ("backbone_lr", -1), ("weight_decay", -0.1), ("clip", -1)),
        *(("warmup", -1), ("step_at", -1), ("ema", 1), ("ema", -0.1), ("ema_from", -1), ("validate_every", 0)),
        *(("checkpoint_every", 0), ("seed", -1)),
    ],
)
def test_a_plan_that_nobody_could_follow_is_refused(field, value):
    with pytest.raises(PnsegError, match=rf"prompter\.plan\.{field}"):
        read_recipe("nano", {f"prompter.plan.{field}": value})


@pytest.mark.parametrize(
    ("field", "bad", "good"),
    [
        *(("inference.nms_radius", -1, 0), ("inference.negatives", -1, 0), ("inference.pad_multiple", -8, 0)),
        *(("inference.overlap", 256, 255), ("inference.overlap", -1, 0), ("inference.nms_iou", 1.1, 1)),
        *(("inference.nms_iou", -0.1, 0), ("inference.iou_threshold", 1.1, 1)),
        *(("prompter.background_weight", -0.4, 0), ("prompter.point_weight", -1, 0), ("prompter.agreement", -1, 0)),
        *(("segmentor.drop_negatives", 40, 1), ("segmentor.central", 7, 1), ("segmentor.central", -0.1, 0)),
        *(("segmentor.focal_weight", -1, 0), ("segmentor.dice_weight", -1, 0), ("segmentor.vote_weight", -1, 0)),
        *(("segmentor.contact_weight", -1, 0), ("segmentor.class_weight", -1, 0)),
        *(("augment.clumps", 30, 1), ("augment.compression", 2, 1), ("augment.pairs", 2, 1)),
        *(
            ("augment.diameter", -5, 0),
            ("augment.spread", -1, 0),
            ("augment.colour", 4.1, 4),
            ("augment.colour", -1, 0),
        ),
        *(("augment.limits", [2.5, 0.55], [1, 1]), ("augment.limits", [0, 1], [0.1, 1])),
        *(("mpp", 0, 0.1), ("colors", [[300, 0, 0]], [[255, 0, 0]]), ("prompter.plan.precision", "bf16", "16-mixed")),
    ],
)
def test_a_value_that_nothing_could_come_of_is_refused_and_the_last_that_works_is_not(field, bad, good):
    with pytest.raises(PnsegError, match=field.replace(".", r"\.")):
        read_recipe("nano", {field: bad})
    read_recipe("nano", {field: good})


def test_the_strongest_colours_are_drawn_and_stronger_ones_could_not_be():
    image = tv_tensors.Image(torch.full((3, 16, 16), 99, dtype=torch.uint8))
    assert colour(4)(image).shape == image.shape
    with pytest.raises(ValueError, match="in the interval"):
        colour(4.1)


def test_a_recipe_has_a_class():
    with pytest.raises(PnsegError, match="classes"):
        read_recipe("nano", {"classes": [], "colors": []})


def test_a_schedule_of_steps_has_a_step():
    with pytest.raises(PnsegError, match=r"prompter\.plan: .*step_at must be above 0"):
        read_recipe("nano", {"prompter.plan.schedule": "step"})
    plan = read_recipe("nano", {"prompter.plan.schedule": "step", "prompter.plan.step_at": 1}).prompter.plan
    assert learning_rate(plan.warmup, plan) == pytest.approx(plan.lr / 10)


def test_a_recipe_of_before_the_weights_of_focal_and_dice_loss_has_the_papers():
    segmentor = read_recipe("nano").segmentor
    earlier = segmentor.model_dump(exclude={"focal_weight", "dice_weight"})
    assert SegmentorRecipe.model_validate(earlier) == segmentor
    assert (segmentor.focal_weight, segmentor.dice_weight) == (20, 1)


@pytest.mark.parametrize("field", ["size.x", "classes.0", "prompter.plan.steps.often"])
def test_a_field_within_a_value_is_refused(field):
    with pytest.raises(PnsegError, match=f"--set {field}: {field.rpartition('.')[0]} has no fields"):
        read_recipe("nano", {field: 1})


@pytest.mark.parametrize(
    ("text", "says"), [("", "holds no fields"), ("- a", "holds no fields"), ("a: [", "not a YAML")]
)
def test_a_file_that_is_no_recipe_is_named(text, says, tmp_path):
    (tmp_path / "mine.yaml").write_text(text)
    with pytest.raises(PnsegError, match=rf"mine\.yaml.*{says}"):
        read_recipe(str(tmp_path / "mine.yaml"), {"size": "B"})


def test_an_override_that_is_no_yaml_is_one_sentence():
    with pytest.raises(PnsegError, match="not YAML"):
        assignment("classes=[a")


def test_an_unknown_recipe_names_those_there_are():
    with pytest.raises(PnsegError, match="nano"):
        read_recipe("giga")
