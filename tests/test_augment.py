"""Augmentation: geometry against torch's own, exactness, ranges, independence of the draws."""

import math
from collections.abc import Callable
from typing import Any

import pytest
import torch
from torch import Tensor
from torch.nn import functional

from defectlab.data.pipeline.augment import COLUMNS, Augmentation, augment, draw, mix
from defectlab.errors import InputError

SIDE = 20
EVERYTHING = Augmentation(
    horizontal_flip=0.5, vertical_flip=0.5, rotation=20, translation=0.1, scale=0.2, shear=10, crop=0.7,
    brightness=0.3, contrast=0.5, noise=0.1, illumination=0.5, blur=2, defocus=2, motion_blur=5, lowest_contrast=0.1, gamma=1,
    shot_snr=10, jpeg=20, erasing=0.7,
)  # fmt: skip


def noise_images(count: int = 6, channels: int = 1, side: int = SIDE) -> Tensor:
    return torch.rand(count, channels, side, side, generator=torch.Generator().manual_seed(1))


def set_draws(count: int, **columns: float | Tensor) -> Tensor:
    """Draws of 0.5, which is the middle of every range, but for the columns given by name."""
    draws = torch.full((count, len(COLUMNS)), 0.5)
    for name, value in columns.items():
        draws[:, COLUMNS.index(name)] = value
    return draws


def by_affine_grid(images: Tensor, matrix: list[list[float]]) -> Tensor:
    """What torch makes of one output-to-input matrix."""
    theta = torch.tensor(matrix).expand(len(images), 2, 3)
    grid = functional.affine_grid(theta, list(images.shape), align_corners=False)
    return functional.grid_sample(images, grid, padding_mode="reflection", align_corners=False)


# Exactness


def test_nothing_on_gives_the_same_pictures() -> None:
    images = noise_images()
    assert torch.equal(augment(images, draw(6, (0, 0)), Augmentation()), images)


@pytest.mark.parametrize(
    "settings",
    [
        Augmentation(rotation=30),
        Augmentation(translation=0.2),
        Augmentation(scale=0.3),
        Augmentation(shear=20),
        Augmentation(brightness=0.5),
        Augmentation(contrast=0.5),
        Augmentation(rotation=30, translation=0.2, scale=0.3, shear=20, brightness=0.5, contrast=0.5),
    ],
)
@pytest.mark.parametrize("side", [SIDE, 200])
def test_the_middle_of_every_range_changes_nothing(settings: Augmentation, side: int) -> None:
    images = noise_images(2, side=side)
    torch.testing.assert_close(augment(images, set_draws(2), settings), images, rtol=0, atol=5e-5)


@pytest.mark.parametrize("brightness", [0.0, 0.2])
def test_flips_are_exact(brightness: float) -> None:
    images = noise_images(channels=3)
    draws = set_draws(6, flip_x=torch.tensor([0, 0, 1, 1, 0.49, 0.5]), flip_y=torch.tensor([0, 1, 0, 1, 1, 1]))
    flipped = augment(images, draws, Augmentation(horizontal_flip=0.5, vertical_flip=0.5, brightness=brightness))
    expected = [
        images[0].flip(1, 2),
        images[1].flip(2),
        images[2].flip(1),
        images[3],
        images[4].flip(2),
        images[5],
    ]
    assert torch.equal(flipped, torch.stack(expected))


def test_flips_within_a_resampling_agree_with_flips_alone() -> None:
    images = noise_images(8, side=32)
    draws = draw(8, (0, 0))
    draws[:, COLUMNS.index("angle")] = 0.5
    flipped = augment(images, draws, Augmentation(horizontal_flip=0.5, vertical_flip=0.5))
    assert not torch.equal(flipped, images)
    turned = augment(images, draws, Augmentation(horizontal_flip=0.5, vertical_flip=0.5, rotation=9))
    torch.testing.assert_close(turned, flipped)


# Geometry

