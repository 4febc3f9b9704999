"""The paper's parts as switches: each changes what it should, and nothing else."""

from pathlib import Path

import pytest
import torch
from lightning_fabric import Fabric
from safetensors.torch import save_file
from torch import nn

from pnseg_runtime.errors import PnsegError
from pnseg_runtime.options import Options, Settings
from pnseg_train import inference as pairs
from pnseg_train.checkpoints import Card, build, build_pair, load_checkpoint, save_checkpoint, start_from
from pnseg_train.crops import Crop
from pnseg_train.fit import Learner, train_step
from pnseg_train.inference import load_pair, open_checkpoints, pair_recipe
from pnseg_train.manifests import manifest_of
from pnseg_train.models.prompter import Prompter
from pnseg_train.models.segmentor import Prompts, sam_segmentor
from pnseg_train.models.shared import EncoderPyramid, SharedPair
from pnseg_train.recipes import Plan, read_recipe
from pnseg_train.schedule import make_optimizer
from pnseg_train.targets import pixels_by_nucleus, random_prompts
from pnseg_train.tasks import PrompterTask, SegmentorTask, task_of

AUX_OFF = {"prompter.region_weight": 0, "inference.region_filter": False}
TOLD = {"class_by": "segmentor", "classes": ["a", "b", "c"], "colors": [[1, 1, 1]] * 3}


@pytest.fixture(scope="module", autouse=True)
def _one_thread():
    torch.set_num_threads(1)


def crop(size: int = 128, classes: int = 1) -> Crop:
    generator = torch.Generator().manual_seed(0)
    instances = torch.zeros(2, size, size, dtype=torch.int64)
    for value, (x, y) in enumerate([(10, 12), (60, 20), (30, 80), (90, 90)], start=1):
        instances[:, y : y + 12, x : x + 14] = value
    kinds = torch.where(instances > 0, (instances - 1) % classes + 1, 0)
    return Crop(torch.randn(2, 3, size, size, generator=generator), instances, kinds)


def gradients(network: nn.Module, recipe, batch: Crop) -> dict[str, torch.Tensor]:
    learner = Learner(task_of(network, recipe), network)
    learner.train()
    torch.manual_seed(1)
    sum(learner(*batch).values()).backward()
    return {name: p.grad for name, p in network.named_parameters() if p.grad is not None and p.grad.any()}


def made(network: str, overrides: dict) -> tuple[nn.Module, Card]:
    card = Card(network=network, recipe=read_recipe("nano", overrides))
    torch.manual_seed(0)
    return build(card), card


def test_the_auxiliary_task_trains_the_region_head_and_its_pyramid_and_no_loss_of_points_changes():
    (on, card_on), (off, card_off) = made("prompter", {}), made("prompter", AUX_OFF)
    batch = crop()
    torch.manual_seed(1)
    with_task = PrompterTask(card_on.recipe).losses(on.train(), batch)
    torch.manual_seed(1)
    without = PrompterTask(card_off.recipe).losses(off.train(), batch)
    assert with_task["region"] > 0
    assert without["region"] == 0
    assert torch.equal(with_task["class"], without["class"])
    assert torch.equal(with_task["point"], without["point"])
    touched = gradients(on, card_on.recipe, batch).keys() - gradients(off, card_off.recipe, batch).keys()
    assert touched
    assert all(name.startswith(("mask_head.", "backbone.neck1.")) for name in touched)


def test_without_the_auxiliary_task_points_cannot_be_filtered_by_it():
    with pytest.raises(PnsegError, match="region_filter must be false"):
        read_recipe("nano", {"prompter.region_weight": 0})


def test_inference_switches_change_their_setting_alone():
    boxes = {"inference.nms_overlap": None}  # as the paper has it
    usual = Settings.of(manifest_of(read_recipe("nano", boxes)), Options())
    for field, value in {
        "region_filter": False,
        "negatives": 2,
        "nms_radius": 11.0,
        "overlap": 32,
        "nms_iou": 0.3,
        "nms_overlap": 0.6,
    }.items():
        by_recipe = Settings.of(manifest_of(read_recipe("nano", boxes | {f"inference.{field}": value})), Options())
        by_option = Settings.of(manifest_of(read_recipe("nano", boxes)), Options(**{field: value}))
        assert by_recipe == by_option
        changed = {name for name in vars(usual) if getattr(usual, name) != getattr(by_option, name)}
        assert changed == {field}


