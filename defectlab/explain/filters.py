"""Draw the learned filters of a convolution."""

import numpy as np
import numpy.typing as npt
from matplotlib.figure import Figure
from torch import nn

from defectlab.figures.tiles import SIGNED, Tile, tile_grid

_FILTERS, _INPUTS, _COLUMNS = 64, 10, 8
_MATRIX = 512  # rows and columns of a 1×1 convolution


def filters_figure(layer: nn.Conv2d, name: str) -> Figure:
    """Draw the weights (O, I / groups, h, w) of a convolution, all on one scale around 0.

    One input channel: a tile a filter. Three: one in colour, mid-grey for 0. More: a row a filter, a tile an input
    channel. 1×1: the whole as one matrix. At most 64 filters are shown, or 12 rows with 10 tiles.
    """
    weights: npt.NDArray[np.float32] = layer.weight.detach().float().cpu().numpy()
    outputs, inputs, height, width = weights.shape
    reach = float(np.abs(weights).max()) or 1.0
    shape = f"{outputs} filters of {inputs} × {height} × {width}"
    title = f"{name}: {shape}, full colour at ±{reach:.2g}"
    if height * width == 1:
        matrix = weights[:_MATRIX, :_MATRIX, 0, 0]
        wide = min(8.0, max(2.0, 0.12 * matrix.shape[1]))
        caption = f"columns: {matrix.shape[1]} of {inputs} input channels"
        row = (f"{matrix.shape[0]} of {outputs} filters\na row each", [_tile(matrix, reach, caption)])
        return tile_grid(title, [row], tile=wide)
    if inputs in (1, 3):
        tiles = [
            _tile(w[0], reach, f"{i}") if inputs == 1 else Tile(0.5 + w.transpose(1, 2, 0) / (2 * reach), f"{i}")
            for i, w in enumerate(weights[:_FILTERS])
        ]
        rows = [("", tiles[start : start + _COLUMNS]) for start in range(0, len(tiles), _COLUMNS)]
        if outputs > _FILTERS:
            title += f"; the first {_FILTERS}"
        return tile_grid(title, rows, label=0)
    rows = [
        (f"filter {i}", [_tile(channel, reach, f"input {k}") for k, channel in enumerate(w[:_INPUTS])])
        for i, w in enumerate(weights[:12])
    ]
    if outputs > len(rows) or inputs > _INPUTS:
        title += f"; {len(rows)} filters, {min(inputs, _INPUTS)} inputs of each"
    return tile_grid(title, rows, tile=0.75, label=0.8)


def _tile(pixels: npt.NDArray[np.float32], reach: float, caption: str) -> Tile:
    return Tile(pixels, caption, colormap=SIGNED, low=-reach, high=reach)