THIRD, ROOT = math.pi / 6, math.sqrt(3) / 2
MATRICES: dict[str, tuple[dict[str, Any], dict[str, float], list[list[float]]]] = {
    "a sixth of a right angle more": ({"rotation": 30}, {"angle": 1}, [[ROOT, -0.5, 0], [0.5, ROOT, 0]]),
    "half of it the other way": (
        {"rotation": 60},
        {"angle": 0.25},
        [[ROOT, 0.5, 0], [-0.5, ROOT, 0]],
    ),
    "largest zoom": ({"scale": 0.25}, {"zoom": 1}, [[0.8, 0, 0], [0, 0.8, 0]]),
    "smallest zoom": ({"scale": 0.25}, {"zoom": 0}, [[1.25, 0, 0], [0, 1.25, 0]]),
    "shear": ({"shear": 45}, {"shear": 1}, [[1.0, 1, 0], [0, 1, 0]]),
    "shift": ({"translation": 0.2}, {"shift_x": 1, "shift_y": 0.25}, [[1, 0, 0.4], [0, 1, -0.2]]),
    "crop": ({"crop": 0.5}, {"side": 0, "crop_x": 0, "crop_y": 1}, [[0.5, 0, -0.5], [0, 0.5, 0.5]]),
    "flip and turn": (
        {"rotation": 30, "horizontal_flip": 1.0},
        {"angle": 1},
        [[-ROOT, -0.5, 0], [-0.5, ROOT, 0]],
    ),
    "shear, zoom and turn": (
        {"rotation": 90, "shear": 45, "scale": 1},
        {"angle": 1, "shear": 1, "zoom": 1},
        [[0, -0.5, 0], [0.5, 0.5, 0]],
    ),
}


@pytest.mark.parametrize("name", MATRICES)
@pytest.mark.parametrize("channels", [1, 3])
def test_geometry_is_that_of_affine_grid(name: str, channels: int) -> None:
    settings, columns, matrix = MATRICES[name]
    images = noise_images(3, channels)
    moved = augment(images, set_draws(3, **columns), Augmentation(**settings))
    torch.testing.assert_close(moved, by_affine_grid(images, matrix), rtol=0, atol=1e-4)


@pytest.mark.parametrize(("angle", "turns"), [(1.0, 1), (0.0, -1)])
def test_a_positive_angle_turns_anticlockwise(angle: float, turns: int) -> None:
    images = noise_images(2)
    turned = augment(images, set_draws(2, angle=angle), Augmentation(rotation=90))
    torch.testing.assert_close(turned, torch.rot90(images, turns, (2, 3)), rtol=0, atol=1e-4)


@pytest.mark.parametrize(("angle", "upwards"), [(1.0, True), (0.0, False)])
def test_content_moves_where_the_angle_says(angle: float, upwards: bool) -> None:
    image = torch.zeros(1, 1, 41, 41)
    image[..., 17:24, 34:40] = 1  # a spot on the right, in the middle
    turned = augment(image, set_draws(1, angle=angle), Augmentation(rotation=45))[0, 0]
    upper, lower = turned[:20, 21:].sum(), turned[21:, 21:].sum()
    assert (upper > 10 * lower) if upwards else (lower > 10 * upper)


def test_each_image_has_its_own_matrix() -> None:
    images = noise_images(4)
    draws = draw(4, (3, 1))
    together = augment(images, draws, EVERYTHING)
    alone = torch.cat([augment(images[i : i + 1], draws[i : i + 1], EVERYTHING) for i in range(4)])
    torch.testing.assert_close(together, alone, rtol=0, atol=1e-5)


def test_crop_windows_stay_inside_the_picture() -> None:
    side = 64
    ramp = (torch.arange(side) + 0.5) / side  # the value is the place
    horizontal = ramp.expand(1, 1, side, side)
    images = torch.cat((horizontal, horizontal.transpose(2, 3))).repeat(100, 1, 1, 1)
    draws = draw(100, (0, 0)).repeat_interleave(2, dim=0)
    cropped = augment(images, draws, Augmentation(crop=0.3))
    for values, dim in ((cropped[::2, 0], 2), (cropped[1::2, 0], 1)):
        steps = values.diff(dim=dim)
        # A window that left the image would show it mirrored, with steps the other way.
        assert (steps > 0).all()
        shares = steps.mean(dim=(1, 2)) * side
        assert 0.29 < shares.min() < 0.4
        assert 0.9 < shares.max() <= 1.001
    assert cropped.min() < 0.1
    assert cropped.max() > 0.9


