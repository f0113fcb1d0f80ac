"""Random fields and shapes from which the synthetic steel strip is drawn, a chunk of images at a time.

Everything here is a float tensor of shape (n, 200, 200), or one that broadcasts to it: (n, 1, 1) for one
number per image, (n, 1, 200) for a profile across the strip. Lengths are in pixels, tilts in degrees from the
horizontal, positive where the right-hand side is higher.
"""

import math

import numpy as np
import torch
from torch import Tensor

SIDE = 200  # the side of a NEU-CLS image, which all lengths of the synthetic classes refer to


class Sampler:
    """Random numbers for one chunk of `count` images, from a generator of its own.

    The same `key` of non-negative integers gives the same draws; another key gives unrelated ones. Tensors appear on
    torch's default device.
    """

    def __init__(self, key: tuple[int, ...], count: int) -> None:
        self.count = count
        word = np.random.SeedSequence(key).generate_state(1)[0]  # 32 bits are all that torch's generator uses
        self.generator = torch.Generator(torch.get_default_device()).manual_seed(int(word))

    def uniform(self, low: float, high: float) -> Tensor:
        """Draw one number per image in [low, high), shape (n, 1, 1)."""
        return low + (high - low) * torch.rand(self.count, 1, 1, generator=self.generator)

    def log_uniform(self, low: float, high: float) -> Tensor:
        """Draw one number per image, every octave of [low, high) as likely as another, shape (n, 1, 1)."""
        return self.uniform(math.log(low), math.log(high)).exp()

    def normal(self, mean: float, sd: float) -> Tensor:
        """Draw one Gaussian number per image, shape (n, 1, 1)."""
        return mean + sd * torch.randn(self.count, 1, 1, generator=self.generator)

    def chance(self, probability: float) -> Tensor:
        """Draw 1 with the given probability, else 0, one per image, shape (n, 1, 1)."""
        return (self.uniform(0, 1) < probability).float()

    def either(self, probability: float, rare: tuple[float, float], usual: tuple[float, float]) -> Tensor:
        """Draw from the range `rare` with the given probability, else in `usual`, shape (n, 1, 1)."""
        return torch.where(self.chance(probability) > 0, self.uniform(*rare), self.uniform(*usual))

    def white(self) -> Tensor:
        """Draw white Gaussian noise of unit variance, shape (n, 200, 200)."""
        return torch.randn(self.count, SIDE, SIDE, generator=self.generator)

    def field(
        self, width: Tensor | float, height: Tensor | float, smoothness: float, tilt: Tensor | float = 0.0
    ) -> Tensor:
        """Draw a Matérn random field of about unit variance, shape (n, 200, 200); it wraps at the borders.

        `width` and `height` are its correlation lengths along and across the tilted axis. A smoothness of
        0.1 is rough at every scale (a spectrum near 1/f²), 4 is close to a Gaussian blur. Whittle, "On
        stationary processes in the plane", Biometrika 41 (1954).
        """
        vertical, horizontal = torch.fft.fftfreq(SIDE).view(1, -1, 1), torch.fft.rfftfreq(SIDE).view(1, 1, -1)
        angle = torch.deg2rad(torch.as_tensor(tilt))
        along = horizontal * angle.cos() - vertical * angle.sin()
        across = horizontal * angle.sin() + vertical * angle.cos()
        radius = (2 * math.pi) ** 2 * ((width * along).square() + (height * across).square())
        amplitude = (1 + radius / (2 * smoothness)).pow(-(smoothness + 1) / 2)
        amplitude[:, 0, 0] = 0  # an image's level is drawn apart from its texture
        # Parseval, the half spectrum counted twice. The drawn image's own deviation would not do: dividing by
        # it makes the images of a class more alike than they are.
        power = 2 * amplitude.square().sum((1, 2), keepdim=True) / SIDE**2
        spectrum = torch.fft.rfft2(self.white()) * (amplitude / power.sqrt())
        field: Tensor = torch.fft.irfft2(spectrum, s=(SIDE, SIDE))
        return field

    def profile(self, width: Tensor | float) -> Tensor:
        """Draw a smooth random curve across the strip of about unit variance, shape (n, 1, 200); it wraps too."""
        radius = (2 * math.pi * width * torch.fft.rfftfreq(SIDE).view(1, 1, -1)).square()
        amplitude = 1 / (1 + radius / 2)
        amplitude[..., 0] = 0
        power = 2 * amplitude.square().sum(2, keepdim=True) / SIDE
        noise = torch.randn(self.count, 1, SIDE, generator=self.generator)
        profile: Tensor = torch.fft.irfft(torch.fft.rfft(noise) * (amplitude / power.sqrt()), n=SIDE)
        return profile


def ramp(tilt: Tensor) -> Tensor:
    """Return a plane that is 0 in the centre and about -1 and 1 at opposite borders, rising in direction `tilt`."""
    axis = torch.linspace(-1, 1, SIDE)
    angle = torch.deg2rad(tilt)
    return axis.view(1, 1, -1) * angle.cos() - axis.view(1, -1, 1) * angle.sin()


def top_fraction_mask(field: Tensor, fraction: Tensor, edge: Tensor | float) -> Tensor:
    """Return a soft mask, 0 to 1, of this fraction of highest values of each image; `edge` is its width in values."""
    values = field[:, ::5, ::5].flatten(1).sort(dim=1, descending=True).values  # a sample is enough here
    rank = (fraction * values.shape[1]).long().clamp(0, values.shape[1] - 1).view(-1, 1)
    return torch.sigmoid((field - values.gather(1, rank).unsqueeze(2)) / edge) * (fraction > 0)


def contours(field: Tensor, thickness: Tensor) -> Tensor:
    """Return soft lines, 0 to 1, of about the given thickness along the zero crossings of a field."""
    down, right = field.roll(-1, 1) - field, field.roll(-1, 2) - field
    slope = (down.square() + right.square()).sqrt() + 1e-3
    return torch.exp(-(2 * field / (slope * thickness)).square())


def spindle(
    centre: tuple[Tensor, Tensor], half: tuple[Tensor, Tensor], lean: Tensor, blunt: float, wobble: Tensor
) -> Tensor:
    """Return how many pixels a position lies inside an upright streak (negative: outside), shape (n, 200, 200).

    `centre` is its (x, y), `half` its half width and half height, `lean` its sideways shift per pixel of
    height, `blunt` the exponent of its outline (2: pointed, 6: a bar), `wobble` a field of sideways shifts.
    """
    axis = torch.arange(SIDE, dtype=torch.float32)
    height = axis.view(1, -1, 1) - centre[1]
    outline = half[0] * (1 - (height / half[1]).abs().pow(blunt).clamp(max=9))
    return outline - (axis.view(1, 1, -1) - centre[0] - lean * height + wobble).abs()


def blur(image: Tensor, spread: Tensor | float) -> Tensor:
    """Blur an image; `spread` (0 to 0.33) is the weight of each neighbour."""
    for dim in (1, 2):
        image = image + spread * (image.roll(1, dim) + image.roll(-1, dim) - 2 * image)
    return image
