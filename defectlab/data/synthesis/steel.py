"""The six surface defects of hot-rolled steel strip, drawn: one function a class of NEU-CLS.

Each takes a Sampler and returns a chunk of images, shape (n, 200, 200), on [0, 1], not clipped. An
image is light × (1 + texture) × (1 − defects): what darkens a bright strip by 60 grey levels darkens a dark
one by 20. The ranges were tuned by eye and by statistics (grey levels, spectra) against the real images;
none of these is used.
"""

import torch
from torch import Tensor

from defectlab.data.synthesis.textures import SIDE, Sampler, blur, contours, ramp, spindle, top_fraction_mask


def crazing(s: Sampler) -> Tensor:
    """Wavy, broken, mostly horizontal cracks on a grainy strip; here and there a black flake."""
    level = s.either(0.28, (0.3, 0.5), (0.54, 0.72))
    light = level * _lighting(s, s.normal(0, 15), 0.2, (0.05, 0.15), (8, 50))
    crossings = s.uniform(1.5, 4) * s.field(5, 4, 0.8) + s.uniform(4, 12) * s.field(30, 20, 1.5)
    rows = torch.arange(SIDE).view(1, -1, 1) + crossings
    broken = top_fraction_mask(s.field(16, 7, 1) + 0.7 * s.field(40, 40, 1), s.uniform(0.25, 0.6), 0.4)
    cracks = contours(torch.sin(torch.pi * rows / s.uniform(12, 28)), s.uniform(2.2, 3.8)) * broken
    flakes = _specks(s, (3, 5), 1.5, s.chance(0.55) * s.uniform(0, 0.02))
    dark = torch.maximum(s.uniform(0.18, 0.5) * cracks, s.uniform(0.4, 0.65) * flakes)
    return _camera(s, light * (1 + _rough(s)) * (1 - dark), 0.07, level * s.uniform(0.01, 0.06))


def inclusion(s: Sampler) -> Tensor:
    """Dark spindles along the rolling direction, single or in a swarm, on a smooth strip."""
    level = s.either(0.13, (0.6, 0.88), (0.24, 0.5))
    light = level * _lighting(s, s.uniform(0, 360), 0.25, (0.02, 0.09), (6, 40))
    wobble = s.uniform(0.5, 3) * s.field(3, 14, 1)
    x, y, swarm, stout = s.uniform(15, 185), s.uniform(20, 180), s.uniform(5, 14), s.chance(0.6)
    depth = spindle((x, y), _spindle_size(s, stout), s.normal(0, 0.04), 2, wobble)
    for k in range(1, 8):  # each next one is less likely
        centre = x + s.normal(0, 1) * torch.where(s.chance(0.3) > 0, 40, swarm), y + s.normal(0, 45)
        size = _spindle_size(s, stout if k == 1 else torch.zeros(1))
        other = spindle(centre, size, s.normal(0, 0.04), 2, wobble)
        depth = torch.where(s.chance(0.07 * k) > 0, depth, torch.maximum(depth, other))
    flecks = top_fraction_mask(s.field(1.6, 9, 2) + 1.2 * s.field(30, 60, 1), s.chance(0.55) * s.uniform(0, 0.04), 0.2)
    dark = s.log_uniform(0.15, 0.5) * torch.maximum(torch.sigmoid(depth / s.uniform(0.4, 0.9)), 0.7 * flecks)
    grain = s.uniform(0.01, 0.04) * s.field(1, 2, 0.1) + s.uniform(0, 0.04) * s.field(9, 40, 0.7)
    image = _camera(s, light * (1 + grain) * (1 - dark), s.uniform(0.1, 0.25), s.log_uniform(0.002, 0.007))
    return _turned(s, image, 0.04)


