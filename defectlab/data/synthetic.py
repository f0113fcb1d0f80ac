"""Procedural stand-ins."""
import torch
from torch import Tensor
from defectlab.data.textures import SIDE, Sampler, blur, contours, highest, ramp, spindle

CLASS_NAMES = ("crazing", "inclusion", "patches", "pitted_surface", "rolled-in_scale", "scratches")
CHUNK = 10


def pick(p: Tensor, a: Tensor, b: Tensor) -> Tensor:
    return torch.where(p > 0, a, b)


def positive(a: Tensor) -> Tensor:
    return a.clamp(min=0)


def camera(s, image, spread, noise):
    return blur(image, spread) + noise * s.white()


def crazing(s: Sampler) -> Tensor:
    level = pick(s.chance(0.28), s.uniform(0.3, 0.5), s.uniform(0.54, 0.72))
    light = 1 + s.uniform(-0.2, 0.2) * ramp(s.normal(0, 15)) + s.uniform(0.05, 0.15) * s.profile(s.log_uniform(8, 50))
    grain = s.uniform(0.12, 0.17) * s.field(1.3, 1.3, 0.1) + s.uniform(0.02, 0.06) * s.field(0.7, 8.0, 0.5)
    strokes = s.uniform(0.0, 0.06) * s.field(12.0, 0.7, 0.6, s.normal(14, 5))
    period = s.uniform(12, 26)
    bend = s.uniform(1.5, 4) * s.field(5.0, 4.0, 0.8) + s.uniform(4, 12) * s.field(30.0, 20.0, 1.5)
    rows = torch.arange(SIDE).view(1, SIDE, 1) + bend + s.uniform(0, 99)
    where = highest(s.field(14.0, 7.0, 1.0) + 0.7*s.field(40.0, 40.0, 1), s.uniform(0.25, 0.6), 0.4)
    cracks = contours(torch.sin(rows * (3.14159 / period)), s.uniform(2.0, 3.4)) * where
    holes = highest(s.field(3.0, 5.0, 1.5) + 1.5*s.field(20.0, 30.0, 1.5), positive(s.uniform(-0.015, 0.015)), 0.2) 
    dark = torch.maximum(s.uniform(0.15, 0.45) * cracks, s.uniform(0.4, 0.65) * holes)
    return camera(s, level * light * (1 + grain + strokes) * (1 - dark), 0.07, level * s.uniform(0.01, 0.05))


def inclusion(s: Sampler) -> Tensor:
    level = pick(s.chance(0.13), s.uniform(0.6, 0.92), s.uniform(0.24, 0.5))
    light = 1 + s.uniform(0.0, 0.25) * ramp(s.uniform(0, 360)) + s.uniform(0.02, 0.09) * s.profile(s.log_uniform(6, 40))
    grain = s.uniform(0.01, 0.04) * s.field(1.0, 2.0, 0.1)
    blotch = s.uniform(0.0, 0.04) * s.field(9.0, 40.0, 0.7)
    wobble = s.uniform(0.5, 3) * s.field(3.0, 14.0, 1.0)
    x, y = s.uniform(15, 185), s.uniform(20, 180)
    big = s.chance(0.6)
    depth = torch.full((1, 1, 1), -9.0)
    for k in range(8):
        size = big * s.uniform(1.5, 9) * (k < 2) + s.uniform(1.5, 3.5)
        half = size, size * s.log_uniform(4.5, 12)
        centre = x + s.normal(0, 1) * (8 + 35 * s.chance(0.3)) * (k > 0), y + s.normal(0, 45) * (k > 0)
        depth = torch.maximum(depth, spindle(centre, half, s.normal(0, 0.04), 2, wobble) - 99 * s.chance(0.07 * k))
    marks = torch.sigmoid(depth / s.uniform(0.4, 0.9))
    flecks = highest(s.field(1.6, 9.0, 2.0) + 1.2 * s.field(30.0, 60.0, 1), positive(s.uniform(-0.03, 0.04)), 0.2)
    dark = s.log_uniform(0.15, 0.5) * torch.maximum(marks, 0.7 * flecks)
    image = camera(s, level * light * (1 + grain + blotch) * (1 - dark), s.uniform(0.1, 0.25), s.log_uniform(0.002, 0.007))
    return pick(s.chance(0.05), image.transpose(1, 2), image)


