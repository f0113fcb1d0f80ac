"""Train one of the small CNNs that courses teach, or any network of one's own."""

from collections.abc import Callable, Sequence
from typing import Literal, Protocol, runtime_checkable

from torch import Tensor, nn

from defectlab.errors import InputError
from defectlab.networks import Network, PretrainedNetwork
from defectlab.tasks.base import ClassificationTask
from defectlab.tasks.hparams import NetworkSpec
from defectlab.tasks.optimization import OptimizerSettings, SchedulerSettings
from defectlab.tasks.tta import Views


@runtime_checkable
class PixelStatistics(Protocol):
    """A datamodule that can measure every pixel by itself."""

    def pixel_statistics(self) -> tuple[Tensor, Tensor]:
        """Mean and scale `(C, H, W)` of the training images as the loaders give them."""


class SmallCNNTask(ClassificationTask):
    """A network trained from scratch.

    Args:
        network: a module, or a class or function that makes one, see `build_network`; in YAML a `class_path`, with
            further arguments in `init_args`. See `defectlab.networks`.
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
        network: NetworkSpec | Callable[[int, int, int], nn.Module] | Callable[..., nn.Module] | nn.Module,
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
        super().__init__(
            network, num_classes, in_channels, image_size, optimizer=optimizer, scheduler=scheduler,
            label_smoothing=label_smoothing, class_weights=class_weights, tta=tta, channels_last=channels_last,
            compile=compile,
        )  # fmt: skip
        if standard_scaler:
            if not isinstance(self.network, Network) or isinstance(self.network, PretrainedNetwork):
                raise InputError(
                    "model.standard_scaler is for the small networks of defectlab.networks, not "
                    f"{type(self.network).__name__}"
                )
            self.network.standardise_pixels()

    def setup(self, stage: str) -> None:
        """Measure the training images; a checkpoint that training goes on from brings its own figures afterwards."""
        scaler = self.network.scaler if isinstance(self.network, Network) else None
        if stage != "fit" or scaler is None:
            return
        data = self.trainer.datamodule  # type: ignore[attr-defined]
        if not isinstance(data, PixelStatistics):
            raise InputError("model.standard_scaler needs one of defectlab's datamodules to measure: set it to false")
        scaler.fit(*data.pixel_statistics())
