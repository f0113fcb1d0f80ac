"""Textured, damaged surfaces, drawn from points of a unit cube a batch at a time, on the device of the points.

Every coordinate of a point sets one property: the direction of rolling, the spectra of three random fields, what
becomes of their values, which kind of defect there is, how deep, how large, how many. Images of one point
are places on one surface, and near points similar surfaces. Light, level, blur, noise and flips are drawn per image.

Reading: Kataoka et al., "Pre-training without natural images" (ACCV 2020); Baradad et al., "Learning to see by looking
at noise" (NeurIPS 2021). Fields shaped in the Fourier domain and passed through pointwise functions are theirs too.
"""

import math
from collections.abc import Callable

import torch
from torch import Tensor

from defectlab.data.synthesis.objects import OBJECTS, Traits
from defectlab.data.synthesis.textures import blur
from defectlab.utils.fused import fused

DIMENSIONS = 64  # coordinates of a point; those beyond the last property are spare
DEFECT_COLUMNS = range(31, 43)  # those of the defects; the ones before are of the ground
_FIELDS = 3

# Functions of a field of mean 0 and sd 1 and one number per image in [0, 1).
_POINTWISE: tuple[Callable[[Tensor, Tensor], Tensor], ...] = (
    lambda x, t: x,
    lambda x, t: -x.abs(),  # dark creases
    lambda x, t: torch.sigmoid((x - 2 * t + 0.4) * 8),  # islands
    lambda x, t: (x * (0.5 + t)).exp().clamp(max=12),  # a few bright spots
    lambda x, t: torch.exp(-(x / (0.12 + 0.3 * t)).square()),  # lines
    lambda x, t: torch.tanh(x * (1 + 4 * t)),
    lambda x, t: (x - t).clamp(min=0),
    lambda x, t: torch.sin(x * (1.5 + 4 * t)),  # layers
)


def draw_surfaces(points: Tensor, side: int, generator: torch.Generator, jitter: float) -> Tensor:
    """Draw one image per point, float32 in [0, 1], shape (N, 1, side, side).

    Args:
        points: (N, 64) in [0, 1), on the device where the images appear.
        side: Height and width in pixels.
        generator: On the same device.
        jitter: Standard deviation of what is added to each coordinate, which is then reflected into the cube; the
            coordinates that choose between kinds of things stay as they are.
    """
    world = SceneSampler(points, side, generator, jitter)
    main = world.uniform(0, math.pi)  # the direction of rolling, brushing or grinding
    spread = world.uniform(0, 1)
    cloud = world.field(world.log_uniform(12, 60), world.log_uniform(1, 3), main, 0.0, 2.5)
    texture = _texture(world, main, spread, cloud)
    mask, depth, bright = _defects(world, main, cloud)
    inside = depth * mask * (1 + world.uniform(0, 0.4) * texture)
    contrast = world.log_uniform(0.02, 0.3) * world.any_log_uniform(0.75, 1.33)

    level, tilt, slope = world.any_uniform(0.2, 0.85), world.any_uniform(0, 2 * math.pi), world.any_uniform(-0.35, 0.35)
    axis = world.axis
    light = 1 + slope * (axis.view(1, 1, -1) * tilt.cos() + axis.view(1, -1, 1) * tilt.sin())
    light = light * (1 + 0.06 * world.any_uniform(0, 1) * standardise(cloud.mean(1, keepdim=True)))
    image = level * light * (1 + contrast * texture)
    image = torch.where(bright, image + inside * (1 - level) * 1.2, image * (1 - inside))
    image = blur(image, world.any_uniform(0, 0.3))
    image = image + world.any_log_uniform(0.002, 0.05) * world.white()
    for dim in (1, 2):
        image = torch.where(world.any_uniform(0, 1) < 0.5, image, image.flip(dim))
    return image.clamp(0, 1).unsqueeze(1)


def _texture(world: "SceneSampler", main: Tensor, spread: Tensor, cloud: Tensor) -> Tensor:
    """Draw the sum of three fields, of mean 0 and sd 1, shape (N, S, S)."""
    texture = torch.zeros_like(cloud)
    for index in range(_FIELDS):
        free = world.uniform(-1, 1)
        # Most fields follow the main direction, some cross it.
        angle = main + (free.abs() > 0.7) * free * math.pi / 2 + 0.15 * spread * free
        wavelength, elongation = world.log_uniform(2, 40 if index else 14), world.log_uniform(1, 40)
        field = world.field(wavelength, elongation, angle, world.positive(-0.3, 3), world.uniform(0.9, 5))
        number, kind = world.uniform(0, 1), world.choice(len(_POINTWISE))
        values = pointwise(field, number, kind)
        weight = world.positive(-0.4, 1) if index else world.uniform(0.3, 1)
        texture = texture + weight * standardise(values) * (1 + world.positive(-0.3, 0.8) * cloud)
    return standardise(texture)


def pointwise(field: Tensor, number: Tensor, kind: Tensor) -> Tensor:
    """Apply to each field (N, S, S) the one of eight functions that `kind` (N,) names; `number` (N, 1, 1) shapes it."""
    if field.is_cuda:
        return fused(_pointwise_together)(field, number, kind)
    values = torch.zeros_like(field)
    for which, function in enumerate(_POINTWISE):
        rows = (kind == which).nonzero().squeeze(1)
        values[rows] = function(field[rows], number[rows])
    return values