@pytest.mark.parametrize("negatives", [0, 1, 2])
def test_k_in_training_adds_that_many_negatives_to_the_same_positive_points(negatives):
    pixels = pixels_by_nucleus(crop().instances[0])
    torch.manual_seed(3)
    prompts, chosen = random_prompts(pixels, 0, 4, negatives, drop=0.0, central=0.5)
    torch.manual_seed(3)
    alone, same = random_prompts(pixels, 0, 4, 0, drop=0.0, central=0.5)
    assert torch.equal(chosen, same)
    assert torch.equal(prompts.coords[:, :1], alone.coords)
    assert prompts.labels.tolist() == [[1.0] + [0.0] * negatives] * 4


def test_frozen_parts_neither_learn_nor_gather_statistics():
    network, card = made("segmentor", {"segmentor.frozen": ["image_encoder", "prompt_encoder"]})
    before = {name: tensor.clone() for name, tensor in network.state_dict().items()}
    fabric = Fabric(accelerator="cpu", devices=1)
    plan = card.recipe.segmentor.plan
    learner = Learner(task_of(network, card.recipe), network)
    optimizer = make_optimizer(network, plan)
    train_step(*fabric.setup(learner, optimizer), crop(256), fabric, plan)
    changed = {name for name, tensor in network.state_dict().items() if not torch.equal(tensor, before[name])}
    assert changed
    assert all(name.startswith("mask_decoder.") for name in changed)


@pytest.mark.parametrize(
    ("frozen", "learns"),
    [
        (["backbone", "points"], ("backbone.neck1.", "mask_head.")),
        (["backbone", "region"], ("backbone.neck.", "deform_layer.", "reg_head.", "cls_head.", "conv.")),
        (["points", "region"], ("backbone.backbone.",)),
    ],
)
def test_frozen_parts_of_a_prompter_stay_and_the_others_learn(frozen, learns):
    network, card = made("prompter", {"prompter.frozen": frozen})
    before = {name: tensor.clone() for name, tensor in network.state_dict().items()}
    fabric = Fabric(accelerator="cpu", devices=1)
    learner = Learner(task_of(network, card.recipe), network)
    optimizer = make_optimizer(network, card.recipe.prompter.plan)
    train_step(*fabric.setup(learner, optimizer), crop(), fabric, card.recipe.prompter.plan)
    changed = {name for name, tensor in network.state_dict().items() if not torch.equal(tensor, before[name])}
    assert {next((part for part in learns if name.startswith(part)), name) for name in changed} == set(learns)


@pytest.mark.parametrize(("part", "size"), [("prompter", 128), ("segmentor", 256)])
@pytest.mark.parametrize("fixed", [False, True])
def test_fixed_norms_keep_their_statistics_and_learn_the_rest(part, size, fixed):
    network, card = made(part, {f"{part}.plan.fixed_norms": fixed})
    before = {name: tensor.clone() for name, tensor in network.state_dict().items()}
    fabric = Fabric(accelerator="cpu", devices=1)
    plan = getattr(card.recipe, part).plan
    learner = Learner(task_of(network, card.recipe), network)
    train_step(*fabric.setup(learner, make_optimizer(network, plan)), crop(size), fabric, plan)
    changed = {name for name, tensor in network.state_dict().items() if not torch.equal(tensor, before[name])}
    statistics = {name for name in before if name.endswith(("running_mean", "running_var", "num_batches_tracked"))}
    assert changed - statistics
    assert bool(changed & statistics) != fixed


