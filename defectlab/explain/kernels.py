"""Apply fixed kernels to an image: what a convolution does before anything is learned."""

import json
import math
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from numpy.lib.stride_tricks import sliding_window_view

from defectlab.data.sources.decode import read_grey
from defectlab.errors import InputError
from defectlab.figures.style import INK, SMALL, TITLE, frame_image, place_axes, place_text, short_label
from defectlab.figures.tiles import SIGNED

_NUMBERED = 7  # a kernel with more columns is shown by colour alone
_LONGEST = 512  # px; a larger image is made smaller


@dataclass(frozen=True)
class Kernel:
    """Numbers `(h, w)`, both odd, to be divided by `divisor`."""

    name: str
    numbers: tuple[tuple[float, ...], ...]
    divisor: float = 1.0

    @property
    def weights(self) -> npt.NDArray[np.float64]:
        """The weights of a pixel's neighbours, (h, w)."""
        return np.array(self.numbers, dtype=np.float64) / self.divisor

    @property
    def keeps_brightness(self) -> bool:
        """Whether the weights sum to 1, so that an even area stays as it is."""
        return math.isclose(float(self.weights.sum()), 1)


KERNELS = (
    Kernel("identity", ((0, 0, 0), (0, 1, 0), (0, 0, 0))),
    Kernel("edge", ((-1, -1, -1), (-1, 8, -1), (-1, -1, -1))),
    Kernel("sharpen", ((0, -1, 0), (-1, 5, -1), (0, -1, 0))),
    Kernel("emboss", ((-2, -1, 0), (-1, 1, 1), (0, 1, 2))),
    Kernel("box blur", ((1, 1, 1), (1, 1, 1), (1, 1, 1)), 9),
    Kernel("Gaussian blur", ((1, 4, 6, 4, 1), (4, 16, 24, 16, 4), (6, 24, 36, 24, 6), (4, 16, 24, 16, 4), (1, 4, 6, 4, 1)), 256),
    Kernel("Sobel x", ((-1, 0, 1), (-2, 0, 2), (-1, 0, 1))),
    Kernel("Sobel y", ((-1, -2, -1), (0, 0, 0), (1, 2, 1))),
    Kernel("Laplacian", ((0, 1, 0), (1, -4, 1), (0, 1, 0))),
)  # fmt: skip


def explain_kernels(image: str | Path, kernels: Sequence[str] = ()) -> Figure:
    """Draw what fixed kernels make of an image, read as grey and made smaller than 512 px.

    Args:
        image: its file.
        kernels: rows of numbers in place of the fixed ones, see `parse_kernel`.

    """
    return kernels_figure(read_grey(Path(image), _LONGEST), [parse_kernel(text) for text in kernels] or KERNELS)


def parse_kernel(text: str) -> Kernel:
    """Parse a kernel from rows of numbers such as `[[1,0,-1],[1,0,-1],[1,0,-1]]`."""
    expected = 'expected rows of numbers such as "[[1,0,-1],[1,0,-1],[1,0,-1]]"'
    try:
        rows: Any = json.loads(text)
    except ValueError:
        raise InputError(f"--kernel {text!r} cannot be read: {expected}") from None
    if not isinstance(rows, list) or not rows or not all(isinstance(row, list) and row for row in rows):
        raise InputError(f"--kernel {text!r} is no list of rows: {expected}")
    for value in (value for row in rows for value in row):
        if isinstance(value, bool) or not isinstance(value, int | float) or not math.isfinite(value):
            raise InputError(f"--kernel holds {json.dumps(value)}, which is not a finite number: {expected}")
    lengths = [len(row) for row in rows]
    if len(set(lengths)) > 1:
        raise InputError(f"--kernel has rows of {', '.join(map(str, lengths))} numbers: expected rows of one length")
    if len(rows) % 2 == 0 or lengths[0] % 2 == 0:
        raise InputError(
            f"--kernel is {len(rows)} × {lengths[0]}: expected odd sides such as 3 × 3, so that it has a middle pixel"
        )
    return Kernel("your kernel", tuple(tuple(float(value) for value in row) for row in rows))


def apply_kernel(image: npt.NDArray[np.floating[Any]], kernel: Kernel) -> npt.NDArray[np.float64]:
    """Slide the kernel (h, w) over `image` (H, W): (H - h + 1, W - w + 1), without padding.

    The kernel is not turned over: this is the cross-correlation that convolution layers compute.
    """
    weights = kernel.weights
    if any(side < size for side, size in zip(image.shape, weights.shape, strict=True)):
        found, size = (" × ".join(map(str, shape)) for shape in (weights.shape, image.shape))
        raise InputError(f"kernel {kernel.name!r} is {found}, the image {size}: expected a smaller kernel")
    windows = sliding_window_view(image, weights.shape)
    result: npt.NDArray[np.float64] = np.einsum("ijkl,kl->ij", windows, weights)
    return result