def patches(s: Sampler) -> Tensor:
    dim = s.chance(0.22)
    level = pick(dim, s.uniform(0.2, 0.45), s.uniform(0.6, 1.0))
    light = 1 + s.uniform(0.05, 0.35) * ramp(s.uniform(-40, 40) + 180 * s.chance(0.5)) + s.uniform(0.03, 0.18) * s.profile(s.log_uniform(8, 50))
    grain = s.uniform(0.11, 0.16) * s.field(1.3, 1.3, 0.1) + s.uniform(0.02, 0.06) * s.field(0.7, 8.0, 0.5) + s.uniform(0, 0.05) * s.field(8.0, 0.7, 0.6, s.normal(14, 5))
    size = s.uniform(16, 28)
    shape = s.field(size, size * s.uniform(1.0, 3), 3.0) + s.uniform(0.05, 0.15) * s.field(6.0, 6.0, 0.8)
    share = s.log_uniform(0.07, 0.6)
    blob = highest(shape, share, s.uniform(0.08, 0.25))
    rim = blob * (1 - highest(shape, share * 0.5, 0.3)) * s.uniform(0, 0.2)
    faint = highest(s.field(25.0, 25.0, 0.8), s.uniform(0, 0.4), 0.5) * s.uniform(0, 0.25)
    pits = highest(s.field(1.8, 2.4, 1.5) + 1.6 * s.field(14.0, 20.0, 1.0), positive(s.uniform(-0.03, 0.01)), 0.25)
    dark = 1 - (1 - s.uniform(0.55, 0.75) * blob) * (1 - faint) * (1 - rim)
    dark = torch.maximum(dark, s.uniform(0.6, 0.9) * pits)
    return camera(s, level * light * (1 + grain) * (1 - dark), 0.07, level * s.uniform(0.01, 0.03))


def pitted(s: Sampler) -> Tensor:
    level = pick(s.chance(0.2), s.uniform(0.25, 0.55), s.uniform(0.6, 1.0))
    light = 1 + s.uniform(0.0, 0.35) * ramp(s.uniform(0, 360)) + s.uniform(0.01, 0.09) * s.profile(s.log_uniform(4, 50))
    grain = s.uniform(0.02, 0.05) * s.field(1.0, 2.0, 0.3)
    length = s.uniform(1.1, 2.2)
    density = s.field(30.0, 50.0, 2.0)
    stretch = s.uniform(1.0, 1.8)
    fine = s.field(length, length * stretch, 6.0)
    dense = s.chance(0.5)
    pits = highest(fine + s.uniform(0.1, 0.6) * density, pick(dense, s.uniform(0.2, 0.5), s.log_uniform(0.02, 0.2)), pick(dense, s.uniform(0.3, 0.8), s.uniform(0.1, 0.4)))
    coarse = highest(s.field(length * 1.9, length * 2.1, 4.0) + 0.7*density, positive(s.uniform(-0.03, 0.05)), 0.2)
    skin = highest(s.field(40.0, 50.0, 0.7) + 1.5 * ramp(s.uniform(0, 360)), positive(s.uniform(-0.5, 0.2)), 0.05)
    dark = s.uniform(0.12, 0.4) * torch.maximum(pits, 1.2*coarse)
    dark = torch.maximum(dark*(1-skin), s.uniform(0.1, 0.35) * skin)
    return camera(s, level * light * (1 + grain) * (1 - dark), s.uniform(0.08, 0.2), s.log_uniform(0.002, 0.006))


