"""Find a learning rate by a range test before training."""

import dataclasses
import itertools
import logging
import math
from collections.abc import Iterator
from typing import Any

import lightning.pytorch as pl
import torch
from lightning.pytorch.utilities.seed import isolate_rng
from matplotlib.figure import Figure
from torch import Tensor

from defectlab.errors import InputError
from defectlab.figures.style import BLUE, GREY, save_png, style_axes
from defectlab.runs import RunFolder
from defectlab.tasks import ClassificationTask
from defectlab.utils._compat import rebuild_optimizers, setup_training_data

_log = logging.getLogger(__name__)

_WINDOW = 9  # steps that a loss is smoothed over


class RateFinder(pl.Callback):
    """Raise the rate with every step from the lowest to the highest (Smith 2017, section 3.3), and train with a tenth
    of the one at which the loss was lowest: it becomes `model.optimizer.lr`, the peak of the schedule.

    The steps are undone before training: weights, random numbers and the order of the images are those of a run without
    them. The rate is printed, drawn in `lr_finder.png` in the run folder, and kept in metrics.json and the checkpoints;
    `resume` uses it without another search. Lightning's LearningRateFinder sets the rate of the optimiser alone, which
    a one-cycle schedule overwrites, and drops the factor of a backbone.

    Args:
        lowest: rate of the first step.
        highest: rate of the last one; the search ends earlier where the loss is twice that of the start.
        steps: of the search.
    """

    def __init__(self, lowest: float = 1e-5, highest: float = 1.0, steps: int = 100) -> None:
        if not 0 < lowest < highest < math.inf:
            raise InputError(
                f"RateFinder searches from {lowest} to {highest}: expected two rates, 0 < lowest < highest"
            )
        if steps < 2 * _WINDOW:
            raise InputError(f"RateFinder.steps is {steps}: expected at least {2 * _WINDOW}, such as 100")
        self.lowest, self.highest, self.steps = lowest, highest, steps
        self.found: float | None = None

    def state_dict(self) -> dict[str, Any]:
        """Return the rate."""
        return {"found": self.found}

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        """Load the rate of the run that is resumed."""
        self.found = state_dict["found"]

    def on_fit_start(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        """Search, then build optimiser and schedule again."""
        if not isinstance(pl_module, ClassificationTask):
            raise InputError("RateFinder is for defectlab's tasks")
        if self.found is not None:
            pl_module.set_rate(self.found)  # the optimiser's own state is about to come from the checkpoint
            return
        with isolate_rng():
            rates, losses = self._try_rates(trainer, pl_module)
        self.found = trainer.strategy.broadcast(suggested(rates, losses))
        assert self.found is not None
        pl_module.set_rate(self.found)
        rebuild_optimizers(trainer)
        if trainer.is_global_zero:
            _log.info(
                "learning rate %.2g, a tenth of the one with the lowest loss in a test of %d steps",
                self.found,
                len(rates),
            )
            save_png(_figure(rates, losses, self.found), RunFolder(trainer.default_root_dir).lr_finder_png)

    def _try_rates(self, trainer: pl.Trainer, task: ClassificationTask) -> tuple[list[float], list[float]]:
        """Return the rates of the steps, and the training loss before each; the task is left as it was."""
        kept = {name: tensor.clone() for name, tensor in task.state_dict().items()}
        optimizer = dataclasses.replace(task.optimizer, lr=1.0).build_for(task.parameter_modules())
        factors = [group["lr"] for group in optimizer.param_groups]
        setup_training_data(trainer)
        loader: Any = trainer.train_dataloader
        if isinstance(getattr(loader, "epoch", None), int):  # a loader that was used before continues its epochs
            loader.epoch = trainer.current_epoch
        rates, losses = [], []
        task.train()
        for step, batch in enumerate(itertools.islice(_endless(trainer.train_dataloader), self.steps)):
            rate = self.lowest * (self.highest / self.lowest) ** (step / (self.steps - 1))
            for group, factor in zip(optimizer.param_groups, factors, strict=True):
                group["lr"] = rate * factor
            images, labels = trainer.strategy.batch_to_device(batch)
            with trainer.precision_plugin.train_step_context():
                loss = task.penalised(task.batch_loss(images, task(images), labels))
            optimizer.zero_grad()
            loss.backward()  # type: ignore[no-untyped-call]
            optimizer.step()
            loss = trainer.strategy.reduce(loss.detach(), reduce_op="mean")
            losses.append(float(loss))
            rates.append(rate)
            if not math.isfinite(losses[-1]) or min(losses[-_WINDOW:]) > 2 * losses[0]:
                break
        optimizer.zero_grad()
        task.load_state_dict(kept)
        return rates, losses


def suggested(rates: list[float], losses: list[float]) -> float:
    """Return a tenth of the rate at which the smoothed loss is lowest.

    It varies by a factor of 2 between seeds where the steepest slope varies by 100 (LeNet-5 and a residual network on
    MNIST, adam and sgd, three seeds each).

    Raises:
        InputError: the loss falls nowhere.
    """
    smooth = _smooth(losses)
    if not len(smooth) or smooth.argmin() == 0:
        raise InputError(
            f"RateFinder: the loss falls at no rate from {rates[0]:g} to {rates[-1]:g}: give model.optimizer.lr, or other "
            "bounds"
        )
    return rates[int(smooth.argmin()) + _WINDOW // 2] / 10


def _smooth(losses: list[float]) -> Tensor:
    """Return centred running means of the finite losses."""
    finite = torch.tensor([loss for loss in losses if math.isfinite(loss)], dtype=torch.float64)
    return finite.unfold(0, _WINDOW, 1).mean(dim=1) if len(finite) >= _WINDOW else finite[:0]


def _endless(loader: Any) -> Iterator[Any]:
    while True:
        yield from loader


def _figure(rates: list[float], losses: list[float], found: float) -> Figure:
    """Draw the loss by rate, and the rate that was taken."""
    figure = Figure(figsize=(6, 3.4), layout="constrained")
    axes = figure.subplots()
    smooth, half = _smooth(losses), _WINDOW // 2
    axes.plot(rates, losses, color="0.75", linewidth=1, label="training loss")
    axes.plot(rates[half : half + len(smooth)], smooth.numpy(), color=BLUE, label=f"mean of {_WINDOW} steps")
    style_axes(axes)
    axes.axvline(found, color=GREY, linestyle="--", label=f"taken: {found:.2g}")
    axes.set(xscale="log", xlabel="learning rate", ylabel="loss", ylim=(0, 2.2 * losses[0]))
    axes.legend(frameon=False)
    return figure
