import pytest

from pnseg_runtime.errors import PnsegError
from pnseg_train.recipes import RECIPES, read_recipe


@pytest.mark.parametrize("name", [path.stem for path in RECIPES.glob("*.yaml")])
def test_shipped_recipes_are_valid(name):
    assert read_recipe(name).classes


def test_any_field_can_be_overridden():
    recipe = read_recipe("nano", {"prompter.plan.lr": 0.5, "augment.colour": 0})
    assert recipe.prompter.plan.lr == 0.5
    assert recipe.augment.colour == 0


@pytest.mark.parametrize("wrong", [{"prompter.plan.lrr": 1}, {"size": "XL"}, {"segmentor.negatives": "many"}])
def test_a_wrong_field_is_named(wrong):
    with pytest.raises(PnsegError, match=next(iter(wrong)).replace(".", r"\.")):
        read_recipe("nano", wrong)


def test_an_unknown_recipe_names_those_there_are():
    with pytest.raises(PnsegError, match="nano"):
        read_recipe("giga")
