"""Train one of the small CNNs of courses, or a user's network."""

from collections.abc import Callable

from torch import nn

from defectlab.errors import InputError
from defectlab.networks import Network, PretrainedNetwork
from defectlab.tasks.base import ClassificationTask
from defectlab.tasks.hparams import NetworkSpec
from defectlab.tasks.loss import ClassWeights, Loss
from defectlab.tasks.optimization import OptimizerSettings, SchedulerSettings
from defectlab.tasks.tta import Views
from defectlab.utils.image_format import Size


class SmallCNNTask(ClassificationTask):
    """A network trained from scratch.

    Args:
        standard_scaler: standardise every pixel by its own mean and sd over the training images, as scikit-learn's
            StandardScaler does. It is a part of the network, and so of the checkpoint and of every export.

    The other arguments are those of `ClassificationTask`.
    """

    def __init__(
        self,
        network: NetworkSpec | Callable[[int, int, int], nn.Module] | Callable[..., nn.Module] | nn.Module,
        num_classes: int,
        in_channels: int,
        image_size: Size,
        standard_scaler: bool = False,
        optimizer: OptimizerSettings | None = None,
        scheduler: SchedulerSettings | None = None,
        label_smoothing: float = 0.0,
        class_weights: ClassWeights = None,
        tta: Views = "none",
        channels_last: bool = True,
        compile: bool = False,  # noqa: A002
        multilabel: bool = False,
        loss: Loss = "auto",
    ) -> None:
        super().__init__(
            network, num_classes, in_channels, image_size, optimizer=optimizer, scheduler=scheduler,
            label_smoothing=label_smoothing, class_weights=class_weights, tta=tta, channels_last=channels_last,
            compile=compile, multilabel=multilabel, loss=loss,
        )  # fmt: skip
        if standard_scaler:
            if not isinstance(self.network, Network) or isinstance(self.network, PretrainedNetwork):
                raise InputError(
                    "model.standard_scaler is for the small networks of defectlab.networks, not "
                    f"{type(self.network).__name__}"
                )
            self.network.standardise_pixels()

    def setup(self, stage: str) -> None:
        """Measure the training images; a checkpoint that is resumed replaces the result afterwards."""
        scaler = self.network.scaler if isinstance(self.network, Network) else None
        if stage != "fit" or scaler is None:
            return
        data = self.trainer.datamodule  # type: ignore[attr-defined]
        if not hasattr(data, "pixel_statistics"):
            raise InputError("model.standard_scaler needs one of defectlab's datamodules to measure: set it to false")
        scaler.fit(*data.pixel_statistics())
