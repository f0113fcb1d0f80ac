"""Sizes, parameters, multiply-adds and receptive field of every layer of a network."""

import math
from collections.abc import Sequence
from dataclasses import dataclass

from defectlab.summary.receptive_field import ReceptiveField


@dataclass(frozen=True, kw_only=True)
class Window:
    """Kernel K, stride S, padding P and dilation of a convolution or pool, each (down, across)."""

    kernel: tuple[int, int]
    stride: tuple[int, int]
    padding: tuple[float, float]  # a half where `same` pads one side more
    dilation: tuple[int, int]
    ceil_mode: bool

    def output(self, size: Sequence[int]) -> tuple[int, int]:
        """Return height and width: ⌊(W - K + 2P) / S⌋ + 1, where a dilated kernel covers dilation · (K - 1) + 1 pixels."""
        sides = []
        for w, k, s, p, d in zip(size, self.kernel, self.stride, self.padding, self.dilation, strict=True):
            steps = (w - (d * (k - 1) + 1) + 2 * p) / s
            side = (math.ceil(steps) if self.ceil_mode else math.floor(steps)) + 1
            # torch leaves out a last window that would begin in the padding.
            sides.append(side - 1 if self.ceil_mode and (side - 1) * s >= w + p else side)
        return (sides[0], sides[1])


@dataclass(frozen=True, kw_only=True)
class Layer:
    """One call of a layer, or of an operation between layers that joins branches or changes the size.

    Args:
        name: dotted path in the network; of the module around it for an operation.
        kind: class of the layer, such as `Conv2d`; ATen's name for an operation, such as `add`.
        input: shape without the batch, (C, H, W) or (F,).
        output: shape without the batch, (C, H, W) or (F,).
        window: of a convolution or pool; None for others.
        groups: of a convolution, else 1.
        parameters: numbers of weights and biases; 0 in a second call of the same layer.
        multiply_adds: for one image, of convolutions and linear layers; a bias is not counted.
        receptive_field: of a position of the output; None if it does not depend on the image.
    """

    name: str
    kind: str
    input: tuple[int, ...]
    output: tuple[int, ...]
    window: Window | None
    groups: int
    parameters: int
    multiply_adds: int
    receptive_field: ReceptiveField | None

    @property
    def expected(self) -> tuple[int, int] | None:
        """Return height and width of the output by the formula; None without a window."""
        return None if self.window is None else self.window.output(self.input[1:])

    @property
    def agrees(self) -> bool:
        """Return whether the formula gives the output's size."""
        return self.expected is None or self.expected == self.output[1:]

    @property
    def is_depthwise(self) -> bool:
        """Return whether each channel is convolved by itself."""
        return self.kind.startswith("Conv") and 1 < self.groups == self.input[0] == self.output[0]


@dataclass(frozen=True)
class Separable:
    """A depthwise convolution and the 1×1 convolution after it, beside the standard convolution of the same shapes.

    M channels in, N out; biases and normalisation are not counted (Howard et al. 2017, "MobileNets", section 3.1).
    """

    depthwise: Layer
    pointwise: Layer

    @property
    def kernel(self) -> int:
        """Return the weights of one channel's kernel, k²."""
        assert self.depthwise.window is not None
        return math.prod(self.depthwise.window.kernel)

    @property
    def weights(self) -> int:
        """Return k² · M + M · N."""
        return self.kernel * self.depthwise.output[0] + self.depthwise.output[0] * self.pointwise.output[0]

    @property
    def standard_weights(self) -> int:
        """Return k² · M · N."""
        return self.kernel * self.depthwise.output[0] * self.pointwise.output[0]

    @property
    def positions(self) -> int:
        """Return height times width of the output: multiply-adds are this many times the weights."""
        return math.prod(self.pointwise.output[1:])

    @property
    def ratio(self) -> float:
        """Return the ratio of the weights, and of the multiply-adds: 1/N + 1/k²."""
        return self.weights / self.standard_weights


@dataclass(frozen=True)
class NetworkSummary:
    """All layers in the order in which they were called.

    Args:
        image: (C, H, W).
        layers: one entry per call.
        parameters: of the whole network, each counted once.
        multiply_adds: of the whole network for one image, half the operations that torch's FlopCounterMode counts.
    """

    image: tuple[int, int, int]
    layers: list[Layer]
    parameters: int
    multiply_adds: int

    @property
    def parameters_elsewhere(self) -> int:
        """Return the parameters that belong to no layer of the list."""
        return self.parameters - sum(layer.parameters for layer in self.layers)

    @property
    def multiply_adds_elsewhere(self) -> int:
        """Return the multiply-adds that belong to no layer of the list, as of attention."""
        return self.multiply_adds - sum(layer.multiply_adds for layer in self.layers)

    def separable(self) -> list[Separable]:
        """Return each depthwise convolution with the 1×1 convolution of its channels, past squeeze-and-excitation."""
        pairs = []
        for index, layer in enumerate(self.layers):
            if not layer.is_depthwise:
                continue
            for later in self.layers[index + 1 :]:
                local = later.receptive_field is not None and later.receptive_field.field is not None
                pointwise = later.window is not None and later.window.kernel == (1, 1) and later.groups == 1
                if pointwise and local and later.kind.startswith("Conv") and later.input == layer.output:
                    pairs.append(Separable(layer, later))
                    break
        return pairs


def shape_text(shape: Sequence[float]) -> str:
    """Return `16×100×100`; the channels come first."""
    return "×".join(f"{side:g}" for side in shape)
