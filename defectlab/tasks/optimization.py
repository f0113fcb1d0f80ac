"""Optimiser and learning-rate schedule as plain values, so that they fit a YAML and a checkpoint."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, Literal

import torch
from torch import nn
from torch.optim import Optimizer
from torch.optim.lr_scheduler import CosineAnnealingLR, LinearLR, OneCycleLR, ReduceLROnPlateau, SequentialLR

from defectlab.errors import InputError

__all__ = ["OptimizerSettings", "SchedulerSettings", "parameter_groups"]


@dataclass(frozen=True)
class OptimizerSettings:
    """One of torch's optimisers.

    Args:
        name: torch's class of that name.
        lr: learning rate; with a one-cycle or cosine schedule, its peak.
        weight_decay: on weights alone; biases and normalisation are left out.
        momentum: of sgd and rmsprop.
        fused: one kernel for all parameters, faster on CPU and GPU; rmsprop has none.
    """

    name: Literal["adamw", "adam", "sgd", "rmsprop"] = "adamw"
    lr: float = 1e-3
    weight_decay: float = 0.01
    momentum: float = 0.9
    fused: bool = True

    def __post_init__(self) -> None:
        for name, value in (("lr", self.lr), ("weight_decay", self.weight_decay), ("momentum", self.momentum)):
            if value < 0:
                raise InputError(f"model.optimizer.{name} is {value}: expected a number of at least 0")

    def build(self, groups: list[dict[str, Any]]) -> Optimizer:
        """The optimiser of parameter groups that `parameter_groups` made."""
        match self.name:
            case "adamw":
                return torch.optim.AdamW(groups, lr=self.lr, fused=self.fused)
            case "adam":
                return torch.optim.Adam(groups, lr=self.lr, fused=self.fused)
            case "sgd":
                return torch.optim.SGD(groups, lr=self.lr, momentum=self.momentum, fused=self.fused)
            case "rmsprop":
                return torch.optim.RMSprop(groups, lr=self.lr, momentum=self.momentum)


@dataclass(frozen=True)
class SchedulerSettings:
    """How the learning rate moves.

    Args:
        name: `onecycle` up and down once over the whole run, a step at a time (Smith & Topin 2018); `cosine`
            linear warm-up, then half a cosine down to zero; `plateau` times `factor` whenever `monitor` has not
            improved for `patience` epochs; `constant`.
        warmup: share of all steps that the rate climbs, for onecycle and cosine.
        monitor: metric that plateau watches, lower is better for losses, higher for everything else.
        factor: of plateau.
        patience: epochs, of plateau.
    """

    name: Literal["onecycle", "cosine", "plateau", "constant"] = "onecycle"
    warmup: float = 0.25
    monitor: str = "val/loss"
    factor: float = 0.3
    patience: int = 3

    def __post_init__(self) -> None:
        if not 0 <= self.warmup < 1:
            raise InputError(f"model.scheduler.warmup is {self.warmup}: expected a share of at least 0 and below 1")
        if not 0 < self.factor < 1:
            raise InputError(f"model.scheduler.factor is {self.factor}: expected a number between 0 and 1")

    def build(self, optimizer: Optimizer, total_steps: int) -> dict[str, Any] | None:
        """Lightning's scheduler block, None for a constant rate."""
        match self.name:
            case "onecycle":
                peaks = [group["lr"] for group in optimizer.param_groups]
                # torch divides by the length of each phase, so both need two steps.
                share = min(max(self.warmup, 2 / total_steps), 1 - 2 / total_steps) if total_steps > 4 else 0.5
                one_cycle = OneCycleLR(optimizer, max_lr=peaks, total_steps=max(total_steps, 4), pct_start=share)
                return {"scheduler": one_cycle, "interval": "step"}
            case "cosine":
                climb = max(1, round(total_steps * self.warmup))
                phases = [
                    LinearLR(optimizer, 1 / climb, total_iters=climb),
                    CosineAnnealingLR(optimizer, max(1, total_steps - climb)),
                ]
                return {"scheduler": SequentialLR(optimizer, phases, [climb]), "interval": "step"}  # type: ignore[arg-type]
            case "plateau":
                mode: Literal["min", "max"] = "min" if "loss" in self.monitor or "ece" in self.monitor else "max"
                plateau = ReduceLROnPlateau(optimizer, mode, factor=self.factor, patience=self.patience)
                return {"scheduler": plateau, "interval": "epoch", "monitor": self.monitor}
            case "constant":
                return None


def parameter_groups(modules: Sequence[tuple[nn.Module, float]], settings: OptimizerSettings) -> list[dict[str, Any]]:
    """Groups for `(module, factor of the learning rate)`; one-dimensional parameters get no weight decay."""
    groups: list[dict[str, Any]] = []
    for module, factor in modules:
        for decays in (True, False):
            parameters = [p for p in module.parameters() if (p.ndim > 1) == decays]
            if parameters:
                decay = settings.weight_decay if decays else 0.0
                groups.append({"params": parameters, "lr": settings.lr * factor, "weight_decay": decay})
    return groups
