"""A wider world than surfaces: grounds under layers of shapes, in any light, drawn a batch at a time on a device.

Grounds are surfaces, fields with spectra near 1/f^a, and waves of a warped coordinate. The layers are dead leaves with
soft edges (Lee, Mumford & Huang, "Occlusion models for natural images", IJCV 2001; Baradad et al., "Learning to see by
looking at noise", NeurIPS 2021): discs, boxes, diamonds, bars and rings, alone, in rows and in lattices, as holes, seams,
stamps, conductors, strokes and borders are, filled, tinted or embossed.
"""

import math

import torch
from torch import Tensor

from defectlab.data.synthesis.surfaces import (
    DEFECT_COLUMNS,
    DIMENSIONS,
    SceneSampler,
    draw_surfaces,
    pointwise,
    standardise,
)
from defectlab.data.synthesis.textures import blur
from defectlab.utils.fused import fused

_LAYERS = 9  # most layers of an image
_COLUMNS = 27  # random numbers of a layer
_CAMERA = 9  # and of the light and the camera


def draw_scenes(count: int, side: int, generator: torch.Generator, device: torch.device, group: int = 1) -> Tensor:
    """Draw images of scenes, float32 in [0, 1], shape (count, 1, side, side).

    Args:
        count: Number of images.
        side: Height and width in pixels.
        generator: On the device.
        device: Where the images appear.
        group: Images in a row that share the ground and light of one scene, but not its defects and layers.
    """
    groups = -(-count // group)

    def shared() -> Tensor:
        points = torch.rand(groups, DIMENSIONS, generator=generator, device=device)
        return points.repeat_interleave(group, dim=0)[:count]

    points = shared()
    own = torch.rand(count, len(DEFECT_COLUMNS), generator=generator, device=device)
    points[:, DEFECT_COLUMNS.start : DEFECT_COLUMNS.stop] = own
    surface = draw_surfaces(points, side, generator, 0.01).squeeze(1)
    world = SceneSampler(shared(), side, generator, 0.01)
    fills = standardise(surface.roll(group * (groups // 2), 0).flip(2))
    image = _layered(world, _grounded(world, surface), fills)
    common = torch.cat([world.uniform(0, 1) for _ in range(_CAMERA)], dim=1).squeeze(2)
    own = torch.rand(count, _CAMERA, generator=generator, device=device)
    return fused(_finish)(image, world.white(), world.axis, common, own).unsqueeze(1)


def _grounded(world: SceneSampler, surface: Tensor) -> Tensor:
    """Return the surface, or a field or a pattern in its place, shape (N, S, S)."""
    angle = world.uniform(0, math.pi)
    field = world.field(
        world.log_uniform(4, 4 * world.side), world.log_uniform(1, 4), angle, 0.0, world.uniform(0.4, 3)
    )
    field = standardise(pointwise(field, world.uniform(0, 1), world.choice(8)))
    numbers = torch.cat([world.uniform(0, 1) for _ in range(13)], dim=1).squeeze(2)
    return fused(_ground)(surface, field, world.axis, angle, numbers)


def _ground(surface: Tensor, field: Tensor, axis: Tensor, angle: Tensor, numbers: Tensor) -> Tensor:
    n = numbers[:, :, None, None].unbind(1)
    x, y = axis.view(1, 1, -1), axis.view(1, -1, 1)
    warp = (0.9 * n[0] - 0.3).clamp(min=0) * field
    radius = ((x - _between(n[1], -1, 1)).square() + (y - _between(n[2], -1, 1)).square()).sqrt()
    along, across = x * angle.cos() + y * angle.sin(), y * angle.cos() - x * angle.sin()
    waves = _between_logs(n[3], 4, 80)
    wave = torch.sin(torch.where(n[4] < 0.3, radius, along) * waves + 2 * warp)
    crossing = torch.sin(across * waves * _between(n[5], 0.3, 1.5) + warp)
    wave = wave * torch.where(n[6] < 0.5, crossing, 1.0)
    pattern = standardise(torch.tanh(_between_logs(n[7], 0.5, 12) * wave) + (1.3 * n[8] - 0.5).clamp(min=0) * field)
    level, contrast = _between(n[9], 0.15, 0.85), _between_logs(n[10], 0.02, 0.3)
    drawn = level * (1 + contrast * torch.where(n[11] < 0.55, field, pattern))
    return torch.where(n[12] < 0.55, surface, drawn)


def _layered(world: SceneSampler, image: Tensor, fills: Tensor) -> Tensor:
    """Put up to nine layers of soft shapes on an image, large ones first."""
    main, upright, framed = world.uniform(0, math.pi), world.uniform(0, 1) < 0.6, world.uniform(0, 1) < 0.4
    most = world.any_uniform(0.2, 1) * world.positive(-0.1, 1.5)
    wobble = world.field(world.log_uniform(6, 60), torch.ones_like(main), main, 0.5, 3.5)
    for index in range(_LAYERS):
        numbers = torch.rand(len(image), _COLUMNS, generator=world.generator, device=world.device)
        largest = torch.full_like(main, 160.0 if index < 2 else 45.0)
        there = world.any_uniform(0, 1) < most - 0.5 * index / _LAYERS
        inverted = framed & (index == 0)  # a part before its background
        rolled = fills.roll(17 * index, 1 + index % 2)
        image = fused(_layer)(image, rolled, wobble, world.axis, main, upright, largest, there, inverted, numbers)
    return image


def _layer(
    image: Tensor, texture: Tensor, wobble: Tensor, axis: Tensor, main: Tensor, upright: Tensor, largest: Tensor,
    there: Tensor, inverted: Tensor, numbers: Tensor,
) -> Tensor:  # fmt: skip
    """Put one layer on the images (N, S, S); all else broadcasts to these, but for the numbers (N, 27) in [0, 1)."""
    n = numbers[:, :, None, None].unbind(1)
    side = image.shape[-1]
    angle = torch.where(upright, main + (4 * n[0]).floor() * (math.pi / 2), 2 * math.pi * n[1])
    dx = axis.view(1, 1, -1) * (side / 2) - side * _between(n[2], -0.55, 0.55)
    dy = axis.view(1, -1, 1) * (side / 2) - side * _between(n[3], -0.55, 0.55)
    u, v = dx * angle.cos() + dy * angle.sin(), dy * angle.cos() - dx * angle.sin()
    # Rows and lattices: u and v count from the nearest copy, and every copy of a lattice may be missing.
    repeated, scattered = n[4] < 0.45, n[4] < 0.25
    period_u, period_v = _between_logs(n[5], 6, 70), _between_logs(n[6], 6, 70)
    most_u, most_v = (_between_logs(n[k], 1, 20).floor() * yes for k, yes in ((7, repeated), (8, scattered)))
    cell_u = torch.minimum((u / period_u).round().abs(), most_u) * u.sign()
    cell_v = torch.minimum((v / period_v).round().abs(), most_v) * v.sign()
    chance = torch.frac((torch.sin(cell_u * 12.9898 + cell_v * 78.233 + 99 * n[4]) * 4375.85).abs())
    present = there & ((chance < _between(n[9], 0.4, 1.6)) | ~repeated)
    # Diamonds, discs and boxes of any aspect, or their outlines, with rippled edges.
    size, aspect = 2 * (largest / 2).pow(n[10]), _between_logs(n[11], 0.25, 1)
    ripple = _between(n[12], -3, 1).exp() * wobble
    power = torch.where(n[13] < 0.4, 2.0, torch.where(n[13] < 0.88, 8.0, 1.0))
    along = ((u - cell_u * period_u + ripple) * aspect / size).abs() + 1e-4
    across = ((v - cell_v * period_v + ripple) / (aspect * size)).abs() + 1e-4
    depth = size * aspect * (1 - (along.pow(power) + across.pow(power)).pow(1 / power))
    depth = torch.where(n[14] < 0.3, _between_logs(n[15], 1, 6) - depth.abs(), depth)
    mask = torch.sigmoid(depth / _between_logs(n[16], 0.3, 5))
    mask = torch.where(inverted, 1 - mask, mask) * present
    # Filled, tinted or embossed.
    level = torch.where(n[17] < 0.5, n[18], image.mean((1, 2), keepdim=True) * _between_logs(n[19], 0.6, 1.6))
    opacity = _between(n[20], 0.1, 1).sqrt()
    filled = torch.lerp(image, level * (1 + _between_logs(n[21], 0.01, 0.3) * texture), mask * opacity)
    tinted = torch.where(n[22] < 0.55, filled, image * (1 - 0.6 * opacity * mask))
    relief = _between(n[23], -0.5, 0.5) * (mask.roll((2, 1), (1, 2)) - mask)
    return torch.where(n[22] < 0.8, tinted, image) + relief * (n[22] > 0.4)


def _finish(image: Tensor, noise: Tensor, axis: Tensor, common: Tensor, own: Tensor) -> Tensor:
    """Light, tone, blur and noise of a camera; of the numbers (N, 9) in [0, 1) the first are of a whole group."""
    n, m = common[:, :, None, None].unbind(1), own[:, :, None, None].unbind(1)
    x, y = axis.view(1, 1, -1), axis.view(1, -1, 1)
    angle, slope, bowl = 2 * math.pi * n[0], _between(n[1], -0.4, 0.4), _between(n[2], -0.4, 0.2)
    image = image * (1 + slope * (x * angle.cos() + y * angle.sin()) + bowl * (x.square() + y.square() - 0.7))
    image = image.clamp(1e-3, 1).pow(_between_logs(n[3], 0.5, 2) * _between_logs(m[0], 0.9, 1.1))
    image = torch.where(n[4] < 0.15, 1 - image, image)
    for index in range(4):
        image = blur(image, 0.33 * m[1 + index] * (n[5] * 5 < 4 - index))
    mean = image.mean((1, 2), keepdim=True)
    deviation = (image - mean).square().mean((1, 2), keepdim=True).sqrt()
    level = _between(n[6], 0.2, 0.8) * _between_logs(m[5], 0.7, 1.4)
    contrast = 0.7 * _between_logs(n[7], 0.03, 0.35) / (deviation + 0.02) + 0.3
    image = torch.lerp(mean, level, 0.7) + contrast * _between_logs(m[6], 0.8, 1.25) * (image - mean)
    return (image + _between_logs(n[8], 0.001, 0.05) * noise).clamp(0, 1)


def _between(number: Tensor, low: float, high: float) -> Tensor:
    return low + (high - low) * number


def _between_logs(number: Tensor, low: float, high: float) -> Tensor:
    return (math.log(low) + math.log(high / low) * number).exp()