def test_a_wedge_beyond_the_border_shows_the_mirrored_surface() -> None:
    images = torch.full((2, 1, SIDE, SIDE), 0.7)
    moved = augment(images, set_draws(2, angle=1.0, shift_x=1.0), Augmentation(rotation=40, translation=0.5))
    torch.testing.assert_close(moved, images)


def test_nearest_invents_no_grey_levels() -> None:
    images = (noise_images() > 0.5).float()
    moved = augment(images, draw(6, (0, 0)), Augmentation(rotation=45, scale=0.5, interpolation="nearest"))
    assert set(torch.unique(moved).tolist()) == {0.0, 1.0}
    assert not torch.equal(moved, images)


# Grey levels


def test_brightness_and_contrast_follow_their_formula() -> None:
    images = noise_images(3, 3) * 0.4 + 0.3
    draws = set_draws(3, brightness=torch.tensor([0.0, 0.5, 1.0]), contrast=torch.tensor([1.0, 0.0, 0.5]))
    changed = augment(images, draws, Augmentation(brightness=0.1, contrast=0.2))
    for image, result, factor, shift in zip(images, changed, (1.2, 0.8, 1.0), (-0.1, 0.0, 0.1), strict=True):
        torch.testing.assert_close(result, image.mean() + (image - image.mean()) * factor + shift)


def test_noise_has_the_drawn_strength_and_its_own_pixels_an_image() -> None:
    images = torch.full((4, 1, 100, 100), 0.5)
    draws = draw(4, (0, 0))
    noise = augment(images, draws, Augmentation(noise=0.1)) - images
    torch.testing.assert_close(noise.std(dim=(1, 2, 3)), 0.1 * draws[:, COLUMNS.index("noise")], rtol=0.05, atol=0)
    assert noise.mean().abs() < 1e-3
    fields = functional.normalize(noise.flatten(1))
    assert (fields @ fields.T - torch.eye(4)).abs().max() < 0.05


def test_noise_hangs_on_the_image_not_on_its_batch() -> None:
    images, draws = noise_images(5), draw(5, (0, 0))
    noisy = augment(images, draws, Augmentation(noise=0.1))
    assert torch.equal(augment(images[2:], draws[2:], Augmentation(noise=0.1)), noisy[2:])


def test_erasing_fills_one_rectangle_with_the_mean() -> None:
    images = noise_images(300, 3, 50)
    erased = augment(images, draw(300, (0, 0)), Augmentation(erasing=0.5))
    changed = (erased != images).all(dim=1)
    shares = changed.float().mean(dim=(1, 2))
    hit = shares > 0
    assert 0.4 < hit.float().mean() < 0.6
    assert 0.01 < shares[hit].min() < 0.05
    assert 0.15 < shares.max() < 0.22
    for image, result, mask in zip(images[hit], erased[hit], changed[hit], strict=True):
        rows, columns = mask.any(dim=1), mask.any(dim=0)
        assert torch.equal(mask, rows[:, None] & columns)
        torch.testing.assert_close(result[:, mask], image.mean().expand_as(result[:, mask]))


# Draws and ranges


def test_draws_hang_on_seed_epoch_and_place() -> None:
    assert torch.equal(draw(100, (0, 3))[:10], draw(10, (0, 3)))
    tables = [draw(50, (seed, epoch)) for seed in range(4) for epoch in range(4)]
    assert len({table[0, 0].item() for table in tables}) == 16
    assert ((torch.cat(tables) >= 0) & (torch.cat(tables) < 1)).all()


def test_no_two_images_share_a_draw() -> None:
    same = noise_images(1).expand(64, -1, -1, -1)
    for settings in (
        Augmentation(rotation=20),
        Augmentation(translation=0.2),
        Augmentation(scale=0.2),
        Augmentation(shear=20),
        Augmentation(crop=0.5),
        Augmentation(brightness=0.2),
        Augmentation(contrast=0.2),
        Augmentation(noise=0.2),
        Augmentation(erasing=1),
    ):
        results = augment(same, draw(64, (0, 0)), settings).flatten(1)
        assert len(torch.unique(results, dim=0)) == 64, settings


