"""Bad light, lenses and sensors as augmentation: each operation by a value that is known without it."""

import math

import pytest
import torch
from torch import Tensor
from torchvision.transforms.v2 import functional as transforms

from defectlab.data.pipeline import imaging
from defectlab.data.pipeline.augment import COLUMNS, Augmentation, augment, draw, random_generator

NEW = {
    "illumination": 0.4, "blur": 2.0, "defocus": 3.0, "motion_blur": 7.0, "lowest_contrast": 0.1, "gamma": 0.8,
    "shot_snr": 15.0, "jpeg": 10.0,
}  # fmt: skip
ALL_NEW = Augmentation(**NEW)  # type: ignore[arg-type]


def random_images(count: int = 4, channels: int = 1, side: int = 40) -> Tensor:
    return torch.rand(count, channels, side, side, generator=torch.Generator().manual_seed(1)) * 0.6 + 0.2


def at(count: int = 1, /, **columns: float) -> Tensor:
    """Draws of 0.5, but for the columns given by name."""
    draws = torch.full((count, len(COLUMNS)), 0.5)
    for name, value in columns.items():
        draws[:, COLUMNS.index(name)] = value
    return draws


def point(settings: Augmentation, **columns: float) -> Tensor:
    """What becomes of one white pixel in the middle of 41×41."""
    image = torch.zeros(1, 1, 41, 41)
    image[..., 20, 20] = 1
    return augment(image, at(**columns), settings)[0, 0]


def moments(spot: Tensor) -> tuple[float, float, float]:
    """Variances along x and y, and the covariance with y upwards, of a spot of sum 1, in pixels."""
    places = torch.arange(41) - 20.0
    xx, yy = (spot.sum(dim=dim) @ places.square() for dim in (0, 1))
    return float(xx), float(yy), float(-(places @ spot @ places))


# The lens


@pytest.mark.parametrize("sigma", [0.7, 1.5, 3.0])
def test_blur_has_the_asked_width_and_keeps_the_mean(sigma: float) -> None:
    xx, yy, xy = moments(point(Augmentation(blur=sigma), blur=1.0))
    assert (xx, yy) == pytest.approx((sigma**2, sigma**2), rel=0.05)
    assert xy == pytest.approx(0, abs=1e-6)
    images = random_images(side=200)
    blurred = augment(images, at(4, blur=1.0), Augmentation(blur=sigma))
    torch.testing.assert_close(blurred.mean(dim=(1, 2, 3)), images.mean(dim=(1, 2, 3)))
    if sigma > 1:  # of white noise, a Gaussian leaves 1 / (4πσ²) of the variance
        factor = float(blurred.var() / images.var())
        assert factor == pytest.approx(1 / (4 * math.pi * sigma**2), rel=0.1)


def test_blur_is_torchvisions_away_from_the_border() -> None:
    images = random_images()
    mixed = augment(images, torch.cat([at(blur=u) for u in (1.0, 0.5, 1.0, 0.25)]), Augmentation(blur=2.0))
    for image, result, sigma in zip(images, mixed, (2.0, 1.0, 2.0, 0.5), strict=True):
        expected = transforms.gaussian_blur(image, [13, 13], [sigma, sigma])
        torch.testing.assert_close(result[..., 6:-6, 6:-6], expected[..., 6:-6, 6:-6])


@pytest.mark.parametrize("radius", [2.0, 4.5])
def test_defocus_makes_a_disk_of_a_point(radius: float) -> None:
    spot = point(Augmentation(defocus=radius), defocus=1.0)
    distance = torch.hypot(torch.arange(41) - 20.0, torch.arange(41)[:, None] - 20.0)
    inside = spot[distance < radius - 0.5]
    assert float(inside.std()) < 1e-6
    assert float(inside[0]) == pytest.approx(1 / (math.pi * radius**2), rel=0.05)
    assert not spot[distance > radius + 0.5].any()
    images = random_images()
    blurred = augment(images, draw(4, (0, 0)), Augmentation(defocus=radius))
    torch.testing.assert_close(blurred.mean(dim=(1, 2, 3)), images.mean(dim=(1, 2, 3)))


def test_motion_smears_along_its_direction_alone() -> None:
    settings = Augmentation(motion_blur=12)
    stripes = random_images(2)[..., :1].expand(-1, -1, -1, 40).contiguous()  # along x
    along = augment(stripes, at(2, motion=1.0, motion_angle=0.0), settings)
    torch.testing.assert_close(along, stripes)
    across = augment(stripes, at(2, motion=1.0, motion_angle=0.5), settings)
    # Twelve rows in place of one: the mean of twelve independent values.
    assert float(across[..., 8:-8, :].var() / stripes.var()) < 0.25
    for angle, (x, y) in {0.0: (1, 0), 0.25: (math.sqrt(0.5), math.sqrt(0.5)), 0.5: (0, 1)}.items():
        xx, yy, xy = moments(point(settings, motion=1.0, motion_angle=angle))
        assert (xx, yy) == pytest.approx((12 * x * x, 12 * y * y), abs=0.5)  # L² / 12
        assert xy == pytest.approx(12 * x * y, abs=0.5)  # upwards to the right


