"""Training recipes: YAML files, validated, every field overridable."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Annotated, Any, Literal

import yaml
from pydantic import (
    BaseModel,
    ConfigDict,
    Field,
    NonNegativeFloat,
    PositiveFloat,
    ValidationError,
    field_validator,
    model_validator,
)

from pnseg_runtime.bundle import Guess
from pnseg_runtime.errors import PnsegError, first_fault

RECIPES = Path(__file__).parent


class _Strict(BaseModel):
    model_config = ConfigDict(extra="forbid", frozen=True)


Share = Annotated[float, Field(ge=0, le=1)]
Channel = Annotated[int, Field(ge=0, le=255)]
Part = Literal["image_encoder", "prompt_encoder", "mask_decoder"]
PrompterPart = Literal["backbone", "points", "region"]


class Plan(_Strict):
    """How long and how fast a network is trained."""

    steps: int = Field(gt=0)
    batch: int = Field(8, gt=0)
    optimizer: Literal["adam", "adamw"] = "adamw"
    lr: float = Field(1e-4, gt=0)
    backbone_lr: float = Field(
        1.0, ge=0, description="factor on the learning rate of the image backbone or SAM's encoder"
    )
    weight_decay: float = Field(1e-4, ge=0)
    clip: float | None = Field(0.1, ge=0, description="largest gradient norm; 0 leaves gradients as they are")
    warmup: int = Field(0, ge=0, description="steps of linear warm-up")
    schedule: Literal["constant", "cosine", "step"] = "cosine"
    step_at: int = Field(0, ge=0, description="the step from which a 'step' schedule divides the rate by ten")
    ema: float = Field(0.99, ge=0, lt=1, description="decay of the weights' moving average; 0 switches it off")
    ema_from: int = Field(0, ge=0, description="first averaged step")
    fixed_norms: bool = Field(
        False, description="batch norms keep the statistics they start with, as a network that is tuned gently needs"
    )
    precision: Literal["32-true", "bf16-mixed", "16-mixed"] = Field(
        "32-true", description="Lightning Fabric's name of a precision"
    )
    validate_every: int = Field(250, gt=0)
    checkpoint_every: int = Field(100, gt=0)
    keep: tuple[Annotated[int, Field(gt=0)], ...] = Field(
        (), description="steps whose checkpoints are kept beside the best and the last, as step-N"
    )
    seed: int = Field(0, ge=0)

    @model_validator(mode="after")
    def _has_its_step(self) -> Plan:
        if self.schedule == "step" and not self.step_at:
            raise ValueError("with the schedule step, step_at must be above 0: from 0 on, no step has the rate lr")
        return self


class Augment(_Strict):
    """Crops and their augmentation, see :mod:`pnseg_train.augment`."""

    crop: int = Field(256, gt=0)
    diameter: float = Field(
        20.0, ge=0, description="half of the crops are scaled so that nuclei get it, px; 0 for none"
    )
    spread: float = Field(0.3, ge=0, description="standard deviation of the log of the scale")
    limits: tuple[PositiveFloat, PositiveFloat] = Field((0.55, 2.5), description="smallest and largest scale")
    turns: bool = Field(
        True, description="crops are turned and mirrored; false teaches where labels lie, if all lie off their images"
    )
    colour: float = Field(1.0, ge=0, le=4, description="strength; 0 leaves colours alone, and 4 blurs every crop")
    clumps: Share = Field(0.0, description="share of the crops whose nuclei get copies laid against them")
    compression: Share = Field(0.0, description="share of the crops that lose what files of scanners lose")
    pairs: Share = Field(0.0, description="share of the crops that are seen as two files hold them")

    @field_validator("limits")
    @classmethod
    def _ascend(cls, limits: tuple[float, float]) -> tuple[float, float]:
        if limits[0] > limits[1]:
            raise ValueError("the smallest scale comes before the largest")
        return limits


class PrompterRecipe(_Strict):
    """The prompter and its loss (paper section 3.1)."""

    levels: int = Field(3, ge=1, le=4, description="L")
    spacing: int = Field(8, gt=0, description="λ, px")
    background_weight: float = Field(0.4, ge=0, description="β")
    point_weight: float = Field(5e-3, ge=0)
    region_weight: float = Field(1.0, ge=0, description="auxiliary region task; 0 switches it off")
    agreement: float = Field(0.0, ge=0, description="weight of what a crop's two files (augment.pairs) must share")
    frozen: list[PrompterPart] = Field([], description="parts that are not trained: backbone, points, region")
    plan: Plan


class SegmentorRecipe(_Strict):
    """The segmentor and its loss (paper section 3.2)."""

    negatives: int = Field(1, ge=0, description="K in training")
    drop_negatives: Share = Field(0.0, description="share of the prompts that get no negative")
    instances: int = Field(20, gt=0, description="Z, prompts a crop at most")
    central: Share = Field(0.0, description="share of the points drawn near the centroid, as a prompter places them")
    focal_weight: float = Field(20.0, ge=0, description="of the masks' focal loss; 1 in the published code")
    dice_weight: float = Field(1.0, ge=0, description="of the masks' Dice loss; 20 in the published code")
    dice_each: bool = Field(False, description="Dice of each mask instead of the batch's")
    vote_weight: float = Field(0.0, ge=0, description="weight of the dense outputs' losses (nano)")
    full_size: bool = Field(True, description="masks are compared at 256×256; else at the decoder's resolution")
    contact_weight: float = Field(0.0, ge=0, description="added to the weight of pixels where two nuclei touch")
    class_weight: float = Field(
        1.0, ge=0, description="weight of the class's focal loss, if the segmentor tells classes"
    )
    frozen: list[Part] = Field(
        [], description="parts that are not trained: image_encoder, prompt_encoder, mask_decoder"
    )
    plan: Plan


class Inference(_Strict):
    """How the trained pair predicts (paper section 3.3); these go into the bundle's manifest.

    Nothing here changes the training, so that a run goes on when it is changed.
    """

    colour_blur: float = Field(0.0, ge=0, description="of differences of colour, before the networks look, px")
    enlarged_blur: tuple[NonNegativeFloat, NonNegativeFloat] = Field(
        (0.0, 0.0),
        description="of brightness and of differences of colour, for the prompter, for each time an image is enlarged, "
        "px",
    )
    unknown_mpp: Guess = Field("model", description="what files that state no resolution are taken for")
    sensitivity: float = Field(0.0, description="taken from the background's class logit")
    region_filter: bool = Field(True, description="mask-aided filtering of the points")
    pad_multiple: int = Field(0, ge=0, description="sides of the prompter's image are mirrored up to it; 0 for λ, px")
    nms_radius: float = Field(12.0, ge=0, description="of the point NMS, px")
    negatives: int = Field(0, ge=0, description="K")
    nms_iou: Share = Field(0.5, description="of two masks whose boxes overlap more, one goes")
    nms_overlap: float | None = Field(
        None, gt=0, le=1, description="if more of the smaller of two masks lies in the other, one goes; not by nms_iou"
    )
    iou_threshold: Share = Field(0.0, description="masks with a lower predicted IoU are dropped")
    overlap: int = Field(64, ge=0, lt=256, description="ε, what neighbouring windows share, px")
    tidy: bool = Field(False, description="keep a mask's largest piece and fill its holes")


NO_SPLIT = "none"


class Splits(_Strict):
    """Which images of the data are for what (see docs/datasets.md)."""

    train: str = "train"
    val: str = Field("val", description="what chooses the best step; none for no validation")
    test: str = "test"


class Recipe(_Strict):
    """Everything that a training run needs but the data."""

    size: Literal["B", "L", "H", "nano"]
    classes: list[str] = Field(min_length=1)
    colors: list[tuple[Channel, Channel, Channel]]
    mpp: float = Field(0.25, gt=0)
    splits: Splits = Splits()
    class_by: Literal["prompter", "segmentor"] = Field("prompter", description="which network tells a nucleus's class")
    shared_encoder: bool = Field(False, description="one image encoder for both networks, trained end to end")
    augment: Augment = Augment()
    prompter: PrompterRecipe
    segmentor: SegmentorRecipe
    inference: Inference = Inference()

    @model_validator(mode="after")
    def _sound(self) -> Recipe:
        if self.shared_encoder and self.inference.pad_multiple % 32:
            raise ValueError("with shared_encoder, inference.pad_multiple must be a multiple of 32")
        if self.shared_encoder and not self.inference.pad_multiple:
            raise ValueError("with shared_encoder, inference.pad_multiple must be set, to a multiple of 32")
        if self.prompter.region_weight == 0 and self.inference.region_filter:
            raise ValueError("prompter.region_weight 0 trains no region map, so inference.region_filter must be false")
        if self.prompter.agreement and not self.augment.pairs:
            raise ValueError("prompter.agreement compares two files of a crop, so augment.pairs must be above 0")
        if self.prompter.agreement and self.shared_encoder:
            raise ValueError("with shared_encoder, prompter.agreement must be 0: it needs an encoder of its own")
        if len(self.classes) != len(self.colors):
            raise ValueError("classes and colors must be of one length")
        return self

    @property
    def prompter_classes(self) -> int:
        """C of the prompter: one, nucleus, if the segmentor tells the classes."""
        return len(self.classes) if self.class_by == "prompter" else 1

    @property
    def segmentor_classes(self) -> int:
        """Classes that the segmentor's [cls] token tells; none if the prompter does."""
        return len(self.classes) if self.class_by == "segmentor" else 0

    def training(self) -> str:
        """The part that determines a training run, as JSON."""
        return self.model_dump_json(exclude={"inference", "splits"})


