"""Which tile of an image spoke most for its class, as a box in the pixels of the image."""

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path

import numpy as np
import numpy.typing as npt
from torch import Tensor

from defectlab.data.sources.opening import file_shapes
from defectlab.networks.tiling import TiledNetwork
from defectlab.utils.image_format import Box, ImageFormat


@contextmanager
def tiles_seen(network: TiledNetwork | None) -> Iterator[list[Tensor]]:
    """Yield a list that gets the embeddings (N, rows, columns, E) of the tiles of every pass; none without tiles."""
    seen: list[Tensor] = []
    if network is None:
        yield seen
        return
    hook = network.tiling.register_forward_pre_hook(lambda module, inputs: seen.append(inputs[0]))
    try:
        yield seen
    finally:
        hook.remove()


def deciding_tiles(
    network: TiledNetwork,
    tiles: Tensor,
    classes: Tensor,
    images: Sequence[Path | npt.NDArray[np.uint8]],
    wanted: ImageFormat,
) -> list[Box]:
    """Return of each image the tile that moves the logit of its class most, up or down, cut at the border of the image.

    `tiles` (N, rows, columns, E) are embeddings, `classes` (N,), and `images` all files or all arrays, fitted to `wanted`.
    """
    files = [one for one in images if isinstance(one, Path)]
    shapes = file_shapes(files).tolist() if files else [one.shape[:2] for one in images if not isinstance(one, Path)]
    added = network.tile_contributions(tiles, classes.to(tiles.device))
    boxes = []
    for best, (height, width) in zip(added.abs().flatten(1).argmax(dim=1).tolist(), shapes, strict=True):
        top, left, tall, wide = network.tiling.box(*divmod(best, added.shape[2]))
        boxes.append(wanted.box_on_image((left, top, wide, tall), height, width))
    return boxes