@pytest.mark.parametrize("channels", [1, 3])
@pytest.mark.parametrize("side", [1, 2, 33])
@pytest.mark.parametrize("values", [lambda x: x, torch.zeros_like, torch.ones_like])
def test_results_are_numbers_in_range(channels: int, side: int, values: Callable[[Tensor], Tensor]) -> None:
    images = values(noise_images(16, channels, side))
    before = images.clone()
    result = augment(images, draw(16, (5, 5)), EVERYTHING)
    assert result.shape == images.shape
    assert result.dtype == torch.float32
    assert result.isfinite().all()
    assert result.min() >= 0
    assert result.max() <= 1
    assert torch.equal(images, before)  # the caller's images are left alone


def test_channels_last_gives_the_same() -> None:
    images, draws = noise_images(5, 3), draw(5, (0, 0))
    strided = images.contiguous(memory_format=torch.channels_last)
    torch.testing.assert_close(augment(strided, draws, EVERYTHING), augment(images, draws, EVERYTHING))


def test_no_images_are_no_error() -> None:
    assert augment(torch.empty(0, 1, 8, 8), draw(0, (0, 0)), EVERYTHING).shape == (0, 1, 8, 8)


# MixUp and CutMix


def test_mixup_takes_one_share_of_each_pair() -> None:
    images, labels = noise_images(8), torch.arange(8)
    mixed, targets = mix(images, labels, 8, Augmentation(mixup=1.0), (0, 0, 0, 0))
    torch.testing.assert_close(targets.sum(dim=1), torch.ones(8))
    torch.testing.assert_close(mixed, torch.einsum("nk,kchw->nchw", targets, images))
    assert len(torch.unique(targets)) <= 4  # 0, 1, the share and its rest


def test_cutmix_pastes_a_box_and_counts_its_area() -> None:
    images, labels = noise_images(8), torch.arange(8)
    sizes = set()
    for seed in range(20):
        mixed, targets = mix(images, labels, 8, Augmentation(cutmix=1.0), (seed, 0, 0, 0))
        torch.testing.assert_close(targets.sum(dim=1), torch.ones(8))
        for i in range(8):
            own = mixed[i] == images[i]
            partner = targets[i].clone().index_fill_(0, torch.tensor(i), 0).argmax()
            if targets[i, i] == 1:  # its own partner, or an empty box
                assert own.all()
                continue
            torch.testing.assert_close(own.float().mean(), targets[i, i])
            assert torch.equal(mixed[i][~own], images[partner][~own])
            box = ~own[0]
            assert torch.equal(box, box.any(dim=1)[:, None] & box.any(dim=0))
            sizes.add(int(box.sum()))
    assert len(sizes) > 5


def test_mixing_with_both_takes_turns_and_repeats() -> None:
    images, labels = noise_images(8), torch.arange(8) % 3
    both = Augmentation(mixup=0.4, cutmix=1.0)
    cut = 0
    for seed in range(40):
        mixed, targets = mix(images, labels, 3, both, (seed, 0, 0, 0))
        again = mix(images, labels, 3, both, (seed, 0, 0, 0))
        assert torch.equal(mixed, again[0])
        assert torch.equal(targets, again[1])
        cut += int(torch.isin(mixed, images).all())
    assert 10 < cut < 30


# Settings


@pytest.mark.parametrize(
    ("name", "value"),
    [
        ("horizontal_flip", 1.1), ("vertical_flip", -0.1), ("rotation", 181), ("translation", 2),
        ("scale", -1), ("shear", 90), ("crop", 0), ("crop", 1.5), ("brightness", -0.5), ("contrast", 1.5),
        ("noise", math.nan), ("erasing", 2), ("mixup", -1), ("cutmix", math.inf), ("interpolation", "cubic"),
        ("illumination", 1.1), ("blur", -1), ("blur", 21), ("defocus", math.nan), ("motion_blur", 61),
        ("lowest_contrast", 0), ("lowest_contrast", 1.1), ("gamma", -0.1), ("shot_snr", 61), ("jpeg", 0), ("jpeg", 101), ("chance", 0),
    ],
)  # fmt: skip
def test_a_setting_out_of_range_is_named(name: str, value: Any) -> None:
    with pytest.raises(InputError, match=rf"^data\.augmentation\.{name} is .*: expected"):
        Augmentation(**{name: value})