def same_classes(names: Sequence[str], others: Sequence[str]) -> bool:
    """Whether two models tell the same classes, in the same order; neither capitals nor hyphens count."""
    return [_plain(name) for name in names] == [_plain(name) for name in others]


def _plain(name: str) -> str:
    return "".join(character for character in name.casefold() if character.isalnum())


def read_recipe(name_or_path: str, overrides: dict[str, Any] | None = None) -> Recipe:
    """A shipped recipe by name, or any YAML file; ``overrides`` maps dotted fields to values.

    Raises:
        PnsegError: no such recipe, or a field that does not exist or does not fit.
    """
    path = Path(name_or_path) if name_or_path.endswith((".yaml", ".yml")) else RECIPES / f"{name_or_path}.yaml"
    if not path.is_file():
        known = ", ".join(sorted(p.stem for p in RECIPES.glob("*.yaml")))
        raise PnsegError(f"{name_or_path}: no such recipe; give a YAML file or one of {known}.")
    try:
        document = yaml.safe_load(path.read_text(encoding="utf-8"))
    except (yaml.YAMLError, UnicodeDecodeError) as error:
        raise PnsegError(
            f"{path}: not a YAML file ({' '.join(str(error).split())}); see the shipped recipes."
        ) from error
    if not isinstance(document, dict):
        raise PnsegError(f"{path}: holds no fields; see the shipped recipes.")
    for dotted, value in (overrides or {}).items():
        _assign(document, dotted.split("."), value)
    try:
        return Recipe.model_validate(document)
    except ValidationError as error:
        raise PnsegError(f"{path}: {first_fault(error, 'recipe')}; see the shipped recipes.") from error


def _assign(document: dict[str, Any], keys: list[str], value: Any) -> None:
    for place, key in enumerate(keys[:-1], start=1):
        document = document.setdefault(key, {})
        if not isinstance(document, dict):
            raise PnsegError(f"--set {'.'.join(keys)}: {'.'.join(keys[:place])} has no fields; set it as a whole.")
    document[keys[-1]] = value
