"""What pose, light, lens, sensor and file do to images, every image of a batch by its own strength.

All take float images `(N, C, H, W)` in [0, 1] and strengths `(N,)` on their device, and return new images, which may
leave [0, 1] where light is added. `largest` bounds the strengths: the size of a kernel depends on it, not on the batch.
"""

import math

import torch
from torch import Tensor
from torch.nn import functional

# ITU-T T.81 (JPEG), table K.1: the steps of the luminance coefficients at quality 50.
_LUMINANCE = (
    16, 11, 10, 16, 24, 40, 51, 61, 12, 12, 14, 19, 26, 58, 60, 55, 14, 13, 16, 24, 40, 57, 69, 56, 14, 17, 22, 29, 51,
    87, 80, 62, 18, 22, 37, 56, 68, 109, 103, 77, 24, 35, 55, 64, 81, 104, 113, 92, 49, 64, 78, 87, 103, 121, 120, 101,
    72, 92, 95, 98, 112, 100, 103, 99,
)  # fmt: skip


def per_image(values: Tensor) -> Tensor:
    """Return `(N,)` as `(N, 1, 1, 1)`."""
    return values.view(-1, 1, 1, 1)


def resample(images: Tensor, matrices: Tensor, interpolation: str) -> Tensor:
    """Resample by output-to-input matrices `(N, 2, 3)` in coordinates of [-1, 1], y downwards."""
    height, width = images.shape[-2:]
    # Pixel centres, as grid_sample with align_corners=False counts them.
    xs = (torch.arange(width, device=images.device) * 2 + 1) / width - 1
    ys = (torch.arange(height, device=images.device) * 2 + 1) / height - 1
    along_x = matrices[:, :, 0:1] * xs
    along_y = matrices[:, :, 1:2] * ys + matrices[:, :, 2:3]
    # Two outer sums take a fiftieth of affine_grid's time.
    grid = (along_y[:, :, :, None] + along_x[:, :, None, :]).permute(0, 2, 3, 1)
    # Reflection at rotated corners: a black wedge would be a feature.
    return functional.grid_sample(
        images, grid.to(images.dtype), mode=interpolation, padding_mode="reflection", align_corners=False
    )


def adjust_contrast(images: Tensor, factor: Tensor, shift: Tensor) -> Tensor:
    """Scale each image about its own mean by `factor`, and add `shift`."""
    offset = shift + images.mean(dim=(1, 2, 3)) * (1 - factor)
    return images.mul(per_image(factor)).add_(per_image(offset))


def adjust_gamma(images: Tensor, exponent: Tensor) -> Tensor:
    """Raise pixels, limited to [0, 1], to `exponent`: above 1 darkens the middle greys."""
    return images.clamp(0, 1).pow_(per_image(exponent))


def tilt_light(images: Tensor, slope: Tensor, angle: Tensor, aspects: Tensor) -> Tensor:
    """Multiply by a linear ramp, from 1 - `slope` at one corner or side to 1 + `slope` at the opposite one.

    The light grows towards `angle`, in radians, anticlockwise from the right, in an image `aspects` times as wide as high.
    A constant image keeps its mean.
    """
    ys, xs = (_pixels(side, images.device) * 2 / side for side in images.shape[-2:])
    cos, sin = torch.cos(angle) * aspects, torch.sin(angle)
    slope = slope / (cos.abs() + sin.abs())
    ramp = (1 + (slope * cos)[:, None, None] * xs) - (slope * sin)[:, None, None] * ys[:, None]
    return images * ramp[:, None]


def gaussian_blur(images: Tensor, sigma: Tensor, largest: float) -> Tensor:
    """Blur by a Gaussian of standard deviation `sigma`, in pixels; the mean stays."""
    offsets = _offsets(images, math.ceil(3 * largest))
    kernel = torch.exp(-(offsets / sigma.clamp(min=1e-3)[:, None]).square() / 2)
    return _convolve(_convolve(images, kernel[:, None, :]), kernel[:, :, None])


def defocus(images: Tensor, radius: Tensor, largest: float) -> Tensor:
    """Blur by a disk of `radius` pixels, the image of a point out of focus; the mean stays."""
    offsets = _offsets(images, math.ceil(largest))
    # Pixels at the rim count by the share of them that lies inside.
    return _convolve(images, (radius[:, None, None] + 0.5 - torch.hypot(offsets, offsets[:, None])).clamp_(0, 1))


def motion_blur(images: Tensor, length: Tensor, angle: Tensor, largest: float) -> Tensor:
    """Average each image along a straight path of `length` pixels, `angle` radians anticlockwise from the right."""
    offsets = _offsets(images, math.ceil(largest / 2))
    points = 2 * math.ceil(largest) + 1
    path = length[:, None] * (_pixels(points, images.device) / points)
    # Each point of the path is divided among its neighbours as bilinear interpolation does.
    xs, ys = (
        (1 - (part[:, :, None] - offsets).abs()).clamp_(min=0)
        for part in (path * torch.cos(angle)[:, None], -path * torch.sin(angle)[:, None])
    )
    return _convolve(images, ys.mT @ xs)