@pytest.mark.parametrize("name", ["blur", "defocus", "motion_blur"])
def test_a_kernel_may_be_wider_than_the_image(name: str) -> None:
    images = random_images(side=3)
    blurred = augment(images, draw(4, (0, 0)), Augmentation(**{name: 15}))  # type: ignore[arg-type]
    assert blurred.isfinite().all()
    assert (blurred.amax(dim=(1, 2, 3)) <= images.amax(dim=(1, 2, 3)) + 1e-6).all()


# The light and the sensor's response


def test_light_from_one_side_is_a_ramp_that_keeps_the_mean() -> None:
    images = torch.full((1, 1, 40, 40), 0.5)
    settings = Augmentation(illumination=0.4)
    lit = augment(images, at(illumination=1.0, light_angle=0.0), settings)[0, 0]
    expected = 0.5 * (1 + 0.4 * (2 * torch.arange(40) - 39) / 40)
    torch.testing.assert_close(lit, expected.expand(40, 40))
    up = augment(images, at(illumination=0.5, light_angle=0.25), settings)[0, 0]
    torch.testing.assert_close(up, (0.5 * (1 - 0.2 * (2 * torch.arange(40) - 39) / 40))[:, None].expand(40, 40))
    corner = augment(images, at(illumination=1.0, light_angle=0.125), settings)[0, 0]
    assert float(corner[0, -1]) == pytest.approx(0.5 * 1.4, abs=0.006)
    assert float(corner.min()) == float(corner[-1, 0])
    assert float(corner.mean()) == pytest.approx(0.5, abs=1e-5)


def test_gamma_of_a_constant_image() -> None:
    images = torch.full((3, 1, 8, 8), 0.25)
    draws = torch.cat([at(gamma=u) for u in (0.0, 0.5, 1.0)])
    changed = augment(images, draws, Augmentation(gamma=1.0))
    torch.testing.assert_close(changed[:, 0, 0, 0], torch.tensor([0.5, 0.25, 0.0625]))


def test_the_lowest_contrast_is_about_the_mean_and_joins_the_other() -> None:
    images = random_images(3, 3)
    draws = torch.cat([at(lowest_contrast=u, contrast=v) for u, v in ((1.0, 0.5), (0.5, 0.5), (1.0, 0.0))])
    changed = augment(images, draws, Augmentation(lowest_contrast=0.1, contrast=0.2))
    for image, result, factor in zip(images, changed, (0.1, math.sqrt(0.1), 0.08), strict=True):
        torch.testing.assert_close(result, image.mean() + factor * (image - image.mean()))


def test_shot_noise_grows_with_the_light_to_the_drawn_decibel() -> None:
    image = torch.full((1, 1, 200, 200), 0.2)
    image[..., 100:] = 0.8
    noise = augment(image, at(shot=0.0), Augmentation(shot_snr=25)) - image
    assert float(10 * torch.log10(image.square().mean() / noise.square().mean())) == pytest.approx(25, abs=0.1)
    assert float(noise[..., 100:].var() / noise[..., :100].var()) == pytest.approx(4, rel=0.05)
    both = augment(image, at(shot=0.0, noise=0.0), Augmentation(shot_snr=25, snr=25)) - image
    assert float(both.var() / noise.var()) == pytest.approx(2, rel=0.02), "variances add up"
    black = torch.zeros(1, 1, 8, 8)
    assert torch.equal(augment(black, at(shot=0.0), Augmentation(shot_snr=25)), black)


# The file


@pytest.mark.parametrize("quality", [10, 50, 90])
def test_jpeg_of_grey_images_is_libjpegs(quality: int) -> None:
    smooth = torch.nn.functional.interpolate(random_images(4, side=12), (53, 90), mode="bilinear")
    ours = imaging.jpeg(smooth, torch.full((4,), float(quality)))
    levels = (smooth * 255).round().to(torch.uint8)
    theirs = torch.stack([transforms.jpeg(image, quality) for image in levels]).float() / 255
    assert ours.shape == theirs.shape
    assert float((ours - theirs).abs().mean()) < 0.3 / 255
    assert float((ours - smooth).abs().mean()) > 0.5 / 255