def disc(height: int, width: int, radius: float) -> Tensor:
    """One white disc in the middle, as a camera of square pixels sees it."""
    ys, xs = (torch.arange(side) - (side - 1) / 2 for side in (height, width))
    return (torch.hypot(xs, ys[:, None]) < radius).float()[None, None]


def stretched(images: Tensor, height: int, width: int) -> Tensor:
    return functional.interpolate(images, (height, width), mode="bilinear", antialias=True)


@pytest.mark.parametrize("settings", [{"rotation": 40}, {"rotation": 40, "scale": 0.1, "shear": 20}])
@pytest.mark.parametrize("shape", [(48, 200), (200, 48), (96, 96)])
def test_geometry_is_the_camera_s(settings: dict[str, float], shape: tuple[int, int]) -> None:
    """A stretch, an augmentation and the stretch undone are the augmentation of what the camera saw."""
    ramp = torch.linspace(0, 0.4, shape[1]).expand(1, 1, *shape)
    camera = 0.5 * disc(*shape, radius=18) + ramp
    draws = set_draws(1, angle=0.9, shear=0.1, zoom=0.7)
    direct = augment(camera, draws, Augmentation(**settings))  # type: ignore[arg-type]
    aspects = torch.tensor([shape[1] / shape[0]])
    squared = augment(stretched(camera, 96, 96), draws, Augmentation(**settings), aspects)  # type: ignore[arg-type]
    undone = stretched(squared, *shape)
    assert (undone - direct).abs().mean() < 0.02
    if shape[0] != shape[1]:
        wrong = augment(stretched(camera, 96, 96), draws, Augmentation(**settings))  # type: ignore[arg-type]
        assert (stretched(wrong, *shape) - direct).abs().mean() > 0.04


def test_a_circle_stays_a_circle() -> None:
    camera, draws, settings = disc(48, 192, radius=14), set_draws(1, angle=0.9), Augmentation(rotation=30)
    squared = stretched(camera, 96, 96)

    def shape_of(turned: Tensor) -> float:
        places = (turned[0, 0] > 0.5).nonzero().float()
        low, high = torch.linalg.eigvalsh(torch.cov(places.T)).tolist()
        return float(high / low)

    assert shape_of(augment(camera, draws, settings)) == pytest.approx(1, abs=0.05)
    assert shape_of(stretched(augment(squared, draws, settings, torch.tensor([4.0])), 48, 192)) == pytest.approx(
        1, abs=0.1
    )
    assert shape_of(stretched(augment(squared, draws, settings), 48, 192)) > 1.5


def test_each_image_has_its_own_aspect() -> None:
    images, draws = noise_images(3), draw(3, (0, 0))
    settings = Augmentation(rotation=30, illumination=0.5, erasing=1.0)
    aspects = torch.tensor([0.5, 1.0, 3.0])
    together = augment(images, draws, settings, aspects)
    for index in range(3):
        one = slice(index, index + 1)
        torch.testing.assert_close(augment(images[one], draws[one], settings, aspects[one]), together[one])
    assert torch.equal(augment(images, draws, settings, torch.ones(3)), augment(images, draws, settings))


@pytest.mark.parametrize(("height", "width"), [(16, 128), (128, 16)])
def test_what_is_erased_of_a_strip_is_no_strip(height: int, width: int) -> None:
    images = torch.ones(200, 1, height, width)
    images[:, :, ::2] = 0
    erased = augment(images, draw(200, (1, 1)), Augmentation(erasing=1.0)) == 0.5
    for mask in erased[:, 0]:
        tall, wide = (int(mask.any(dim=dim).sum()) for dim in (1, 0))
        assert 0.01 < tall * wide / mask.numel() < 0.26
        assert tall == height or wide == width or 0.2 < tall / wide < 5  # a pixel more or less counts


def test_light_of_a_strip_grows_in_its_direction() -> None:
    """At 45° the light of a camera's image is as bright along every line at right angles to that."""
    lit = augment(
        torch.full((1, 1, 20, 80), 0.5),
        set_draws(1, illumination=1.0, light_angle=0.125),
        Augmentation(illumination=0.4),
    )
    plane = lit[0, 0]
    assert float(plane[5, 20]) == pytest.approx(float(plane[6, 21]), abs=1e-5)
    assert float(plane[0, -1]) == pytest.approx(0.7, abs=0.01)