def jpeg(images: Tensor, quality: Tensor) -> Tensor:
    """Quantise blocks of 8×8 pixels as JPEG does at `quality`, a whole number from 1 to 100.

    Every channel is taken as luminance, so grey images come out as from libjpeg, to a grey level; colours are neither
    converted nor subsampled.
    """
    height, width = images.shape[-2:]
    padded = functional.pad(images, (0, -width % 8, 0, -height % 8), mode="replicate")
    shape = (len(images), -1, padded.shape[-2] // 8, 8, padded.shape[-1] // 8, 8)
    levels = padded.clamp(0, 1).mul_(255).round_().sub_(128)
    blocks = levels.view(shape).transpose(3, 4).reshape(*shape[:1], -1, 64)
    # Exact where coefficients are eighths, so that no tie of theirs is broken by the order of a sum.
    steps = torch.arange(8, dtype=torch.float64)
    basis = torch.cos(math.pi / 16 * (2 * steps + 1) * steps[:, None]) / 2
    basis[0] /= math.sqrt(2)
    transform = torch.kron(basis, basis).to(images)
    percent = torch.where(quality < 50, 5000 / quality, 200 - 2 * quality)[:, None, None]
    table = ((torch.tensor(_LUMINANCE, device=images.device) * percent + 50) / 100).floor().clamp_(1, 255)
    coefficients = (blocks @ transform.T).div_(table).round_().mul_(table)
    blocks = (coefficients @ transform).add_(128).round_().div_(255)
    whole = blocks.view(*shape[:3], shape[4], 8, 8).transpose(3, 4).reshape(padded.shape)
    return whole[..., :height, :width].clamp(0, 1)


def noise_variance(images: Tensor, decibel: Tensor) -> Tensor:
    """Return the variance `(N,)` of noise at `decibel` below the mean square of each image."""
    return images.square().mean(dim=(1, 2, 3)) / 10 ** (decibel / 10)


def shot_variance(images: Tensor, decibel: Tensor) -> Tensor:
    """Return the variance `(N, C, H, W)` of shot noise: in proportion to the pixel, `decibel` below the mean square."""
    light = images.clamp(min=0)
    return light * per_image(noise_variance(light, decibel) / light.mean(dim=(1, 2, 3)).clamp(min=1e-12))


def normal_like(images: Tensor, seeds: Tensor) -> Tensor:
    """Draw standard normal numbers `(N, C, H, W)`, each image's from its own seed, in [0, 1) and on the CPU."""
    noise = torch.empty(images.shape, dtype=images.dtype, device=images.device)
    generator = torch.Generator(device=images.device)
    for field, seed in zip(noise, seeds.mul(2**24).long().tolist(), strict=True):
        field.normal_(generator=generator.manual_seed(seed))
    return noise


def fill_rectangle(
    images: Tensor, chosen: Tensor, vertical: tuple[Tensor, Tensor], horizontal: tuple[Tensor, Tensor]
) -> Tensor:
    """Fill a rectangle of the `chosen` images with their mean; its ends are fractions of the sides."""
    inside = []
    for side, (begin, end) in zip(images.shape[-2:], (vertical, horizontal), strict=True):
        places = (torch.arange(side, device=images.device) + 0.5) / side
        inside.append((places >= begin[:, None]) & (places < end[:, None]))
    hit = chosen[:, None, None] & inside[0][:, :, None] & inside[1][:, None, :]
    return torch.where(hit[:, None], images.mean(dim=(1, 2, 3), keepdim=True), images)


def _pixels(count: int, device: torch.device) -> Tensor:
    """Return the places of `count` pixels, in pixels from the middle."""
    return torch.arange(count, device=device) - (count - 1) / 2


def _offsets(images: Tensor, radius: int) -> Tensor:
    """Return the places of a kernel's pixels; one wider than the image is cut."""
    return _pixels(2 * min(radius, *images.shape[-2:]) + 1, images.device)


def _convolve(images: Tensor, kernels: Tensor) -> Tensor:
    """Convolve each image by its own kernel `(N, K, L)`, of odd sides, brought to the sum 1; borders are mirrored."""
    count, channels, height, width = images.shape
    kernels = kernels / kernels.sum(dim=(1, 2), keepdim=True)
    for dim, radius in ((2, kernels.shape[1] // 2), (3, kernels.shape[2] // 2)):
        if radius:
            near, far = (images.narrow(dim, at, radius).flip(dim) for at in (0, images.shape[dim] - radius))
            images = torch.cat((near, images, far), dim=dim)
    # Convolution turns the kernel about; all of these are the same both ways.
    filters = kernels.repeat_interleave(channels, dim=0)[:, None]
    batch = images.reshape(1, count * channels, *images.shape[-2:])
    return functional.conv2d(batch, filters, groups=count * channels).view(count, channels, height, width)