def test_frozen_parts_of_a_shared_pair_are_those_of_both():
    changes = {**SHARED, "prompter.frozen": ["points"], "segmentor.frozen": ["prompt_encoder"]}
    card = Card(network="shared", recipe=read_recipe("nano", changes))
    pair = build_pair(card)
    learner = Learner(task_of(pair, card.recipe), pair)
    still = {name for name, parameter in learner.network.named_parameters() if not parameter.requires_grad}
    heads = ("backbone.neck.", "deform_layer.", "reg_head.", "cls_head.", "conv.")
    parts = (*(f"prompter.{head}" for head in heads), "segmentor.prompt_encoder.")
    assert {next((part for part in parts if name.startswith(part)), name) for name in still} == set(parts)


def test_a_network_that_is_not_frozen_learns_in_its_encoder_too():
    network, card = made("segmentor", {})
    names = gradients(network, card.recipe, crop(256))
    assert {name.partition(".")[0] for name in names} == {"image_encoder", "prompt_encoder", "mask_decoder"}


@pytest.mark.parametrize("frozen", [[], ["prompt_encoder"], ["image_encoder", "prompt_encoder"]])
def test_crops_without_a_nucleus_are_a_step_that_teaches_a_sam_nothing(frozen):
    card = Card(network="segmentor", recipe=read_recipe("kumar", {"segmentor.frozen": frozen}))
    torch.manual_seed(0)
    network = sam_segmentor(64, 2, 2, (1,))
    before = {name: tensor.clone() for name, tensor in network.state_dict().items()}
    fabric = Fabric(accelerator="cpu", devices=1)
    plan = card.recipe.segmentor.plan.model_copy(update={"weight_decay": 0.0})
    learner = Learner(task_of(network, card.recipe), network)
    empty = Crop(torch.randn(1, 3, 256, 256), *(torch.zeros(2, 1, 256, 256, dtype=torch.int64)))
    losses = train_step(*fabric.setup(learner, make_optimizer(network, plan)), empty, fabric, plan)
    assert losses == {"focal": 0.0, "dice": 0.0, "iou": 0.0, "loss": 0.0}
    assert all(torch.equal(tensor, before[name]) for name, tensor in network.state_dict().items())
    trained = {name: p for name, p in network.named_parameters() if p.requires_grad}
    assert trained
    assert all(parameter.grad is not None for parameter in trained.values())


def test_the_papers_recipes_freeze_sams_prompt_encoder():
    for name in ("pannuke-123", "pannuke-213", "pannuke-321", "kumar", "cpm17"):
        assert read_recipe(name).segmentor.frozen == ["prompt_encoder"]


def prompts() -> Prompts:
    return Prompts(torch.tensor([[[20.0, 30.0]], [[90.0, 70.0]]]), torch.ones(2, 1), torch.tensor([0, 1]))


def test_a_class_token_tells_classes_by_a_focal_loss_of_weight_one():
    network, card = made("segmentor", TOLD)
    output = network.eval()(crop(256).image, prompts())
    assert output.class_logits.shape == (2, 3)
    batch = crop(256, classes=3)
    torch.manual_seed(1)
    terms = SegmentorTask(card.recipe).losses(network.train(), batch)
    assert terms["class"] > 0
    (double, card2) = made("segmentor", TOLD | {"segmentor.class_weight": 2.0})
    torch.manual_seed(1)
    weighed = SegmentorTask(card2.recipe).losses(double.train(), batch)
    assert float(weighed["class"]) == pytest.approx(2 * float(terms["class"]), rel=1e-4)
    assert {name: float(t) for name, t in weighed.items() if name != "class"} == pytest.approx(
        {name: float(t) for name, t in terms.items() if name != "class"}, rel=1e-4
    )


def test_without_a_class_token_a_segmentor_is_sams():
    network, _ = made("segmentor", {})
    assert network.eval()(crop(256).image, prompts()).class_logits is None
    told, _ = made("segmentor", TOLD)
    extra = told.state_dict().keys() - network.state_dict().keys()
    assert all(name.startswith(("mask_decoder.class_token", "mask_decoder.class_head")) for name in extra)
    assert not network.state_dict().keys() - told.state_dict().keys()


def test_when_the_segmentor_tells_classes_the_prompter_knows_nuclei_alone():
    prompter, card = made("prompter", TOLD)
    assert prompter.num_classes == 1
    terms = PrompterTask(card.recipe).losses(prompter.train(), crop(classes=3))
    assert torch.isfinite(terms["class"])
    assert manifest_of(card.recipe).classes.names == ["a", "b", "c"]


