"""Settings of the optimiser and of the learning-rate schedule."""

import math
import sys
from collections.abc import Sequence
from dataclasses import KW_ONLY, asdict, dataclass
from typing import Any, Literal

import torch
from torch import nn
from torch.optim import Optimizer
from torch.optim.lr_scheduler import LambdaLR, OneCycleLR, ReduceLROnPlateau

from defectlab.errors import InputError
from defectlab.utils._compat import without_length
from defectlab.utils.typed import check_arguments


@dataclass(frozen=True)
class OptimizerSettings:
    """Settings of one of torch's optimisers.

    Args:
        name: torch's class of that name.
        lr: learning rate; with a one-cycle or cosine schedule, its peak.
        weight_decay: L2, on weights alone, not on biases and normalisation. adam, sgd and rmsprop add it times the weight
            to the gradient, as a penalty of half of it times the sum of squares would; adamw subtracts it times the
            rate from the weight itself (Loshchilov & Hutter 2019).
        l1: factor of the sum of the same weights' absolute values, which is added to the training loss.
        momentum: of sgd and rmsprop; a one-cycle schedule moves it between 0.85 and 0.95, unless it is 0.
        fused: one kernel for all parameters, faster on CPU and GPU; rmsprop has none.
    """

    name: Literal["adamw", "adam", "sgd", "rmsprop"] = "adamw"
    _: KW_ONLY
    lr: float = 1e-3
    weight_decay: float = 0.01
    momentum: float = 0.9
    fused: bool = True
    l1: float = 0.0

    def __post_init__(self) -> None:
        check_arguments(OptimizerSettings, asdict(self), "model.optimizer.")
        for name in ("lr", "weight_decay", "momentum", "l1"):
            value = getattr(self, name)
            if not 0 <= value < math.inf:
                raise InputError(f"model.optimizer.{name} is {value}: expected a number of at least 0")

    def build_for(self, modules: Sequence[tuple[nn.Module, float]]) -> Optimizer:
        """Build the optimiser of these modules, each with the factor of its learning rate."""
        groups = parameter_groups(modules, self)
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
    """Settings of the learning-rate schedule.

    Args:
        name: `onecycle` up and down once over the whole run, a step at a time (Smith & Topin 2018); `cosine`
            linear warm-up, then half a cosine down to zero; `plateau` times `factor` whenever `monitor` has not
            improved for `patience` epochs; `constant`.
        warmup: fraction of all steps in which the rate rises, for onecycle and cosine.
        monitor: metric that plateau watches, lower is better for losses, higher for everything else.
        factor: of plateau.
        patience: epochs, of plateau.
    """

    name: Literal["onecycle", "cosine", "plateau", "constant"] = "onecycle"
    _: KW_ONLY
    warmup: float = 0.25
    monitor: str = "val/loss"
    factor: float = 0.3
    patience: int = 3

    def __post_init__(self) -> None:
        check_arguments(SchedulerSettings, asdict(self), "model.scheduler.")
        if self.patience < 0:
            raise InputError(f"model.scheduler.patience is {self.patience}: expected at least 0 epochs")
        if not 0 <= self.warmup < 1:
            raise InputError(f"model.scheduler.warmup is {self.warmup}: expected a fraction of at least 0 and below 1")
        if not 0 < self.factor < 1:
            raise InputError(f"model.scheduler.factor is {self.factor}: expected a number between 0 and 1")

    @property
    def needs_end(self) -> bool:
        """Return whether the schedule depends on the length of the run."""
        return self.name in ("onecycle", "cosine")

    def build(self, optimizer: Optimizer, total_steps: int) -> dict[str, Any] | None:
        """Build Lightning's scheduler config, None for a constant rate; `total_steps` matters if `needs_end`."""
        match self.name:
            case "onecycle":
                return {"scheduler": _OneCycle(optimizer, total_steps, self.warmup), "interval": "step"}
            case "cosine":
                rise = max(1, round(total_steps * self.warmup))

                def factor(step: int) -> float:
                    if step < rise:
                        return (step + 1) / rise
                    return (1 + math.cos(math.pi * min(1.0, (step - rise) / max(1, total_steps - rise)))) / 2

                return {"scheduler": LambdaLR(optimizer, factor), "interval": "step"}
            case "plateau":
                mode: Literal["min", "max"] = "min" if "loss" in self.monitor or "ece" in self.monitor else "max"
                plateau = ReduceLROnPlateau(optimizer, mode, factor=self.factor, patience=self.patience)
                # The task steps it before the checkpoint is written; Lightning would do so afterwards, and in every epoch.
                return {"scheduler": plateau, "monitor": self.monitor, "frequency": sys.maxsize}
            case "constant":
                return None


class _OneCycle(OneCycleLR):
    """torch's schedule for any number of steps, which keeps its own length when a shorter run is resumed."""

    def __init__(self, optimizer: Optimizer, total_steps: int, warmup: float) -> None:
        # torch divides by the length of each phase, so both need two steps.
        rising = min(max(warmup, 2 / total_steps), 1 - 2 / total_steps) if total_steps > 4 else 0.5
        super().__init__(
            optimizer,
            max_lr=[group["lr"] for group in optimizer.param_groups],
            total_steps=max(total_steps, 4),
            pct_start=rising,
            cycle_momentum=optimizer.defaults.get("momentum", 0.9) > 0,
        )

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        """Load the position, not the length: `resume` may be given more epochs."""
        super().load_state_dict(without_length(state_dict))


def decayed(modules: Sequence[tuple[nn.Module, float]]) -> list[nn.Parameter]:
    """Return the weights that L1 penalises: no bias, no gain or shift of a normalisation, nothing frozen."""
    return [p for module, _ in modules for p in module.parameters() if p.ndim > 1 and p.requires_grad]


def parameter_groups(modules: Sequence[tuple[nn.Module, float]], settings: OptimizerSettings) -> list[dict[str, Any]]:
    """Return the groups of `(module, factor of the learning rate)`; one-dimensional parameters get no weight decay."""
    groups: list[dict[str, Any]] = []
    for module, factor in modules:
        for decays in (True, False):
            parameters = [p for p in module.parameters() if (p.ndim > 1) == decays]
            if parameters:
                decay = settings.weight_decay if decays else 0.0
                groups.append({"params": parameters, "lr": settings.lr * factor, "weight_decay": decay})
    return groups
