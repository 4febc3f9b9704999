"""A recipe's settings ↔ a bundle's manifest."""

from __future__ import annotations

from typing import Any

from pnseg_runtime.bundle import Classes, Manifest, Masking, Prompting
from pnseg_train.recipes import Recipe

# Settings of the inference that have the same name in both, by the part of the manifest where they stand.
_WHOLE = {"colour_blur", "enlarged_blur", "unknown_mpp"}
_PROMPTING = {"sensitivity", "region_filter", "nms_radius", "negatives"}
_MASKING = {"nms_iou", "nms_overlap", "iou_threshold", "tidy", "overlap"}


def manifest_of(recipe: Recipe) -> Manifest:
    """What the runtime must know of a pair trained by a recipe; graphs are filled in by the export."""
    inference = recipe.inference
    return Manifest(
        model=recipe.size,
        mpp=recipe.mpp,
        classes=Classes(names=recipe.classes, colors=recipe.colors),
        prompting=Prompting(
            anchor_spacing=recipe.prompter.spacing,
            levels=recipe.prompter.levels,
            pad_multiple=inference.pad_multiple or recipe.prompter.spacing,
            **inference.model_dump(include=_PROMPTING),
        ),
        masking=Masking(**inference.model_dump(include=_MASKING)),
        graphs={},
        **inference.model_dump(include=_WHOLE),
    )


def fields_of(manifest: Manifest) -> dict[str, Any]:
    """What a manifest says of its networks, as fields of a recipe; :func:`manifest_of` of that says the same."""
    prompting, masking = manifest.prompting, manifest.masking
    inference = {
        **manifest.model_dump(include=_WHOLE),
        **prompting.model_dump(include=_PROMPTING | {"pad_multiple"}),
        **masking.model_dump(include=_MASKING),
    }
    return {
        "classes": list(manifest.classes.names),
        "colors": list(manifest.classes.colors),
        "mpp": manifest.mpp,
        "prompter.levels": prompting.levels,
        "prompter.spacing": prompting.anchor_spacing,
        **{f"inference.{field}": value for field, value in inference.items()},
    }