def test_class_logits_reach_the_nuclei_of_the_pipeline():
    import numpy as np

    from pnseg_runtime.bundle import Bundle
    from pnseg_runtime.prompts import PointPrompts
    from pnseg_runtime.segmenter import Segmenter
    from pnseg_train.inference import torch_sessions

    (prompter, card), (segmentor, _) = made("prompter", TOLD), made("segmentor", TOLD)
    head = segmentor.mask_decoder.class_head.layers[-1]
    nn.init.zeros_(head.weight)
    head.bias.data = torch.tensor([0.0, 5.0, 1.0])
    sessions = torch_sessions(prompter.eval(), segmentor.eval())
    given = PointPrompts(np.array([[60, 60], [180, 90]], np.float32), np.zeros(2, np.int64), np.ones(2, np.float32))
    nuclei = Segmenter(Bundle(Path(), manifest_of(card.recipe)), sessions=sessions).predict(
        np.full((256, 256, 3), 128, np.uint8), points=given
    )
    assert len(nuclei)
    assert set(nuclei.classes.tolist()) == {1}


def test_a_prompter_that_tells_classes_is_not_paired_with_a_segmentor_that_does(tmp_path):
    save_checkpoint(tmp_path / "p", *made("prompter", {}))
    save_checkpoint(tmp_path / "s", *made("segmentor", TOLD))
    with pytest.raises(PnsegError, match="give two of one kind"):
        load_pair(tmp_path / "p", tmp_path / "s")


def pair_of(prompter, segmentor, recipe="nano"):
    return pair_recipe(Path("p"), read_recipe(recipe, prompter), Path("s"), read_recipe(recipe, segmentor))


def test_a_pair_predicts_with_the_prompters_points_and_the_segmentors_masks_and_says_what_it_leaves(caplog):
    first = {
        "inference.sensitivity": 0.7,
        "inference.nms_radius": 9,
        "inference.nms_iou": 0.1,
        "inference.negatives": 2,
    }
    second = {
        "inference.sensitivity": 0.2,
        "inference.nms_radius": 9,
        "inference.nms_iou": 0.3,
        "inference.overlap": 32,
    }
    inference = pair_of(first, second).inference
    assert (inference.sensitivity, inference.nms_radius) == (0.7, 9)
    assert (inference.nms_iou, inference.negatives, inference.overlap) == (0.3, 0, 32)
    assert "p: its inference.nms_iou of 0.1 is not taken, but 0.3" in caplog.text
    assert "s: its inference.sensitivity of 0.2 is not taken, but 0.7" in caplog.text
    assert "nms_radius" not in caplog.text
    caplog.clear()
    assert pair_of(first, first) == read_recipe("nano", first)
    assert not caplog.text


def test_a_pair_has_the_name_of_its_segmentors_size_and_the_classes_of_the_network_that_tells_them():
    assert manifest_of(pair_of({"size": "B"}, {"size": "H"}, "kumar")).model == "H"
    assert pair_of({}, {"classes": ["a"]}).classes == ["nucleus"]
    assert pair_of(TOLD, TOLD | {"classes": ["d", "e", "f"]}).classes == ["d", "e", "f"]


def test_the_threads_of_a_prediction_are_pytorchs(monkeypatch):
    set_to = []
    monkeypatch.setattr(torch, "set_num_threads", set_to.append)
    monkeypatch.setattr(pairs, "load_pair", lambda *_: (None, None, read_recipe("nano")))
    open_checkpoints(Path("p"), Path("s"), Options(threads=3))
    open_checkpoints(Path("p"), Path("s"), Options())
    assert set_to == [3]


def test_two_networks_of_other_resolutions_are_no_pair():
    with pytest.raises(PnsegError, match=r"0\.25 µm per pixel, the other at 0\.5"):
        pair_of({}, {"mpp": 0.5})