def test_jpeg_keeps_the_quality_of_each_image() -> None:
    images = random_images(1).expand(3, -1, -1, -1)
    draws = torch.cat([at(jpeg=u) for u in (0.0, 0.5, 1.0)])
    results = augment(images, draws, Augmentation(jpeg=10))
    for result, quality in zip(results, (100, 55, 10), strict=True):
        torch.testing.assert_close(result, imaging.jpeg(images[:1], torch.tensor([float(quality)]))[0])
    losses = (results - images).abs().mean(dim=(1, 2, 3))
    assert 2 / 255 > losses[0] < losses[1] < losses[2]


# Draws


def test_switched_off_nothing_differs_from_before() -> None:
    draws = draw(9, (4, 7))
    assert torch.equal(draws[:, :19], torch.rand(9, 19, generator=random_generator(4, 7)))
    settings = Augmentation(rotation=10, brightness=0.1, contrast=0.2, snr=20.0, erasing=0.5)
    images, others = random_images(9), draws.clone()
    others[:, 19:] = 0.123
    assert torch.equal(augment(images, draws, settings), augment(images, others, settings))


def test_the_weakest_draw_changes_nothing() -> None:
    images = random_images()
    weakest = at(4, **dict.fromkeys(("illumination", "blur", "defocus", "motion", "lowest_contrast"), 0.0))
    settings = {
        name: NEW[name] for name in ("illumination", "blur", "defocus", "motion_blur", "lowest_contrast", "gamma")
    }
    torch.testing.assert_close(augment(images, weakest, Augmentation(**settings)), images)  # type: ignore[arg-type]


@pytest.mark.parametrize("channels", [1, 3])
def test_an_image_hangs_on_its_draw_and_not_on_its_batch(channels: int) -> None:
    images, draws = random_images(7, channels, 33), draw(7, (0, 2))
    together = augment(images, draws, ALL_NEW)
    assert torch.equal(augment(images, draws, ALL_NEW), together)
    for size in (1, 3):
        parts = zip(torch.split(images, size), torch.split(draws, size), strict=True)
        torch.testing.assert_close(torch.cat([augment(*part, ALL_NEW) for part in parts]), together, rtol=0, atol=1e-5)
    assert not torch.equal(augment(images, draw(7, (0, 3)), ALL_NEW), together)
    same = images[:1].expand(7, -1, -1, -1)
    assert len(torch.unique(augment(same, draws, ALL_NEW).flatten(1), dim=0)) == 7


@pytest.mark.parametrize(("name", "value"), [*NEW.items(), ("snr", 10.0)])
def test_chance_leaves_the_other_images_as_they_are(name: str, value: float) -> None:
    images = random_images(1, side=16).round(decimals=1).expand(600, -1, -1, -1)
    settings = Augmentation(**{name: value, "chance": 0.3})  # type: ignore[arg-type]
    change = (augment(images, draw(600, (0, 1)), settings) - images).square().mean(dim=(1, 2, 3)).sqrt()
    # No noise is 60 dB, and quality 100 rounds.
    untouched = change <= {"snr": 1e-3, "shot_snr": 1e-3, "jpeg": 2 / 255}.get(name, 1e-6)
    assert 0.62 < float(untouched.float().mean()) < 0.78
    assert len(torch.unique(change[~untouched])) > 50, "the others are spread over the range"
    always = augment(images[:300], draw(300, (0, 1)), Augmentation(**{name: value}))  # type: ignore[arg-type]
    strongest = (always - images[:300]).square().mean(dim=(1, 2, 3)).sqrt().max()
    assert float(change.max()) > 0.8 * float(strongest)


@pytest.mark.parametrize("name", NEW)
def test_each_operation_has_draws_of_its_own(name: str) -> None:
    images = random_images(1).expand(16, -1, -1, -1)
    changed = augment(images, draw(16, (1, 1)), Augmentation(**{name: NEW[name]}))  # type: ignore[arg-type]
    # Qualities are whole numbers, and a disk of less than half a pixel is a point.
    assert len(torch.unique(changed.flatten(1), dim=0)) >= (13 if name in ("jpeg", "defocus") else 16)
    assert 0 <= changed.min() <= changed.max() <= 1


def test_images_stay_on_their_device() -> None:
    """The meta device computes nothing, but joins no tensor of another device."""
    settings = Augmentation(**{**NEW, "shot_snr": None, "rotation": 5, "erasing": 0.5})  # type: ignore[arg-type]
    result = augment(random_images().to("meta"), draw(4, (0, 0)), settings)
    assert result.device.type == "meta"
    assert imaging.shot_variance(result, torch.zeros(4, device="meta")).shape == result.shape
