"""Multiple-instance learning: one embedding of an image from those of its tiles."""

from typing import Literal, Protocol, cast, get_args

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from defectlab.errors import InputError
from defectlab.utils.image_format import Tiles

Pooling = Literal["mean_max", "max", "mean", "attention"]
_ATTENTION = 64  # units of the attention's hidden layer


class Standardise(nn.BatchNorm1d):
    """Subtract each feature's mean and divide by its standard deviation: a BatchNorm without parameters.

    A training batch of one image, which has no deviation, is standardised with the running statistics.
    """

    def __init__(self, num_features: int, momentum: float = 0.1) -> None:
        super().__init__(num_features, momentum=momentum, affine=False)

    @property
    def scale(self) -> Tensor:
        """Return what differences of embeddings are multiplied by in evaluation, (E,)."""
        assert self.running_var is not None
        return (self.running_var + self.eps).rsqrt()

    def forward(self, embeddings: Tensor) -> Tensor:
        """Standardise embeddings (N, E)."""
        if self.training and embeddings.shape[0] == 1:
            return F.batch_norm(embeddings, self.running_mean, self.running_var, eps=self.eps)
        return super().forward(embeddings)


class TilePooling(nn.Module):
    """Join the embeddings of tiles `(N, rows, columns, E)` to one of the image `(N, embedding_size)`.

    A tile is a window on the feature maps: what overlaps is computed once, and a defect at a tile's border is seen whole.
    A defect that is small in the image is large in its tile, so that it is not lost in the mean.

    Args:
        tiles: size and overlap, in pixels of images of `image_size`.
        image_size: height and width of the images.
        features: length E of a tile's embedding.
        pooling: the `max` over tiles of each number, their `mean`, `mean_max` for both, or `attention`: a mean with
            learned weights (Ilse et al. 2018, "Attention-based Deep Multiple Instance Learning", equations 7 and 8).

    Raises:
        InputError: another pooling, or tiles larger than the image.
    """

    def __init__(self, tiles: Tiles, image_size: tuple[int, int], features: int, pooling: Pooling) -> None:
        super().__init__()
        if pooling not in get_args(Pooling):
            raise InputError(f"pooling is {pooling!r}: expected {', '.join(get_args(Pooling))}; change model.pooling")
        if tiles.size > min(image_size):
            raise InputError(
                f"tiles.size is {tiles.size}: expected at most the shorter side of the images, {min(image_size)}; change "
                "data.tiles, or data.image_size"
            )
        self.tiles = tiles
        self.image_size = image_size
        self.pooling = pooling
        self.embedding_size = 2 * features if pooling == "mean_max" else features
        self.attention: nn.Sequential | None = None
        if pooling == "attention":
            self.attention = nn.Sequential(
                Standardise(features), nn.Linear(features, _ATTENTION), nn.Tanh(), nn.Linear(_ATTENTION, 1)
            )

    @property
    def learns(self) -> bool:
        """Return whether the weights of the tiles are learned."""
        return self.attention is not None

    def statistics(self, maps: Tensor, deviation: bool) -> Tensor:
        """Compute the mean of maps `(N, D, h, w)` in each tile, and with `deviation` theirs: `(N, rows, columns, E)`.

        The last tile of a row or column may stick out: it is of what lies inside.
        """
        kernel, step = (
            tuple(max(1, round(length * n / whole)) for n, whole in zip(maps.shape[-2:], self.image_size, strict=True))
            for length in (self.tiles.size, self.tiles.size - self.tiles.overlap)
        )

        def mean(values: Tensor) -> Tensor:
            return F.avg_pool2d(values, kernel, step, ceil_mode=True, count_include_pad=False)

        maps = maps.float()
        found = mean(maps)
        if deviation:
            # The small number keeps the root's gradient finite where a map is constant.
            spread = (mean(maps.square()) - found.square()).clamp(min=0) + 1e-6
            found = torch.cat([found, spread.sqrt()], dim=1)
        return found.permute(0, 2, 3, 1)

    def forward(self, tiles: Tensor) -> Tensor:
        """Join the embeddings of tiles `(N, rows, columns, E)`: `(N, embedding_size)`."""
        tiles = tiles.flatten(1, 2)
        if self.attention is not None:
            scores = self.attention(tiles.flatten(0, 1)).view(*tiles.shape[:2], 1)
            return torch.sum(tiles * scores.softmax(dim=1), dim=1)
        joined = [tiles.mean(dim=1)] if "mean" in self.pooling else []
        return torch.cat([*joined, tiles.amax(dim=1)] if "max" in self.pooling else joined, dim=1)

    def pull_back(self, tiles: Tensor, pooled: Tensor, gradient: Tensor) -> Tensor:
        """Compute the gradient by tiles `(N, rows, columns, E)` from that by what `forward` made of them, `pooled`."""
        flat, pooled, gradient = tiles.flatten(1, 2), pooled[:, None], gradient[:, None]
        if self.attention is not None:
            standardise, first, tanh, last = self.attention
            assert isinstance(standardise, Standardise)
            assert isinstance(first, nn.Linear)
            assert isinstance(last, nn.Linear)
            units = tanh(first(standardise(flat.flatten(0, 1)))).view(*flat.shape[:2], -1)
            weights = last(units).softmax(dim=1)
            by_unit = (1 - units.square()) * last.weight
            by_score = weights * ((flat - pooled) * gradient).sum(dim=2, keepdim=True)
            found: Tensor = weights * gradient + by_score * (by_unit @ first.weight) * standardise.scale
            return found.view_as(tiles)
        parts = dict(zip(self.pooling.split("_"), gradient.chunk(1 + (self.pooling == "mean_max"), dim=2), strict=True))
        found = torch.zeros_like(flat)
        if "mean" in parts:
            found = found + parts["mean"] / flat.shape[1]
        if "max" in parts:  # of equal ones each gets its share
            largest = (flat == flat.amax(dim=1, keepdim=True)).to(flat)
            found = found + parts["max"] * largest / largest.sum(dim=1, keepdim=True)
        return found.view_as(tiles)

    def box(self, row: int, column: int) -> tuple[int, int, int, int]:
        """Return top, left, height and width of a tile, in pixels of the image."""
        step = self.tiles.size - self.tiles.overlap
        top, left = row * step, column * step
        height, width = (min(self.tiles.size, n - at) for n, at in zip(self.image_size, (top, left), strict=True))
        return top, left, height, width


class TiledNetwork(Protocol):
    """A network with tiles: see `defectlab.networks.PretrainedNetwork`."""

    tiling: TilePooling

    def embed_tiles(self, images: Tensor) -> Tensor:
        """Turn images (N, C, H, W) into the embeddings of their tiles (N, rows, columns, E)."""

    def tile_contributions(self, tiles: Tensor, classes: Tensor) -> Tensor:
        """Compute what each tile adds to the logits of the classes (N,): (N, rows, columns)."""


def tiled_network(task: nn.Module) -> TiledNetwork | None:
    """Return the network with tiles in a task, None where there is none."""
    tiled = (module for module in task.modules() if isinstance(getattr(module, "tiling", None), TilePooling))
    return cast(TiledNetwork | None, next(tiled, None))