def test_a_segmentor_that_tells_classes_is_not_exported_without_them():
    decoder = pytest.importorskip("pnseg_export.graphs.decoder")
    network, _ = made("segmentor", TOLD)
    with pytest.raises(PnsegError, match="cannot be exported"):
        decoder.DecoderGraph(network)


SHARED = {"shared_encoder": True}


def test_a_shared_encoder_is_one_and_learns_from_both_losses():
    card = Card(network="shared", recipe=read_recipe("nano", SHARED))
    torch.manual_seed(0)
    pair = build_pair(card)
    backbone = pair.prompter.backbone.backbone
    assert isinstance(backbone, EncoderPyramid)
    assert backbone.encoder is pair.segmentor.image_encoder
    separate = sum(p.numel() for p in pair.prompter.parameters()) + sum(p.numel() for p in pair.segmentor.parameters())
    encoder = sum(p.numel() for p in pair.segmentor.image_encoder.parameters())
    assert sum(p.numel() for p in pair.parameters()) == separate - encoder
    batch, task = crop(256), task_of(pair, card.recipe)
    first = pair.segmentor.image_encoder.backbone.conv_stem.weight
    for part in ("class", "dice"):
        torch.manual_seed(1)
        terms = task.losses(pair.train(), batch)
        term = next(value for name, value in terms.items() if name.endswith(part))
        assert torch.autograd.grad(term, first)[0].any()


def test_a_shared_pair_is_kept_as_two_checkpoints_that_give_the_same(tmp_path):
    card = Card(network="shared", recipe=read_recipe("nano", SHARED))
    pair = build_pair(card).eval()
    save_checkpoint(tmp_path, pair, card)
    prompter, first = load_checkpoint(tmp_path / "prompter")
    segmentor, second = load_checkpoint(tmp_path / "segmentor")
    assert (first.network, second.network) == ("prompter", "segmentor")
    image = crop(256).image
    with torch.no_grad():
        features = pair.encode(image)
        torch.testing.assert_close(prompter(image).points, pair.propose(features, (256, 256)).points)
        torch.testing.assert_close(
            segmentor(image, prompts()).mask_logits, pair.decode(features, prompts()).mask_logits
        )


def test_sams_encoder_can_be_shared_too():
    with torch.device("meta"):
        card = Card(network="shared", recipe=read_recipe("kumar", {**SHARED, "inference.pad_multiple": 32}))
        pair = build_pair(card)
    assert isinstance(pair, SharedPair)
    assert sum(p.numel() for p in pair.parameters()) / 1e6 == pytest.approx(101, abs=4)


def test_tuning_to_other_classes_starts_the_class_heads_anew_and_keeps_all_else(tmp_path):
    one, card = made("prompter", {})
    save_checkpoint(tmp_path, one, card)
    three = {"classes": ["a", "b", "c"], "colors": [[1, 1, 1]] * 3}
    other, other_card = made("prompter", three)
    for tensor in other.state_dict().values():
        tensor.add_(1)
    fresh = start_from(tmp_path, other, other_card)
    assert fresh == ["cls_head.layers.3.weight", "cls_head.layers.3.bias"]
    own = one.state_dict()
    assert all(torch.equal(tensor, own[name]) for name, tensor in other.state_dict().items() if name not in fresh)


@pytest.mark.parametrize(
    ("names", "anew"),
    [(["one", "two"], False), (["One", "t-w-o"], False), (["two", "one"], True), (["one", "three"], True)],
)
@pytest.mark.parametrize(
    ("network", "heads"),
    [
        ("prompter", ["cls_head.layers.3.weight", "cls_head.layers.3.bias"]),
        ("segmentor", ["mask_decoder.class_token.weight", "mask_decoder.class_head."]),
    ],
)
def test_class_heads_start_anew_where_as_many_classes_have_other_names_or_another_order(
    network, heads, names, anew, tmp_path
):
    def told(classes):
        return made(network, {"classes": classes, "colors": [[1, 1, 1]] * len(classes), "class_by": network})

    one, card = told(["one", "two"])
    save_checkpoint(tmp_path, one, card)
    other, other_card = told(names)
    for tensor in other.state_dict().values():
        tensor.add_(1)
    fresh = start_from(tmp_path, other, other_card)
    assert bool(fresh) == anew
    assert all(name.startswith(tuple(heads)) for name in fresh)
    own, kept = one.state_dict(), other.state_dict()
    assert all(torch.equal(tensor, own[name]) == (name not in fresh) for name, tensor in kept.items())


