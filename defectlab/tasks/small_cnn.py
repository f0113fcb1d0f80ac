"""Train one of the small CNNs that courses teach, or any network with the same three first arguments."""

import functools
import importlib
import inspect
from collections.abc import Callable, Mapping, Sequence
from typing import Any, Literal, Protocol, runtime_checkable

import torch
from torch import Tensor, nn

from defectlab.errors import InputError
from defectlab.networks import Network, PretrainedNetwork
from defectlab.tasks.base import ClassificationTask
from defectlab.tasks.optimization import OptimizerSettings, SchedulerSettings
from defectlab.tasks.tta import Views

__all__ = ["PixelStatistics", "SmallCNNTask"]


@runtime_checkable
class PixelStatistics(Protocol):
    """A datamodule that can measure every pixel by itself."""

    def pixel_statistics(self) -> tuple[Tensor, Tensor]:
        """Mean and scale `(C, H, W)` of the training images as the loaders give them."""


class SmallCNNTask(ClassificationTask):
    """A network trained from scratch.

    Args:
        network: called with `(num_classes, in_channels, image_size)`; in YAML a `class_path`, with further
            arguments in `init_args`. See `defectlab.networks`.
        num_classes: taken from the data by the command line.
        in_channels: likewise.
        image_size: side in pixels, likewise.
        standard_scaler: standardise every pixel by its own mean and sd over the training images, as scikit-learn's
            StandardScaler does, in place of all pixels alike. A part of the network, so that it is in the checkpoint
            and in whatever is exported, and that test-time augmentation and noise come before it.
        optimizer: see `OptimizerSettings`; None for its defaults.
        scheduler: see `SchedulerSettings`; None for its defaults.
        label_smoothing: share of the target spread over all classes, in [0, 1).
        class_weights: a weight a class in the loss, or `balanced` or `sqrt_balanced`; see `ClassificationTask`.
        tta: views that every image is judged by in evaluation: `flip` (2), `dihedral` (8) or `shift` (5).
        channels_last: memory format of network and images.
        compile: pass the network through torch.compile.
    """

    def __init__(
        self,
        network: Callable[[int, int, int], nn.Module],
        num_classes: int,
        in_channels: int,
        image_size: int,
        standard_scaler: bool = False,
        optimizer: OptimizerSettings | None = None,
        scheduler: SchedulerSettings | None = None,
        label_smoothing: float = 0.0,
        class_weights: Sequence[float] | Literal["balanced", "sqrt_balanced"] | None = None,
        tta: Views = "none",
        channels_last: bool = True,
        compile: bool = False,  # noqa: A002
    ) -> None:
        given: Any = network
        if isinstance(given, Mapping):  # from a checkpoint
            network = network_from_spec(given)
        module = network(num_classes, in_channels, image_size)
        _check_logits(module, num_classes, (2, in_channels, image_size, image_size))
        if standard_scaler:
            if not isinstance(module, Network) or isinstance(module, PretrainedNetwork):
                raise InputError(
                    f"model.standard_scaler is for the small networks of defectlab.networks, not {type(module).__name__}"
                )
            module.standardise_pixels()
        super().__init__(
            module, num_classes, optimizer=optimizer, scheduler=scheduler, label_smoothing=label_smoothing,
            class_weights=class_weights, tta=tta, channels_last=channels_last, compile=compile,
        )  # fmt: skip
        self.save_hyperparameters(logger=False)

    def setup(self, stage: str) -> None:
        """Measure the training images; a checkpoint that training goes on from brings its own figures afterwards."""
        scaler = self.network.scaler if isinstance(self.network, Network) else None
        if stage != "fit" or scaler is None:
            return
        data = self.trainer.datamodule  # type: ignore[attr-defined]
        if not isinstance(data, PixelStatistics):
            raise InputError("model.standard_scaler needs one of defectlab's datamodules to measure: set it to false")
        scaler.fit(*data.pixel_statistics())


def _check_logits(network: nn.Module, num_classes: int, shape: tuple[int, int, int, int]) -> None:
    """Show the network two black images: a class that is no classifier is told before any data is read."""
    name = type(network).__name__
    training = network.training
    try:
        with torch.no_grad():
            logits = network.eval()(torch.zeros(shape))
    except (RuntimeError, TypeError, ValueError) as error:
        reason = (str(error).splitlines() or [type(error).__name__])[0]
        raise InputError(f"model.network {name} cannot take images of shape {shape}: {reason}") from None
    network.train(training)
    if not isinstance(logits, torch.Tensor) or logits.shape != (shape[0], num_classes):
        found = tuple(logits.shape) if isinstance(logits, torch.Tensor) else type(logits).__name__
        raise InputError(
            f"model.network {name} turns images of shape {shape} into {found}: expected logits of shape "
            f"({shape[0]}, {num_classes}); its first three arguments are num_classes, in_channels and image_size"
        )


def network_from_spec(spec: Mapping[str, Any]) -> Callable[[int, int, int], nn.Module]:
    """The network class of `{"class_path": ..., "init_args": {...}}`, its further arguments filled in.

    Raises:
        InputError: it cannot be imported, or is no nn.Module.
    """
    path = str(spec["class_path"])
    module, _, name = path.rpartition(".")
    try:
        cls = getattr(importlib.import_module(module), name)
    except (ImportError, AttributeError, ValueError):
        raise InputError(f"the network {path} cannot be imported: install the package that it is from") from None
    if not (inspect.isclass(cls) and issubclass(cls, nn.Module)):
        raise InputError(f"the network {path} is not a torch.nn.Module: expected a network class")
    return functools.partial(cls, **spec.get("init_args") or {})