def rolled(s: Sampler) -> Tensor:
    level = pick(s.chance(0.35), s.uniform(0.28, 0.4), s.uniform(0.46, 0.58))
    tilt = s.normal(12, 6)
    light = 1 + s.uniform(0.0, 0.15) * ramp(s.normal(0, 30)) + s.uniform(0.03, 0.1) * s.profile(s.log_uniform(12, 50))
    cloud = s.uniform(0.03, 0.07) * s.field(16.0, 10.0, 0.6)
    grain = s.uniform(0.06, 0.09) * s.field(2.5, 0.7, 0.1, tilt * 0.4) + s.uniform(0.01, 0.03) * s.field(3.0, 0.2, 1.0)
    strokes = s.uniform(0.01, 0.03) * s.field(16.0, 0.8, 0.6, tilt)
    where = s.field(16.0, 30.0, 1.5)
    smudge = highest(s.field(3.8, 2.0, 3.0) + s.uniform(0.4, 0.8) * where, s.log_uniform(0.012, 0.07), 0.35)
    comb = 1 + 0.3 * s.field(3.0, 0.6, 1.0)
    dark = s.uniform(0.18, 0.42) * smudge * comb
    return camera(s, level * light * (1 + grain + strokes + cloud) * (1 - dark), 0.05, level * s.uniform(0.01, 0.03))


def scratches(s: Sampler) -> Tensor:
    level = pick(s.chance(0.15), s.uniform(0.4, 0.6), s.uniform(0.15, 0.42))
    light = 1 + s.uniform(0.0, 0.25) * ramp(s.uniform(0, 360)) + s.uniform(0.01, 0.07) * s.profile(s.log_uniform(2, 40))
    grain = s.uniform(0.02, 0.045) * s.field(1.0, 1.5, 0.1) + s.uniform(0.01, 0.05) * s.field(10.0, 14.0, 0.5)
    wobble = s.log_uniform(0.1, 1.5) * s.field(20.0, 40.0, 1.0)
    speckle = 1 + s.uniform(0.1, 0.4) * s.field(2.0, 5.0, 0.4) + s.uniform(0.0, 0.6) * s.field(3.0, 30.0, 1.0)
    bright = torch.zeros(1, 1, 1)
    long = s.chance(0.6)
    lean = s.normal(0, 0.04)
    x = s.uniform(15, 185)
    for k in range(8):
        wide = s.chance(0.45 if k == 0 else 0)
        half = s.log_uniform(0.5, 1.6) + wide * s.uniform(2, 9), s.log_uniform(10, 80) + torch.maximum(long * s.chance(0.7), wide) * 200
        centre = pick(s.chance(0.5), s.uniform(5, 195), x + s.normal(0, 12)), s.uniform(10, 190)
        depth = spindle(centre, half, lean + s.normal(0, 0.01), 6, wobble)
        bright = torch.maximum(bright, torch.sigmoid(depth / s.uniform(0.4, 0.9)) * s.log_uniform(0.08, 0.8) * (1 - s.chance(0.12 * k)))
    rib = 1 + 0.35 * s.profile(1.2)
    image = camera(s, level * light * (1 + grain) + bright * positive(speckle) * rib, s.uniform(0.05, 0.2), s.log_uniform(0.002, 0.007))
    return pick(s.chance(0.28), image.transpose(1, 2), image)


DRAW = dict(zip(CLASS_NAMES, (crazing, inclusion, patches, pitted, rolled, scratches)))


def strip_images(class_name: str, count: int, seed: int, size: int = 200) -> Tensor:
    out = []
    for chunk in range((count + CHUNK - 1) // CHUNK):
        s = Sampler((seed, CLASS_NAMES.index(class_name), chunk), CHUNK)
        im = DRAW[class_name](s)
        out.append((im * 255).round().clamp(0, 255).to(torch.uint8))
    return torch.cat(out)[:count].unsqueeze(1)