def kernels_figure(image: npt.NDArray[np.uint8], kernels: Sequence[Kernel] = KERNELS, columns: int = 3) -> Figure:
    """Draw each kernel's numbers beside its result on `image` (H, W), uint8, whose pixels are read as 0 to 1.

    A kernel whose weights sum to 1 gives an image from 0 to 1, and what falls outside is clipped. Any other result is
    shown from 0 up, or around 0 where there is anything below it, with the highest one per cent cut off.
    """
    if not kernels:
        raise InputError("kernels: found none, expected at least one")
    pixels = image.astype(np.float64) / 255
    results = [apply_kernel(pixels, kernel) for kernel in kernels]
    columns = min(columns, len(kernels))
    rows = math.ceil(len(kernels) / columns)
    # In inches, placed by hand: the kernel with its text on the left, the image on the right.
    side, picture, gap, head = 1.15, 2.0, 0.15, 0.28
    tall = picture * image.shape[0] / image.shape[1]
    wide = columns * (side + picture + 2 * gap) + gap
    cell = head + max(tall, side + 0.8) + 0.2
    high = 0.1 + rows * cell
    figure = Figure(figsize=(wide, high))
    for index, (kernel, result) in enumerate(zip(kernels, results, strict=True)):
        row, column = divmod(index, columns)
        left, top = gap + column * (side + picture + 2 * gap), 0.1 + row * cell
        place_text(figure, left, top, short_label(kernel.name, 40), TITLE, bold=True)
        top += head
        shape = kernel.weights.shape
        below = side * shape[0] / max(shape)
        _numbers(place_axes(figure, left, top, side, side), kernel)
        axes = place_axes(figure, left + side + gap, top, picture, tall)
        note = ([f"all divided by {kernel.divisor:g}"] if kernel.divisor != 1 else []) + _show(axes, result, kernel)
        place_text(figure, left, top + below + 0.06, "\n".join(note), SMALL)
    return figure


def _show(axes: Axes, result: npt.NDArray[np.float64], kernel: Kernel) -> list[str]:
    """Draw the result; return lines on how it is to be read."""
    low, high = float(result.min()), float(result.max())
    span = " to ".join(f"{round(value, 2) + 0.0:.2f}" for value in (low, high))  # + 0, as no one wants -0.00
    lines = [f"{result.shape[0]} × {result.shape[1]} px", f"from {span}"]
    if kernel.keeps_brightness:
        colours, bottom, top = "gray", 0.0, 1.0
        lines.append("black 0, white 1")
    else:
        top = float(np.quantile(np.abs(result), 0.99)) or max(abs(low), abs(high)) or 1.0
        colours, bottom = (SIGNED, -top) if low < 0 else ("gray", 0.0)
        lines += ["blue < 0 < red", f"full colour at ±{top:.2f}"] if low < 0 else [f"black 0, white {top:.2f}"]
    clipped = float(((result < bottom) | (result > top)).mean())
    lines.append(f"{clipped:.1%} clipped" if clipped else "nothing clipped")
    axes.imshow(result, cmap=colours, vmin=bottom, vmax=top, aspect="auto", interpolation="nearest")
    frame_image(axes)
    return lines


def _numbers(axes: Axes, kernel: Kernel) -> None:
    weights, numbers = kernel.weights, np.array(kernel.numbers)
    height, width = weights.shape
    reach = float(np.abs(weights).max()) or 1.0
    axes.imshow(weights, cmap=SIGNED, vmin=-1.6 * reach, vmax=1.6 * reach)  # pale, for the numbers on top
    axes.set_xticks(np.arange(width + 1) - 0.5, minor=True)
    axes.set_yticks(np.arange(height + 1) - 0.5, minor=True)
    axes.grid(which="minor", color="white", linewidth=1.5)
    axes.tick_params(which="both", length=0, labelleft=False, labelbottom=False)
    axes.set_anchor("NW")
    for spine in axes.spines.values():
        spine.set_visible(False)
    if max(height, width) <= _NUMBERED:
        longest = max(len(f"{value:.3g}") for value in numbers.flat)
        size = min(10.0, 120 / max(width * longest, 2 * width, 2 * height))
        for y, x in np.ndindex(height, width):
            axes.text(x, y, f"{numbers[y, x]:.3g}", ha="center", va="center", fontsize=size, color=INK)