def patches(s: Sampler) -> Tensor:
    """Large dark islands, often upright, on a grainy over-exposed strip; at times clusters of specks."""
    level = s.either(0.22, (0.2, 0.45), (0.6, 1.0))
    tilt = s.uniform(-40, 40) + 180 * s.chance(0.5)
    light = level * _lighting(s, tilt, 0.35, (0.03, 0.18), (8, 50))
    length, covered = s.uniform(16, 28), s.log_uniform(0.1, 0.6)
    shape = s.field(length, length * s.uniform(1.1, 3), 3) + s.uniform(0.05, 0.15) * s.field(6, 6, 0.8)
    island = top_fraction_mask(shape, covered, s.uniform(0.08, 0.25))
    rim = s.uniform(0, 0.2) * island * (1 - top_fraction_mask(shape, 0.5 * covered, 0.3))
    faint = s.uniform(0, 0.25) * top_fraction_mask(s.field(25, 25, 0.8), s.uniform(0, 0.4), 0.5)
    dark = 1 - (1 - s.uniform(0.55, 0.75) * island) * (1 - faint) * (1 - rim)
    specks = _specks(s, (1.8, 2.4), 1.6, s.chance(0.3) * s.uniform(0, 0.015))
    dark = torch.maximum(dark, s.uniform(0.6, 0.9) * specks)
    return _camera(s, light * (1 + _rough(s)) * (1 - dark), 0.07, level * s.uniform(0.01, 0.03))


def pitted_surface(s: Sampler) -> Tensor:
    """Small pits, from a few to an orange peel, in strongly uneven light; at times a skin at a border."""
    level = s.either(0.22, (0.25, 0.55), (0.6, 1.05))
    light = level * _lighting(s, s.uniform(0, 360), 0.5, (0.01, 0.08), (4, 50))
    peel, length, region = s.chance(0.5) > 0, s.uniform(1.1, 2.2), s.field(30, 50, 2)
    pits = top_fraction_mask(
        s.field(length, length * s.uniform(1, 1.8), 6) + s.uniform(0.1, 0.6) * region,
        torch.where(peel, s.uniform(0.2, 0.5), s.log_uniform(0.015, 0.2)),
        torch.where(peel, s.uniform(0.3, 0.8), s.uniform(0.15, 0.4)),
    )
    pools = top_fraction_mask(
        s.field(1.9 * length, 2.1 * length, 4) + 0.7 * region, s.chance(0.6) * s.uniform(0, 0.05), 0.2
    )
    edge = s.field(40, 50, 0.7) + 1.5 * ramp(s.uniform(0, 360))
    skin = top_fraction_mask(edge, s.chance(0.3) * s.uniform(0, 0.2), 0.05)
    dark = s.log_uniform(0.1, 0.4) * torch.maximum(pits, 1.2 * pools) * (1 - skin) + s.uniform(0.1, 0.35) * skin
    grain = s.uniform(0.02, 0.05) * s.field(1, 2, 0.3)
    return _camera(s, light * (1 + grain) * (1 - dark), s.uniform(0.08, 0.2), s.log_uniform(0.002, 0.006))


def rolled_in_scale(s: Sampler) -> Tensor:
    """Clusters of flat dark smudges, hatched along the rows, on a brushed, cloudy strip of middle grey."""
    level = s.either(0.35, (0.28, 0.4), (0.46, 0.58))
    light = level * _lighting(s, s.normal(0, 30), 0.15, (0.03, 0.1), (12, 50))
    tilt = s.normal(12, 6)
    brushed = s.uniform(0.06, 0.09) * s.field(2.5, 0.7, 0.1, 0.4 * tilt) + s.uniform(0.01, 0.03) * s.field(3, 0.2, 1)
    brushed = brushed + s.uniform(0.01, 0.03) * s.field(16, 0.8, 0.6, tilt)
    cloud = s.uniform(0.03, 0.07) * s.field(16, 10, 0.6)
    cluster = s.uniform(0.6, 1.1) * s.field(16, 30, 1.5)
    smudges = top_fraction_mask(s.field(4.2, 2.3, 3) + cluster, s.log_uniform(0.012, 0.08), 0.35)
    dark = s.uniform(0.2, 0.45) * smudges * (1 + 0.3 * s.field(3, 0.6, 1))
    return _camera(s, light * (1 + brushed + cloud) * (1 - dark), 0.05, level * s.uniform(0.01, 0.03))