def test_tuning_a_network_of_another_region_width_starts_the_region_branch_anew_and_keeps_all_else(tmp_path):
    one, card = made("prompter", {})
    wide = Prompter(one.backbone.backbone, 80, one.levels, one.spacing, one.num_classes, region_channels=48)
    save_checkpoint(tmp_path, wide, card)
    fresh = start_from(tmp_path, one, card)
    assert fresh
    assert all(name.startswith(("backbone.neck1.", "mask_head.")) for name in fresh)
    own, given = one.state_dict(), wide.state_dict()
    assert all(torch.equal(own[name], tensor) for name, tensor in given.items() if name not in fresh)


def test_a_checkpoint_without_its_region_branch_is_refused(tmp_path):
    one, card = made("prompter", {})
    kept = {name: tensor for name, tensor in one.state_dict().items() if not name.startswith("mask_head.")}
    save_checkpoint(tmp_path, one, card)
    save_file(kept, tmp_path / "model.safetensors")
    with pytest.raises(PnsegError, match="do not fit the network"):
        start_from(tmp_path, *made("prompter", {}))


# What is no part of the backbone in each network's names; all else of it has been trained before.
HEADS = {
    "prompter": ("backbone.neck", "deform_layer", "reg_head", "cls_head", "conv.", "mask_head"),
    "segmentor": ("prompt_encoder", "mask_decoder"),
    "nano prompter": (
        "backbone.neck",
        "deform_layer",
        "reg_head",
        "cls_head",
        "conv.",
        "mask_head",
        "backbone.backbone.bn1",
    ),
    "nano segmentor": (
        *("prompt_encoder", "mask_decoder", "image_encoder.backbone.bn1", "image_encoder.context"),
        *("image_encoder.embed", "image_encoder.merge", "image_encoder.head"),
    ),
}


@pytest.mark.parametrize("name", HEADS)
def test_the_backbone_of_every_network_learns_at_its_own_rate(name):
    kind = name.rpartition(" ")[2]
    card = Card(network=kind, recipe=read_recipe("nano" if "nano" in name else "kumar"))
    with torch.device("meta"):
        network = build(card)
    plan = Plan(steps=1, backbone_lr=0.25)
    groups = make_optimizer(network, plan).param_groups
    slow = {id(p) for group in groups if group["factor"] == 0.25 for p in group["params"]}
    names = {each for each, p in network.named_parameters() if id(p) in slow}
    assert names == {each for each, _ in network.named_parameters() if not each.startswith(HEADS[name])}


def test_the_papers_recipes_train_all_at_one_rate():
    for name in ("pannuke-123", "pannuke-213", "pannuke-321", "kumar", "cpm17"):
        recipe = read_recipe(name)
        assert recipe.prompter.plan.backbone_lr == recipe.segmentor.plan.backbone_lr == 1.0


def test_mixed_precision_computes_in_half_and_keeps_its_weights_whole():
    losses = {}
    one = Crop(*(part[:1] for part in crop(256)))  # bfloat16 is slow on a CPU that does not have it
    for precision in ("32-true", "bf16-mixed"):
        network, card = made("segmentor", {"segmentor.instances": 4})
        plan = card.recipe.segmentor.plan
        fabric = Fabric(accelerator="cpu", devices=1, precision=precision)
        learner, optimizer = fabric.setup(
            Learner(task_of(network, card.recipe), network), make_optimizer(network, plan)
        )
        torch.manual_seed(1)
        losses[precision] = train_step(learner, optimizer, one, fabric, plan)["loss"]
        assert {tensor.dtype for tensor in network.parameters()} == {torch.float32}
    assert losses["bf16-mixed"] != losses["32-true"]
    assert losses["bf16-mixed"] == pytest.approx(losses["32-true"], rel=0.05)
