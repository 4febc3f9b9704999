"""Optimiser and learning rate, as a plan has them."""

from __future__ import annotations

import math

import torch
from torch import nn

from pnseg_train.models.sizes import backbone_parameters
from pnseg_train.recipes import Plan


def learning_rate(step: int, plan: Plan) -> float:
    """The rate at a step: linear warm-up, then the plan's schedule."""
    if step < plan.warmup:
        return plan.lr * (step + 1) / plan.warmup
    if plan.schedule == "cosine":
        progress = (step - plan.warmup) / max(plan.steps - plan.warmup, 1)
        return plan.lr * (0.01 + 0.99 * 0.5 * (1 + math.cos(math.pi * progress)))
    return plan.lr * (0.1 if plan.schedule == "step" and step >= plan.step_at else 1.0)


def make_optimizer(network: nn.Module, plan: Plan) -> torch.optim.Optimizer:
    """Adam or AdamW; the pretrained backbone at its own rate.

    Adam decays all weights, as the reference implementation has it with both; AdamW none of norms and biases.
    """
    groups: dict[tuple[float, float], list[nn.Parameter]] = {}
    backbone = {id(parameter) for parameter in backbone_parameters(network)}
    for parameter in network.parameters():
        if parameter.requires_grad:
            factor = plan.backbone_lr if id(parameter) in backbone else 1.0
            decay = plan.weight_decay if parameter.ndim > 1 or plan.optimizer == "adam" else 0.0
            groups.setdefault((factor, decay), []).append(parameter)
    settings = [
        {"params": params, "factor": factor, "weight_decay": decay} for (factor, decay), params in groups.items()
    ]
    kind = torch.optim.AdamW if plan.optimizer == "adamw" else torch.optim.Adam
    return kind(settings, lr=plan.lr)
