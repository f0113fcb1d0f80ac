"""Transfer learning with a network of torchvision's or timm's: the head alone, all layers, or one after the other."""

import hashlib
from typing import Any, Literal

import torch
from lightning.pytorch.strategies import DDPStrategy
from lightning.pytorch.utilities.types import OptimizerLRScheduler
from torch import Tensor, nn

from defectlab.errors import InputError, check_at_least
from defectlab.networks import PretrainedNetwork
from defectlab.networks.backbones import Backbone, Stages
from defectlab.networks.tiling import Pooling
from defectlab.networks.weights import load_backbone_weights, width_of
from defectlab.tasks.base import ClassificationTask
from defectlab.tasks.loss import ClassWeights, Loss
from defectlab.tasks.optimization import OptimizerSettings, SchedulerSettings
from defectlab.tasks.tta import Views
from defectlab.utils._compat import finds_unused_parameters
from defectlab.utils.image_format import Size, Tiles

_EMBEDDING = 1  # part of what cached features are known by: raise it when the same network embeds otherwise
_PASSES = 4  # over cached features in an epoch: a head alone learns in passes of milliseconds


class PretrainedTask(ClassificationTask):
    """A network of torchvision's or timm's, from scratch or from weights.

    Args:
        in_channels: from the data on the command line; RGB weights are summed for grey images.
        backbone: which of torchvision's networks, or `timm/<name>` for one of timm's.
        width: multiplier of the channels of a MobileNet's layers; weights fit one width alone, and `auto` takes theirs: 1.5 of
            `surface-distilled`, which comes in 1.0 as well, else 1.0.
        weights: `imagenet` (torchvision's, or timm's of that name, downloaded once and cached), `surface` or
            `surface-distilled` (shipped with defectlab), a path to a .pth, .bin, .safetensors or .ckpt file or, of timm's, a
            folder with one, or null for random ones.
        trainable: `all` layers; the `head` alone; `head_then_all` unfreezes the backbone at `unfreeze_epoch`.
        unfreeze_epoch: first epoch in which the backbone learns, for `head_then_all`.
        backbone_lr_factor: the backbone's learning rate as a factor of the head's.
        cache_features: compute the frozen backbone's features once and train the head on them, which implies
            `trainable: head` and no augmentation: seconds in place of minutes on a CPU. An epoch is four passes over them.
            `auto` does so for tiles and pretrained weights. The cache keeps them for all runs with the same backbone and
            images, and without `tta` for the evaluation.
        stages: `last` embeds the mean over space of the last layer, `middle` the mean and sd of middle layers;
            or a list of layers, of timm's of levels. Middle layers separate textures better.
        hidden: units of a hidden layer in the head, 0 for none.
        dropout: probability of dropping a feature before the last layer, in [0, 1).
        batch_norm_momentum: weight of the newest batch in the running statistics; torchvision's 0.01 for V3
            leaves validation at chance for ten epochs of a set of 1,500.
        freeze_batch_norm: the backbone's BatchNorm keeps its running statistics while its layers learn.
        tiles: what an image's embedding is made of, from the data on the command line; null for the whole image.
        pooling: how the embeddings of tiles become one: their `mean`, `max`, both (`mean_max`), or `attention`, a mean
            whose weights are learned.
        symmetric: embed the mean of the maps of an image and of its three mirror images, for surfaces without an up: more
            accurate with a frozen backbone, and four times its work. `auto` does so with `cache_features`.
        projection: weights come with a linear map of the embedding, as `adapt_weights` makes it from unlabelled images.

    The other arguments are those of `ClassificationTask`.
    """

    network: PretrainedNetwork
    training_only = ("weights",)

    def __init__(
        self,
        num_classes: int,
        in_channels: int,
        image_size: Size,
        backbone: Backbone | str = "mobilenet_v3_small",
        width: float | Literal["auto"] = 1.0,
        weights: str | None = None,
        trainable: Literal["all", "head", "head_then_all"] = "all",
        unfreeze_epoch: int = 3,
        backbone_lr_factor: float = 1.0,
        cache_features: bool | Literal["auto"] = False,
        stages: Stages = "middle",
        hidden: int = 0,
        dropout: float = 0.2,
        batch_norm_momentum: float = 0.1,
        freeze_batch_norm: bool = False,
        tiles: Tiles | dict[str, int] | None = None,
        pooling: Pooling = "mean_max",
        optimizer: OptimizerSettings | None = None,
        scheduler: SchedulerSettings | None = None,
        label_smoothing: float = 0.0,
        class_weights: ClassWeights = None,
        tta: Views = "none",
        channels_last: bool = True,
        compile: bool = False,  # noqa: A002
        multilabel: bool = False,
        loss: Loss = "auto",
        symmetric: bool | Literal["auto"] = False,
        projection: bool = False,
    ) -> None:
        if cache_features == "auto":
            cache_features = tiles is not None and weights is not None
        if symmetric == "auto":
            symmetric = cache_features
        if width == "auto":
            width = width_of(weights, backbone)
        if cache_features and trainable == "head_then_all":
            raise InputError("model.cache_features needs a frozen backbone: set model.trainable to head")
        check_at_least("model.unfreeze_epoch", unfreeze_epoch, 0)
        if not 0 < backbone_lr_factor <= 1:
            raise InputError(f"model.backbone_lr_factor is {backbone_lr_factor}: expected above 0, at most 1")
        network = PretrainedNetwork(
            num_classes, in_channels, image_size, backbone, width=width, dropout=dropout,
            batch_norm_momentum=batch_norm_momentum, hidden=hidden, stages=stages, freeze_batch_norm=freeze_batch_norm,
            tiles=tiles, pooling=pooling, symmetric=symmetric, projection=projection,
        )  # fmt: skip
        super().__init__(
            network, num_classes, optimizer=optimizer, scheduler=scheduler, label_smoothing=label_smoothing,
            class_weights=class_weights, tta=tta, channels_last=channels_last, compile=compile,
            multilabel=multilabel, loss=loss,
        )  # fmt: skip
        self.trainable = "head" if cache_features else trainable
        self.unfreeze_epoch = unfreeze_epoch
        self.backbone_lr_factor = backbone_lr_factor
        self.cache_features, self.symmetric = cache_features, symmetric
        # A checkpoint is loaded without weights, and would take `auto` otherwise.
        came_to = {"width": width, "cache_features": cache_features, "symmetric": symmetric}
        self.hparams.update({name: value for name, value in came_to.items() if name in self.hparams})
        self._encoder = ""  # which the features are of
        if weights is not None:
            load_backbone_weights(network, weights)
        if self.trainable == "head":
            network.freeze_backbone()

    def forward(self, images: Tensor) -> Tensor:
        """Compute the logits `(N, num_classes)` of images `(N, C, H, W)`, or of cached features `(N, E)` or `(N, T, E)`."""
        return self.network.classify(images) if images.ndim < 4 else super().forward(images)

    @property
    def passes(self) -> int:
        """Return how often an epoch passes over the training images."""
        return _PASSES if self.cache_features else 1

    def parameter_modules(self) -> list[tuple[nn.Module, float]]:
        """Return the head, and the backbone with its own rate unless it stays frozen."""
        if self.trainable == "head":
            return [(self.network.head, 1.0)]
        return [(self.network.head, 1.0), (self.network.features, self.backbone_lr_factor)]

    def setup(self, stage: str) -> None:
        """Drop the features of an earlier fit that was stopped: they may be of other weights."""
        data = self._caching_data
        if data is not None and stage in ("fit", "validate", "test"):
            data.clear_features()
            if stage != "fit":
                self.reuse_features()

    def reuse_features(self) -> None:
        """Let the evaluation loaders yield the features that the fit has cached, if there is one view alone."""
        data = self._caching_data
        if data is not None and self.cache_features and self.tta == "none" and self._encoder:
            data.use_features(self._encoder)

    def on_test_start(self) -> None:
        """Refuse features of another backbone than the checkpoint's, which was loaded after they were found."""
        data = self._caching_data
        if data is not None and data.has_features and self._encoder != self._tell_encoder():
            raise InputError("the checkpoint has another backbone than the run: evaluate it by defectlab test")

    on_validation_start = on_test_start

    @property
    def _caching_data(self) -> Any:
        """Return the trainer's datamodule; None for one that keeps no features."""
        data: Any = self.trainer.datamodule  # type: ignore[attr-defined]
        return data if hasattr(data, "clear_features") else None

    def _tell_encoder(self) -> str:
        """Return a hash of all that decides about an embedding."""
        network = self.network
        pooling = None if network.tiling is None else (network.tiling.tiles, network.tiling.pooling)
        facts = (_EMBEDDING, network.backbone, network.width, network.stages, pooling, self.channels_last)
        digest = hashlib.sha256(str((*facts, "symmetric") if network.symmetric else facts).encode())
        projection = {} if network.projection is None else network.projection.state_dict(prefix="projection.")
        for name, tensor in (network.features.state_dict() | projection).items():
            digest.update(name.encode() + tensor.detach().cpu().contiguous().numpy().tobytes())
        return digest.hexdigest()

    def on_fit_start(self) -> None:
        """Refuse a strategy that DDP would hang with."""
        super().on_fit_start()
        if self.trainable == "head_then_all" and self.trainer.world_size > 1:
            strategy = self.trainer.strategy
            if isinstance(strategy, DDPStrategy) and not finds_unused_parameters(strategy):
                raise InputError(
                    "model.trainable is head_then_all: on several devices that needs "
                    "--trainer.strategy ddp_find_unused_parameters_true"
                )

    def configure_optimizers(self) -> OptimizerLRScheduler:
        """Fill the feature cache first: the trainer keeps the loader from here on."""
        if self.cache_features:
            if self.hparams.get("weights") is None and not self.restored:
                raise InputError("model.cache_features on random weights learns nothing: give model.weights")
            data = self._caching_data
            if data is None:
                found = type(self.trainer.datamodule).__name__  # type: ignore[attr-defined]
                raise InputError(
                    f"model.cache_features needs one of defectlab's datamodules, found {found}: set it to false"
                )
            if not data.has_features:  # a rate finder asks for the optimiser twice
                self.cache_embeddings(data)
        return super().configure_optimizers()

    def cache_embeddings(self, data: Any) -> Tensor:
        """Replace the images of a datamodule that is set up by their embeddings, and return these: `(N, E)` of all of them."""
        self.network.eval()
        self._encoder = self._tell_encoder()
        features: Tensor = data.cache_features(self.embed, self.passes, self._encoder)
        self.network.train()
        return features

    @torch.no_grad()
    def embed(self, images: Tensor) -> Tensor:
        """Compute the embeddings `(N, E)` of images `(N, C, H, W)` without gradients."""
        if self.channels_last:
            images = images.contiguous(memory_format=torch.channels_last)
        return self.network.embed(images)

    def on_train_epoch_start(self) -> None:
        """Freeze or unfreeze the backbone; only now, so that DDP knows all its parameters."""
        super().on_train_epoch_start()
        if self.trainable == "head_then_all":
            if self.current_epoch < self.unfreeze_epoch:
                self.network.freeze_backbone()
            else:
                self.network.unfreeze_backbone()

    def teardown(self, stage: str) -> None:
        """Drop the features: what comes after may be of images."""
        if self.cache_features and (data := self._caching_data) is not None:
            data.clear_features()
