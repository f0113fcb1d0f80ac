"""Which tile of an image spoke most for its class, as a box in the pixels of the image."""

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path

import numpy as np
import numpy.typing as npt
from torch import Tensor

from defectlab.data.sources.opening import file_shapes
from defectlab.inference.predictions import Box
from defectlab.networks.tiling import TiledNetwork
from defectlab.utils.image_format import ImageFormat


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
    network: TiledNetwork, tiles: Tensor, classes: Tensor, shapes: npt.NDArray[np.int64], wanted: ImageFormat
) -> list[Box]:
    """Return of each image the tile that moves the logit of its class most, up or down, cut at the border of the image.

    Args:
        network: with tiles.
        tiles: their embeddings (N, rows, columns, E).
        classes: (N,).
        shapes: heights and widths (N, 2) of the images before they were fitted.
        wanted: what they were fitted to.
    """
    added = network.tile_contributions(tiles, classes.to(tiles.device))
    boxes = []
    for best, (height, width) in zip(added.abs().flatten(1).argmax(dim=1).tolist(), shapes.tolist(), strict=True):
        top, left, tall, wide = network.tiling.box(*divmod(best, added.shape[2]))
        place = wanted.placement(height, width)
        x, y = (
            [min(max(round((edge - start) / length * whole), 0), whole) for edge in edges]
            for edges, start, length, whole in (
                ((left, left + wide), place.left, place.width, width),
                ((top, top + tall), place.top, place.height, height),
            )
        )
        boxes.append((x[0], y[0], x[1] - x[0], y[1] - y[0]))
    return boxes


def shapes_of(images: Sequence[Path | npt.NDArray[np.uint8]]) -> npt.NDArray[np.int64]:
    """Return heights and widths (N, 2) of files, or of arrays."""
    files = [one for one in images if isinstance(one, Path)]
    if files:
        return file_shapes(files)
    return np.array([one.shape[:2] for one in images if not isinstance(one, Path)], dtype=np.int64)