def scratches(s: Sampler) -> Tensor:
    """Bright lines and ribbed bands, upright or lying, whole or broken, on a dark smooth strip."""
    light = s.either(0.25, (0.4, 0.6), (0.15, 0.42)) * _lighting(s, s.uniform(0, 360), 0.25, (0.01, 0.07), (2, 40))
    wobble = s.log_uniform(0.1, 1.5) * s.field(20, 40, 1)
    x, lean, group, through = s.uniform(15, 185), s.normal(0, 0.04), s.log_uniform(4, 25), s.chance(0.6)
    bright = torch.zeros(1)
    for k in range(8):  # each next one is less likely; only the first may be a band
        band = s.chance(0.45) if k == 0 else torch.zeros(1)
        half = s.log_uniform(0.5, 1.6) + band * s.uniform(2, 9), s.log_uniform(10, 80)
        half = half[0], half[1] + SIDE * torch.maximum(through * s.chance(0.7), band)
        centre = (
            torch.where(s.chance(0.5) > 0, s.uniform(5, 195), x + group * s.normal(0, 1)),
            s.uniform(10, 190),
        )
        depth = spindle(centre, half, lean + s.normal(0, 0.01), 6, wobble)
        softness = s.uniform(0.4, 0.9) + band * s.uniform(0, 2)
        line = s.log_uniform(0.08, 0.8) * torch.sigmoid(depth / softness)
        bright = torch.maximum(bright, line * (1 - s.chance(0.12 * k)))
    broken = 1 + s.uniform(0.1, 0.4) * s.field(2, 5, 0.4) + s.uniform(0, 0.6) * s.field(3, 30, 1)
    bright = bright * broken.clamp(min=0) * (1 + 0.4 * s.profile(1.2))
    stains = s.uniform(0, 0.3) * top_fraction_mask(s.field(6, 9, 1), s.chance(0.25) * s.uniform(0, 0.03), 0.3)
    grain = s.uniform(0.02, 0.045) * s.field(1, 1.5, 0.1) + s.uniform(0.01, 0.05) * s.field(10, 14, 0.5)
    image = light * (1 + grain) * (1 - stains) + bright
    return _turned(s, _camera(s, image, s.uniform(0.05, 0.2), s.log_uniform(0.002, 0.007)), 0.28)


def _lighting(s: Sampler, tilt: Tensor, slope: float, bands: tuple[float, float], width: tuple[float, float]) -> Tensor:
    """Uneven light, about 1: a ramp of at most ±`slope`, and bands with deviation and width in the ranges."""
    return 1 + s.uniform(-slope, slope) * ramp(tilt) + s.uniform(*bands) * s.profile(s.log_uniform(*width))


def _rough(s: Sampler) -> Tensor:
    """The strong grain of crazing and patches: near 1/f noise, upright hairlines, slanting brush strokes."""
    grain = s.uniform(0.11, 0.16) * s.field(1.3, 1.3, 0.1) + s.uniform(0.02, 0.06) * s.field(0.7, 8, 0.5)
    return grain + s.uniform(0, 0.06) * s.field(10, 0.7, 0.6, s.normal(14, 5))


def _specks(s: Sampler, size: tuple[float, float], clustering: float, fraction: Tensor) -> Tensor:
    """A mask of small ragged spots in clusters that cover this fraction of the image."""
    return top_fraction_mask(s.field(*size, 1.5) + clustering * s.field(17, 25, 1.2), fraction, 0.2)


def _spindle_size(s: Sampler, stout: Tensor) -> tuple[Tensor, Tensor]:
    half_width = s.uniform(1.5, 3.5) + stout * s.uniform(1.5, 9)
    return half_width, half_width * s.log_uniform(4.5, 12)


def _camera(s: Sampler, image: Tensor, spread: Tensor | float, noise: Tensor) -> Tensor:
    return blur(image, spread) + noise * s.white()


def _turned(s: Sampler, image: Tensor, probability: float) -> Tensor:
    return torch.where(s.chance(probability) > 0, image.transpose(1, 2), image)
