"""Layers of torchvision's and timm's networks with a head for few images and a frozen backbone."""

from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from defectlab.errors import InputError, check_at_least
from defectlab.networks.backbones import (
    Backbone,
    LayeredBackbone,
    Stages,
    backbone_features,
    check_width_of,
    smallest_image,
)
from defectlab.networks.base import Network, check_dropout
from defectlab.networks.tiling import Pooling, Standardise, TilePooling
from defectlab.networks.timm_backbone import PREFIX, TimmBackbone
from defectlab.utils.image_format import Size, Tiles, checked_size, sides

_BORDER = 16  # pixels that images are mirrored by before tiles are read
_MIRRORED = ((3,), (2,), (2, 3))  # axes that a mirror image has flipped


class PretrainedNetwork(Network):
    """A backbone of torchvision's (see `backbone_features`) or timm's (see `TimmBackbone`), and a head.

    The head standardises each pooled feature with a BatchNorm without parameters, so that one learning rate suits
    features of any scale, then applies dropout and a linear layer. Any image size runs, but for VGG-16, whose pools
    need 32; at 32 or less the last map is one pixel, and training then needs at least two images per batch.

    The backbone of `mobilenet_v3_small` has 927,008 parameters at width 1.0 and 3 channels; the whole
    network for 6 classes 930,470, and 1,524,006, torchvision's own number, with `hidden=1024`.

    Args:
        backbone: Which of torchvision's networks, or `timm/<name>`.
        width: Multiplier of the channels of every layer, of MobileNets alone. ImageNet weights exist for 1.0.
        dropout: Probability of dropping a feature before the last linear layer, in [0, 1).
        batch_norm_momentum: Weight of the newest batch in the running statistics, in (0, 1].
        hidden: Units of a hidden linear layer and Hardswish, as torchvision's V3 has (1024 in small, 1280
            in large); 0 for none.
        stages: What is embedded: the mean over space of the `last` layer's channels, or the mean and the
            standard deviation of `middle` layers (`MIDDLE_STAGES`), or of the layers of `features` with
            these indices, ascending; of timm's networks its levels. Layers after the deepest one are left out.
            Middle layers separate surfaces better than the last.
        freeze_batch_norm: Keep the running statistics of the backbone's BatchNorm in training.
        tiles: What the maps are pooled over, see `TilePooling`; None for the whole image.
        pooling: How the embeddings of the tiles become one.
        symmetric: Take the mean of the maps of an image and of its three mirror images, each mirrored back, so that a
            surface and its mirror image have the same embedding: four times the work of the backbone.
        projection: Pass the embedding through a frozen linear map, which weights come with; not with tiles.

    Attributes:
        embedding_size: Length E of an embedding.
    """

    features: Any  # LayeredBackbone or TimmBackbone

    def __init__(
        self,
        num_classes: int,
        in_channels: int,
        image_size: Size,
        backbone: Backbone | str = "mobilenet_v3_small",
        width: float = 1.0,
        dropout: float = 0.2,
        batch_norm_momentum: float = 0.1,
        hidden: int = 0,
        stages: Stages = "last",
        freeze_batch_norm: bool = False,
        tiles: Tiles | dict[str, int] | None = None,
        pooling: Pooling = "mean_max",
        symmetric: bool = False,
        projection: bool = False,
    ) -> None:
        check_dropout(dropout)
        check_at_least("hidden", hidden, 0)
        if not 0 < batch_norm_momentum <= 1:
            raise InputError(
                f"batch_norm_momentum is {batch_norm_momentum}: expected a number in (0, 1], such as 0.1; "
                "change batch_norm_momentum"
            )
        features: LayeredBackbone | TimmBackbone
        smallest = 1
        if backbone.startswith(PREFIX):
            check_width_of(backbone, width)
            check_at_least("in_channels", in_channels, 1)
            size = sides(checked_size(image_size))
            border = 0 if tiles is None else _border(*size)
            seen = (size[0] + 2 * border, size[1] + 2 * border)
            features = TimmBackbone(backbone, in_channels, seen, stages, batch_norm_momentum)
        else:
            whole = backbone_features(backbone, width, in_channels, batch_norm_momentum)
            features = LayeredBackbone(whole, backbone, stages)
            smallest = smallest_image(features)
        super().__init__(num_classes, in_channels, image_size, smallest)
        self.backbone = backbone
        self.width = width
        self.stages = features.stages
        self.freeze_batch_norm = freeze_batch_norm
        self.symmetric = symmetric
        self.features = features
        self.embedding_size = sum(features.channels) * (1 if self.stages is None else 2)
        self.tiling: TilePooling | None = None
        if tiles is not None:
            tiles = Tiles(**tiles) if isinstance(tiles, dict) else tiles
            self.tiling = TilePooling(tiles, sides(self.image_size), self.embedding_size, pooling)
            self.embedding_size = self.tiling.embedding_size
        self.projection: nn.Linear | None = None
        if projection:
            if tiles is not None:
                raise InputError("projection is of whole images, and these are in tiles: set data.fit to stretch")
            self.projection = nn.Linear(self.embedding_size, self.embedding_size).requires_grad_(False)
        units = self.embedding_size
        layers: list[nn.Module] = [Standardise(units, batch_norm_momentum)]
        if hidden > 0:
            layers += [nn.Linear(units, hidden), nn.Hardswish()]
            units = hidden
        layers += [nn.Dropout(dropout), nn.Linear(units, num_classes)]
        self.head = nn.Sequential(*layers)
        self.train()  # so that freeze_batch_norm holds from the start

    def forward_features(self, images: Tensor) -> Tensor:
        """Turn images (N, in_channels, H, W) into the last feature map (N, D, h, w).

        With `stages`, their maps are brought to the size of the first of them and joined, D in all.
        """
        features = self._maps(images)
        if not self.symmetric:
            return features
        for axes in _MIRRORED:
            features = features + self._maps(images.flip(axes)).flip(axes)
        return features / (1 + len(_MIRRORED))

    def _maps(self, images: Tensor) -> Tensor:
        if self.tiling is not None:
            # What a convolution makes of the zeros beyond the border would be the largest of many tiles.
            border = _border(*images.shape[-2:])
            images = F.pad(images, (border,) * 4, mode="reflect")
        if self.stages is None:
            features = super().forward_features(images)
        else:
            maps = self.stage_maps(images)
            # Nearest keeps the values, so that mean and spread stay those of the small map.
            features = torch.cat([F.interpolate(map_, size=maps[0].shape[-2:]) for map_ in maps], dim=1)
        if self.tiling is None:
            return features
        top, left = (round(border * n / size) for n, size in zip(features.shape[-2:], images.shape[-2:], strict=True))
        return features[:, :, top : features.shape[2] - top, left : features.shape[3] - left]

    def stage_maps(self, images: Tensor) -> list[Tensor]:
        """Turn images (N, in_channels, H, W) into the maps (N, D, h, w) of the layers in `stages`."""
        maps: list[Tensor] = self.features.stage_maps(images)
        return maps

    def forward_head(self, features: Tensor) -> Tensor:
        """Turn the last feature map (N, D, h, w) into logits (N, num_classes)."""
        return super().forward_head(self._pool(features))

    def embed(self, images: Tensor) -> Tensor:
        """Turn images (N, in_channels, H, W) into embeddings (N, E): what a frozen backbone's cache holds.

        Those of all tiles (N, T, E) where their weights are learned.
        """
        features = self.forward_features(images)
        if self.tiling is not None and self.tiling.learns:
            return self._tiles(features).flatten(1, 2)
        return self._pool(features)

    def classify(self, embeddings: Tensor) -> Tensor:
        """Turn what `embed` returns into logits (N, num_classes)."""
        return super().forward_head(self._joined(embeddings))

    def embed_and_classify(self, images: Tensor) -> tuple[Tensor, Tensor]:
        """Turn images (N, in_channels, H, W), or what `embed` returns, into embeddings (N, E) and logits (N, num_classes)."""
        embeddings = self._joined(self.embed(images) if images.ndim == 4 else images)
        return embeddings, super().forward_head(embeddings)

    def _joined(self, embeddings: Tensor) -> Tensor:
        """Join those of all tiles where their weights are learned; others are as they are."""
        if self.tiling is not None and embeddings.ndim == 3:
            joined: Tensor = self.tiling(embeddings[:, None])
            return joined
        return embeddings

    def embed_tiles(self, images: Tensor) -> Tensor:
        """Turn images (N, in_channels, H, W) into the embeddings of their tiles (N, rows, columns, E)."""
        return self._tiles(self.forward_features(images))

    def tile_contributions(self, tiles: Tensor, classes: Tensor) -> Tensor:
        """Compute what each tile adds to the logits of the classes (N,): (N, rows, columns).

        Gradient times the difference from the mean tile. With the largest or the mean of the tiles and a linear head it
        adds up to how far the logit is above that of an image whose tiles are all the mean one. The gradient is written
        out, since an exported network has no autograd.
        """
        assert self.tiling is not None
        standardise, (*hidden, last) = self.head[0], [layer for layer in self.head if isinstance(layer, nn.Linear)]
        assert isinstance(standardise, Standardise)
        pooled = self.tiling(tiles)
        gradient = last.weight[classes]
        for layer in hidden:
            units = layer(standardise(pooled))
            slope = torch.where(units.abs() < 3, units / 3 + 0.5, (units > 0).to(units))  # of hardswish
            gradient = (gradient * slope) @ layer.weight
        gradient = self.tiling.pull_back(tiles, pooled, standardise.scale * gradient)
        return (gradient * (tiles - tiles.mean(dim=(1, 2), keepdim=True))).sum(dim=3)

    def freeze_backbone(self) -> None:
        """Stop the backbone from learning, its BatchNorm statistics included, until `unfreeze_backbone`."""
        self.features.requires_grad_(False)
        self.train(self.training)

    def unfreeze_backbone(self) -> None:
        """Let the backbone learn again; `freeze_batch_norm` decides about its BatchNorm statistics."""
        self.features.requires_grad_(True)
        self.train(self.training)

    def train(self, mode: bool = True) -> "PretrainedNetwork":
        """Set training or evaluation mode; frozen BatchNorm layers stay in evaluation mode."""
        super().train(mode)
        learns = any(parameter.requires_grad for parameter in self.features.parameters())
        if self.freeze_batch_norm or not learns:
            self.features.eval()  # nothing but BatchNorm there knows the difference
        return self

    def _pool(self, features: Tensor) -> Tensor:
        if self.tiling is not None:
            pooled: Tensor = self.tiling(self._tiles(features))
            return pooled
        mean = features.mean(dim=(2, 3))
        if self.stages is not None:
            variance = (features - mean[:, :, None, None]).square().mean(dim=(2, 3))
            # The small number keeps the root's gradient finite where a map is constant.
            mean = torch.cat([mean, (variance + 1e-6).sqrt()], dim=1)
        embeddings: Tensor = mean if self.projection is None else self.projection(mean)
        return embeddings

    def _tiles(self, features: Tensor) -> Tensor:
        assert self.tiling is not None
        return self.tiling.statistics(features, deviation=self.stages is not None)


def _border(height: int, width: int) -> int:
    return min(_BORDER, height - 1, width - 1)
