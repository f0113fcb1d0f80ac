"""`defectlab robustness`, and what it does to images."""

import csv
import math
from pathlib import Path

import numpy as np
import pytest
import torch
import yaml
from helpers import refusal, write_config
from PIL import Image

import defectlab as dl
from defectlab.cli.main import main
from defectlab.data import Augmentation
from defectlab.data.pipeline.augment import augment, draw
from defectlab.errors import InputError
from defectlab.evaluate.corruptions import CORRUPTIONS, Corruption, noise_by_power, noise_by_variance
from defectlab.metrics.statistics import mcnemar, paired_interval


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


@pytest.fixture
def run(tmp_path: Path) -> Path:
    """A run whose two classes are two brightnesses, so that light breaks it and blur does not."""
    rng = np.random.default_rng(0)
    for name, grey in (("dark", 100), ("light", 150)):
        (tmp_path / "images" / name).mkdir(parents=True)
        for index in range(40):
            pixels = (grey + rng.normal(0, 4, (16, 16))).astype(np.uint8)
            Image.fromarray(pixels).save(tmp_path / "images" / name / f"{index}.png")
    config = write_config(tmp_path, tmp_path / "images")
    text = config.read_text(encoding="utf-8").replace("val_size: 6, test_size: 7", "val_size: 20, test_size: 30")
    config.write_text(text.replace("max_epochs: 2", "max_epochs: 6"), encoding="utf-8")
    assert main(["fit", "--config", str(config)]) == 0
    return next((tmp_path / "runs" / "tiny").iterdir())


def test_a_run_is_hardened(run: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    text = (run / "config.yaml").read_text(encoding="utf-8")
    own = "augmentation: {vertical_flip: 0.5, brightness: 0.4, gamma: 0.5}"
    assert "augmentation: null" in text
    (run / "config.yaml").write_text(text.replace("augmentation: null", own), encoding="utf-8")
    capsys.readouterr()

    (run / "harden.yaml").mkdir()
    assert main(["robustness", str(run), "--harden"]) == 1
    assert "harden.yaml cannot be written" in capsys.readouterr().err
    assert not (tmp_path / "runs" / "harden").exists(), "nothing is trained that could not be repeated"
    (run / "harden.yaml").rmdir()

    assert main(["robustness", str(run), "--harden", "--trainer.max_epochs", "2"]) == 0
    shown = capsys.readouterr().out
    assert "broke        darker, brighter, gamma\n" in shown
    overlay = yaml.safe_load((run / "harden.yaml").read_text(encoding="utf-8"))
    # The stronger of two values; what the run has of `chance` stays.
    assert overlay["data"]["init_args"]["augmentation"] == {"vertical_flip": 0.5, "brightness": 0.4, "gamma": 2}
    assert overlay["trainer"] == {"max_epochs": 18}, "three times the run's own"

    (new,) = (tmp_path / "runs" / "harden").iterdir()
    saved = yaml.safe_load((new / "config.yaml").read_text(encoding="utf-8"))
    assert saved["data"]["init_args"]["augmentation"]["gamma"] == 2
    assert saved["trainer"]["max_epochs"] == 2
    assert (new / "split.csv").read_bytes() == (run / "split.csv").read_bytes()
    assert (new / "harden.png").read_bytes()[:4] == b"\x89PNG"
    with (new / "harden.csv").open(newline="") as file:
        rows = list(csv.DictReader(file))
    assert len(rows) == 1 + sum(len(corruption.levels) for corruption in CORRUPTIONS)
    tested = [row for row in rows if row["p_holm"]]
    assert [row["corruption"] for row in tested] == ["clean", *(corruption.name for corruption in CORRUPTIONS)]
    dark = next(row for row in tested if row["corruption"] == "darker")
    # 20 validation images, half of them dark: 10 are lost.
    assert [float(dark[name]) for name in ("level", "drop")] == pytest.approx([-0.3, 0.5])
    assert float(dark["drop_low"]) == pytest.approx(paired_interval(10, 0, 20)[0])
    for row in rows:
        only = int(row["before_only"]), int(row["after_only"])
        assert float(row["p"]) == pytest.approx(mcnemar(*only))
        assert float(row["accuracy"]) - float(row["after"]) == pytest.approx((only[0] - only[1]) / 30)
    for name, folder in (("accuracy", run), ("after", new)):
        for row, own_row in zip(rows, dl.robustness(folder).rows, strict=True):
            assert float(row[name]) == pytest.approx(own_row.accuracy), "as robustness says of each run"


def test_what_is_whole_is_not_hardened(finished: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert dl.harden(finished).run is None
    assert main(["robustness", "--harden", str(finished)]) == 0
    assert "nothing was trained" in capsys.readouterr().out
    assert not (finished / "harden.yaml").exists()
    for words in (["--data.seed", "1"], ["--config", "neu_mobilenet.yaml"], ["--trainer.max_epoch", "3"]):
        assert main(["robustness", str(finished), "--harden", *words]) == 1
        assert capsys.readouterr().err.count("\n") == 1


def test_hardening_takes_a_test_part(tmp_path: Path, class_folders: Path) -> None:
    config = write_config(tmp_path, class_folders)
    fitted = dl.fit(config, data={"test_size": 0}, trainer={"max_epochs": 1})
    refusal(lambda: dl.harden(fitted), "no test images")
    refusal(lambda: dl.harden(tmp_path), "run")


@pytest.mark.parametrize(("first", "second", "n"), [(0, 0, 10), (5, 0, 120), (3, 3, 50), (10, 0, 10)])
def test_interval_of_a_paired_difference(first: int, second: int, n: int) -> None:
    low, high = paired_interval(first, second, n)
    assert -1 <= low <= (first - second) / n <= high <= 1
    assert paired_interval(second, first, n) == pytest.approx((-high, -low))
    assert (low > 0) == (first - second >= 5)
