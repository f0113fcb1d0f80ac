"""`defectlab robustness`, and what it does to images."""

import csv
import math
from pathlib import Path

import pytest
import torch
from helpers import write_config

from defectlab.cli.main import main
from defectlab.data import Augmentation
from defectlab.data.pipeline.augment import augment, draw
from defectlab.errors import InputError
from defectlab.evaluate.corruptions import CORRUPTIONS, Corruption, noise_by_power, noise_by_variance


def grey(level: float, spread: float) -> torch.Tensor:
    generator = torch.Generator().manual_seed(0)
    return (level + spread * torch.randn(2, 1, 64, 64, generator=generator)).clamp(0, 1)


@pytest.mark.parametrize("decibel", [20, 30, 40])
def test_decibel_mean_what_they_say(decibel: float) -> None:
    images = grey(0.5, 0.05)
    noise = noise_by_power(images, decibel) - images
    measured = 10 * torch.log10(images.square().mean() / noise.square().mean())
    assert float(measured) == pytest.approx(decibel, abs=0.1)
    noise = noise_by_variance(images, decibel) - images
    measured = 10 * torch.log10(images.var() / noise.square().mean())
    assert float(measured) == pytest.approx(decibel, abs=0.1)


@pytest.mark.parametrize("corruption", CORRUPTIONS, ids=lambda c: c.name)
def test_levels_get_worse_and_stay_pictures(corruption: Corruption) -> None:
    axis = torch.linspace(0, 12, 64)
    images = (0.5 + 0.3 * torch.sin(axis) * torch.sin(axis[:, None]) ** 3).expand(2, 1, 64, 64).contiguous()
    changes = []
    for level in corruption.levels:
        worse = corruption.apply(images, level)
        assert worse.shape == images.shape
        assert worse.min() >= 0
        assert worse.max() <= 1
        changes.append(float((worse - images).abs().mean()))
    assert changes[0] > 0
    assert changes[-1] == max(changes) or corruption.name == "rotation"


@pytest.mark.parametrize("corruption", CORRUPTIONS, ids=lambda c: c.name)
def test_images_may_be_smaller_than_a_kernel(corruption: Corruption) -> None:
    images = grey(0.5, 0.1)[..., :4, :4]
    for level in corruption.levels:
        assert corruption.apply(images, level).shape == images.shape


def test_a_run_is_judged(tmp_path: Path, class_folders: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["fit", "--config", str(write_config(tmp_path, class_folders))]) == 0
    run = next((tmp_path / "runs" / "tiny").iterdir())
    capsys.readouterr()
    assert main(["robustness", str(run)]) == 0
    assert "7 test images" in capsys.readouterr().out
    with (run / "robustness.csv").open(newline="") as file:
        rows = list(csv.DictReader(file))
    assert len(rows) == 1 + sum(len(corruption.levels) for corruption in CORRUPTIONS)
    assert {row["n"] for row in rows} == {"7"}
    with (run / "predictions.csv").open(newline="") as file:
        right = sum(row["label"] == row["predicted"] for row in csv.DictReader(file))
    assert float(rows[0]["accuracy"]) == pytest.approx(right / 7), "clean images are judged as `test` judged them"
    assert (run / "robustness.png").read_bytes()[:4] == b"\x89PNG"
    first = (run / "robustness.csv").read_bytes()
    assert main(["robustness", str(run)]) == 0
    assert (run / "robustness.csv").read_bytes() == first


def test_noise_augmentation_by_snr() -> None:
    images = grey(0.5, 0.05).repeat(100, 1, 1, 1)
    settings = Augmentation(snr=20)
    noise = augment(images, draw(len(images), (0, 0)), settings) - images
    decibel = 10 * torch.log10(images.square().mean(dim=(1, 2, 3)) / noise.square().mean(dim=(1, 2, 3)))
    assert 19.8 < decibel.min() < 22
    assert 58 < decibel.max() < 60.5
    assert math.isclose(float(decibel.mean()), 40, abs_tol=2)
    with pytest.raises(InputError, match="give one of them"):
        Augmentation(snr=20, noise=0.1)
    with pytest.raises(InputError, match=r"data\.augmentation\.snr is 70"):
        Augmentation(snr=70)


@pytest.mark.parametrize("side", [1, 2, 3, 5, 9, 10])
def test_images_of_any_size_are_corrupted(side: int) -> None:
    images = torch.rand(2, 1, side, side)
    for corruption in CORRUPTIONS:
        for level in corruption.levels:
            worse = corruption.apply(images, level)
            assert worse.shape == images.shape
            assert 0 <= worse.min() <= worse.max() <= 1