def _pointwise_together(field: Tensor, number: Tensor, kind: Tensor) -> Tensor:
    """Compute all eight and choose: without waiting for `kind`, and one kernel where it is compiled."""
    values = field
    for which, function in enumerate(_POINTWISE[1:], start=1):
        values = torch.where(kind.view(-1, 1, 1) == which, function(field, number), values)
    return values


def _defects(world: "SceneSampler", main: Tensor, cloud: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    """Return the mask of the defects (N, S, S), their depth, and whether they are brighter than the ground, (N, 1, 1)."""
    kind = world.choice(len(OBJECTS) + 1)  # the first is a whole surface
    depth, fraction, edge = world.log_uniform(0.12, 0.85), world.log_uniform(0.01, 0.45), world.log_uniform(0.05, 0.6)
    size, elongation, lean = world.log_uniform(3, 40), world.log_uniform(1, 8), world.uniform(-0.5, 0.5)
    bright = world.uniform(0, 1) > 0.75
    thickness, clustering = world.log_uniform(1.2, 5), world.uniform(0, 1.5)
    angle = main + lean
    shape = world.field(size, elongation, angle, world.uniform(0, 2), 3.5)
    traits = Traits(shape, cloud, fraction, edge, size, angle, thickness, clustering, world.generator)
    mask = torch.zeros_like(shape)
    for which, draw in enumerate(OBJECTS, start=1):
        rows = (kind == which).nonzero().squeeze(1)
        if len(rows):
            mask[rows] = draw(traits.of(rows))
    return mask, depth, bright


class SceneSampler:
    """Reads one coordinate of the points after the other, and draws what belongs to the image alone."""

    def __init__(self, points: Tensor, side: int, generator: torch.Generator, jitter: float) -> None:
        self.generator, self.side, self.device = generator, side, points.device
        self.axis = torch.linspace(-1, 1, side, device=self.device)
        moved = (points + jitter * torch.randn(points.shape, generator=generator, device=self.device)).abs()
        self._exact, self._moved = points, moved - 2 * (moved - 1).clamp(min=0)
        self._column = -1

    def _next(self, points: Tensor) -> Tensor:
        self._column += 1
        return points[:, self._column]

    def uniform(self, low: float, high: float) -> Tensor:
        """Return the next coordinate on a scale from `low` to `high`, shape (N, 1, 1)."""
        return (low + (high - low) * self._next(self._moved)).view(-1, 1, 1)

    def log_uniform(self, low: float, high: float) -> Tensor:
        """Return it on a logarithmic scale."""
        return self.uniform(math.log(low), math.log(high)).exp()

    def positive(self, low: float, high: float) -> Tensor:
        """Return `uniform`, clipped at 0."""
        return self.uniform(low, high).clamp(min=0)

    def choice(self, count: int) -> Tensor:
        """Return the next coordinate as a whole number below `count`, shape (N,); jitter does not change it."""
        return (self._next(self._exact) * count).long().clamp(max=count - 1)

    def any_uniform(self, low: float, high: float) -> Tensor:
        """Draw a number in [low, high) for each image, shape (N, 1, 1)."""
        numbers = torch.rand(len(self._exact), 1, 1, generator=self.generator, device=self.device)
        return low + (high - low) * numbers

    def any_log_uniform(self, low: float, high: float) -> Tensor:
        """Return it on a logarithmic scale."""
        return self.any_uniform(math.log(low), math.log(high)).exp()

    def white(self) -> Tensor:
        """Draw white Gaussian noise of unit variance, shape (N, S, S)."""
        shape = (len(self._exact), self.side, self.side)
        return torch.randn(shape, generator=self.generator, device=self.device)

    def field(
        self, wavelength: Tensor, elongation: Tensor, angle: Tensor, rise: Tensor | float, fall: Tensor | float
    ) -> Tensor:
        """Draw a Gaussian random field of unit variance, shape (N, S, S); it wraps at the borders.

        Its amplitude grows as the `rise`-th power of the frequency up to one wave in `wavelength` pixels, and drops
        as the `fall`-th beyond; across `angle` (radians) waves are `elongation` times as long as along it.
        """
        vertical = torch.fft.fftfreq(self.side, device=self.device).view(1, -1, 1)
        horizontal = torch.fft.rfftfreq(self.side, device=self.device).view(1, 1, -1)
        along = (horizontal * angle.cos() + vertical * angle.sin()) * elongation.sqrt()
        across = (vertical * angle.cos() - horizontal * angle.sin()) / elongation.sqrt()
        radius = (along.square() + across.square()) * wavelength.square() + 1e-9
        amplitude = radius.pow(rise / 2) * (1 + radius).pow(-(rise + fall) / 2)
        amplitude[:, 0, 0] = 0
        power = 2 * amplitude.square().sum((1, 2), keepdim=True) / self.side**2  # Parseval, the half spectrum twice
        shape = (len(angle), self.side, self.side // 2 + 1, 2)
        noise = torch.view_as_complex(torch.randn(shape, generator=self.generator, device=self.device))
        spectrum = noise * (amplitude * (self.side / math.sqrt(2)) / power.sqrt())
        field: Tensor = torch.fft.irfft2(spectrum, s=(self.side, self.side))
        return field


def standardise(values: Tensor) -> Tensor:
    """Standardise each image."""
    values = values - values.mean((1, 2), keepdim=True)
    return values / (values.square().mean((1, 2), keepdim=True).sqrt() + 1e-4)
