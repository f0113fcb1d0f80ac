"""Draw the feature maps of an image, layer by layer."""

from collections.abc import Sequence

import numpy as np
import numpy.typing as npt
from matplotlib.figure import Figure

from defectlab.explain.layers import LayerMaps
from defectlab.figures.tiles import Tile, grey_or_colour, tile_grid, value_range

_ROWS, _CHANNELS = 12, 8


def feature_maps_figure(image: npt.NDArray[np.uint8], layers: Sequence[LayerMaps], title: str) -> Figure:
    """Draw a row a layer with its name and size, and 8 maps on one scale; `image` is (1 or 3, H, W), uint8.

    Shown are the channels that vary most over this image, in their order; the same ones of a convolution and of the
    norm, ReLU and pool that follow it. Of more than 12 layers the last of each size is taken, and of more than 12 sizes
    some, evenly.
    """
    chosen = _thin_out(layers)
    if len(chosen) < len(layers):
        title += f" ({len(chosen)} of {len(layers)} layers)"
    size = " × ".join(map(str, image.shape))
    rows: list[tuple[str, Sequence[Tile]]] = [(f"image\n{size}", [Tile(grey_or_colour(image))])]
    for layer, channels in zip(chosen, _channels(chosen), strict=True):
        shown = layer.maps[channels]
        colours, low, high = value_range(shown)
        tiles = [
            Tile(m, f"channel {c}", colormap=colours, low=low, high=high) for c, m in zip(channels, shown, strict=True)
        ]
        count, height, width = layer.maps.shape
        scale = f"±{high:.2g}" if low < 0 else f"0 to {high:.2g}"
        rows.append((f"{layer.name}\n{layer.kind}\n{count} × {height} × {width}\ncolours: {scale}", tiles))
    return tile_grid(title, rows)


def _channels(layers: Sequence[LayerMaps]) -> list[npt.NDArray[np.int64]]:
    """Choose the channels of each layer by the last of the layers that keep them."""
    found: list[npt.NDArray[np.int64]] = []
    after: LayerMaps | None = None
    for layer in reversed(layers):
        if after is None or after.mixes or len(after.maps) != len(layer.maps):
            best = np.argsort(-layer.maps.std(axis=(1, 2)), kind="stable")[:_CHANNELS]
        found.append(np.sort(best))
        after = layer
    return found[::-1]


def _thin_out(layers: Sequence[LayerMaps]) -> list[LayerMaps]:
    if len(layers) <= _ROWS:
        return list(layers)
    shapes = [layer.maps.shape for layer in layers]
    last = [layer for layer, own, after in zip(layers, shapes, [*shapes[1:], None], strict=True) if own != after]
    if len(last) <= _ROWS:
        return last
    return [last[i] for i in np.linspace(0, len(last) - 1, _ROWS).round().astype(int)]
