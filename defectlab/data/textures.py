"""Random fields and shapes from which the synthetic steel strip is drawn, a chunk of images at a time.

Everything here is a float tensor of shape (n, 200, 200), or one that broadcasts to it: (n, 1, 1) for one
number an image, (n, 1, 200) for a profile across the strip. Lengths are in pixels, tilts in degrees from the
horizontal, positive where the right-hand side is higher.
"""

import math

import numpy as np
import torch
from torch import Tensor

SIDE = 200  # the side of a NEU-CLS picture, which all lengths of the synthetic classes refer to


class Sampler:
    """Random numbers for one chunk of `count` images, from a generator of its own.

    The same `key` of non-negative integers gives the same draws; another key gives unrelated ones.
    """

    def __init__(self, key: tuple[int, ...], count: int) -> None:
        self.count = count
        state = np.random.SeedSequence(key).generate_state(1)  # torch's CPU generator uses 32 bits of a seed
        self.generator = torch.Generator().manual_seed(int(state[0]))

    def uniform(self, low: float, high: float) -> Tensor:
        """One number an image in [low, high), shape (n, 1, 1)."""
        return low + (high - low) * torch.rand(self.count, 1, 1, generator=self.generator)

    def log_uniform(self, low: float, high: float) -> Tensor:
        """One number an image, every octave of [low, high) as likely as another, shape (n, 1, 1)."""
        return self.uniform(math.log(low), math.log(high)).exp()

    def normal(self, mean: float, sd: float) -> Tensor:
        """One Gaussian number an image, shape (n, 1, 1)."""
        return mean + sd * torch.randn(self.count, 1, 1, generator=self.generator)

    def chance(self, probability: float) -> Tensor:
        """1 with the given probability, else 0, one an image, shape (n, 1, 1)."""
        return (self.uniform(0, 1) < probability).float()

    def white(self) -> Tensor:
        """White Gaussian noise of unit variance, shape (n, 200, 200)."""
        return torch.randn(self.count, SIDE, SIDE, generator=self.generator)

    def field(
        self, width: Tensor | float, height: Tensor | float, smoothness: float, tilt: Tensor | float = 0.0
    ) -> Tensor:
        """A Matérn random field of about unit variance, shape (n, 200, 200); it wraps at the borders.

        `width` and `height` are its correlation lengths along and across the tilted axis. A smoothness of
        0.05 is rough at every scale (a spectrum near 1/f²), 4 is close to a Gaussian blur. Whittle, "On
        stationary processes in the plane", Biometrika 41 (1954).
        """
        vertical, horizontal = torch.fft.fftfreq(SIDE).view(1, SIDE, 1), torch.fft.rfftfreq(SIDE).view(1, 1, -1)
        angle = torch.deg2rad(torch.as_tensor(tilt))
        along = horizontal * angle.cos() - vertical * angle.sin()
        across = horizontal * angle.sin() + vertical * angle.cos()
        radius = (2 * math.pi) ** 2 * ((width * along).square() + (height * across).square())
        amplitude = (1 + radius / (2 * smoothness)).pow(-(smoothness + 1) / 2)
        amplitude[:, 0, 0] = 0  # the level of an image is set apart
        # Parseval, with the half spectrum's inner columns counted twice; not the sample's own deviation, which
        # would even out the images and hang on the order of summation
        power = 2 * amplitude.square().sum((1, 2), keepdim=True) / SIDE**2
        spectrum = torch.fft.rfft2(self.white()) * (amplitude / power.sqrt())
        return torch.fft.irfft2(spectrum, s=(SIDE, SIDE))

    def profile(self, width: Tensor | float) -> Tensor:
        """A smooth random curve across the strip of about unit variance, shape (n, 1, 200)."""
        radius = (2 * math.pi * width * torch.fft.rfftfreq(SIDE).view(1, 1, -1)).square()
        amplitude = (1 + radius / 2).pow(-1)
        amplitude[..., 0] = 0
        power = 2 * amplitude.square().sum(2, keepdim=True) / SIDE
        noise = torch.randn(self.count, 1, SIDE, generator=self.generator)
        return torch.fft.irfft(torch.fft.rfft(noise) * (amplitude / power.sqrt()), n=SIDE)


def ramp(tilt: Tensor) -> Tensor:
    """A plane through zero at the centre, about -1 and 1 at opposite borders, rising in direction `tilt`."""
    axis = torch.linspace(-1, 1, SIDE)
    angle = torch.deg2rad(tilt)
    return axis.view(1, 1, SIDE) * angle.cos() - axis.view(1, SIDE, 1) * angle.sin()


def highest(field: Tensor, share: Tensor | float, edge: Tensor | float) -> Tensor:
    """A soft mask, 0 to 1, of the highest `share` of each image's values; `edge` is its softness in values."""
    values = field[:, ::5, ::5].flatten(1).sort(dim=1, descending=True).values
    rank = (torch.as_tensor(share).expand(len(field), 1, 1) * values.shape[1]).long().clamp(0, values.shape[1] - 1)
    return torch.sigmoid((field - values.gather(1, rank.flatten(1)).unsqueeze(2)) / edge)


def contours(field: Tensor, thickness: Tensor | float) -> Tensor:
    """Soft lines, 0 to 1, of about the given thickness along the zero crossings of a field."""
    down, right = field.roll(-1, 1) - field, field.roll(-1, 2) - field
    slope = (down.square() + right.square()).sqrt() + 1e-3
    return torch.exp(-(2 * field / (slope * thickness)).square())


def spindle(
    centre: tuple[Tensor, Tensor], half: tuple[Tensor, Tensor], lean: Tensor, blunt: float, wobble: Tensor | float
) -> Tensor:
    """How many pixels a place lies inside an upright streak (negative: outside), shape (n, 200, 200).

    `centre` and `half` are (x, y) position and half width and height; `lean` moves the streak sideways per
    pixel of height; `blunt` is the exponent of its outline, 2 for a spindle, 8 for a bar; `wobble` is added
    to the sideways position.
    """
    axis = torch.arange(SIDE, dtype=torch.float32)
    height = axis.view(1, SIDE, 1) - centre[1]
    outline = half[0] * (1 - (height / half[1]).abs().pow(blunt).clamp(max=9))
    return outline - (axis.view(1, 1, SIDE) - centre[0] - lean * height + wobble).abs()


def blur(image: Tensor, spread: Tensor | float) -> Tensor:
    """The image through a small lens blur; `spread` (0 to 0.33) is what a pixel gives to either neighbour."""
    for dim in (1, 2):
        near = torch.roll(image, 1, dim) + torch.roll(image, -1, dim)
        image = image + spread * (near - 2 * image)
    return image
