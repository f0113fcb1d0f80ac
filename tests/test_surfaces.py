"""Procedural surfaces: drawn anew in every step, the same for the same seed, learnable, resumable."""

import hashlib
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from helpers import read, write_config
from safetensors.torch import load_file

from defectlab.cli.main import main
from defectlab.data import SurfacesDataModule
from defectlab.data.datamodules.surfaces import SurfaceLoader
from defectlab.data.synthesis.objects import OBJECTS
from defectlab.data.synthesis.surfaces import DIMENSIONS, draw_surfaces
from defectlab.errors import InputError
from defectlab.networks import PretrainedNetwork
from defectlab.networks.weights import load_backbone_weights, save_backbone_weights
from defectlab.utils import resources

SMALL: dict[str, Any] = {
    "surfaces": 5, "images_per_epoch": 24, "eval_images": 20, "image_size": 32, "batch_size": 8,
}  # fmt: skip


def batches(data: SurfacesDataModule) -> list[tuple[torch.Tensor, torch.Tensor]]:
    return list(data.train_dataloader())


def drawn(points: torch.Tensor, seed: int = 0, jitter: float = 0.0, side: int = 48) -> torch.Tensor:
    return draw_surfaces(points, side, torch.Generator().manual_seed(seed), jitter)


def points(count: int, seed: int = 0) -> torch.Tensor:
    return torch.rand(count, DIMENSIONS, generator=torch.Generator().manual_seed(seed))


def test_pictures_of_every_kind_are_pictures() -> None:
    images = drawn(points(400))
    assert images.shape == (400, 1, 48, 48)
    assert images.isfinite().all()
    assert 0 <= images.min() < 0.05
    assert 0.95 < images.max() <= 1
    deviations = images.std(dim=(2, 3))
    assert (deviations > 0.003).all(), "no image is blank"
    assert deviations.max() > 0.2


def test_a_point_is_a_surface() -> None:
    """Images of a point are never the same, yet most points of 40 are known again by their spectra."""
    where = points(40)
    assert torch.equal(drawn(where, 1), drawn(where, 1))
    assert not torch.equal(drawn(where, 1), drawn(where, 2))

    def spectrum(seeds: range) -> torch.Tensor:
        bands = []
        for seed in seeds:
            images = torch.nn.functional.avg_pool2d(drawn(where, seed), 2)  # without the camera's noise
            images = images - images.mean(dim=(2, 3), keepdim=True)
            both = torch.stack((images, images.flip(2)))  # an image may be upside down
            power = torch.fft.rfft2(both).abs().square().mean(dim=0)[:, 0, :12, :12]
            bands.append(power.reshape(-1, 4, 3, 4, 3).mean(dim=(2, 4)).log().flatten(1))
        shape = torch.stack(bands).mean(dim=0)
        return shape - shape.mean(dim=1, keepdim=True)

    nearest = torch.cdist(spectrum(range(8)), spectrum(range(8, 16))).argmin(dim=1)
    assert (nearest == torch.arange(40)).float().mean() > 0.5


def test_jitter_moves_a_surface_but_keeps_its_kind() -> None:
    where = points(1).repeat(8, 1)
    still, moved = drawn(where, jitter=0.0), drawn(where, jitter=0.3)
    assert not torch.equal(still, moved)
    assert moved.isfinite().all()


def test_every_kind_of_defect_leaves_a_mark() -> None:
    """A whole surface and each defect on the same ground differ, defect by defect."""
    where = points(1, seed=3).repeat(len(OBJECTS) + 1, 1)
    kinds = len(OBJECTS) + 1
    # The column that chooses the kind is the one whose step changes nothing but the defect.
    column = next(c for c in range(DIMENSIONS) if _chooses_kind(c, kinds))
    where[:, column] = (torch.arange(kinds) + 0.5) / kinds
    images = torch.cat([drawn(where[row : row + 1], seed=4, side=64) for row in range(kinds)])
    changed = (images[1:] - images[:1]).abs().mean(dim=(1, 2, 3))
    assert (changed > 1e-4).all(), changed


def _chooses_kind(column: int, kinds: int) -> bool:
    """Whether every one of the steps of a column gives another image, and nothing between the steps does."""
    where = points(1, seed=3).repeat(2, 1)
    where[:, column] = torch.tensor([0.31, 0.38])  # both the fourth of ten, of eight they are the third and the fourth
    within = torch.equal(drawn(where[:1], 4), drawn(where[1:], 4))
    where[:, column] = torch.tensor([0.31, 0.41])
    return within and not torch.equal(drawn(where[:1], 4), drawn(where[1:], 4))


def test_new_pictures_every_epoch_and_the_same_after_resuming() -> None:
    data = SurfacesDataModule(**SMALL)
    data.setup()
    loader = data.train_dataloader()
    first, second = list(loader), list(loader)
    assert [images.shape for images, _ in first] == [(8, 1, 32, 32)] * 3
    assert not any(torch.equal(a, b) for (a, _), (b, _) in zip(first, second, strict=True))
    resumed = SurfacesDataModule(**SMALL)
    resumed.setup()
    again = resumed.train_dataloader()
    assert isinstance(again, SurfaceLoader)
    again.sampler.set_epoch(1)
    for (images, labels), (same, same_labels) in zip(second, again, strict=True):
        assert torch.equal(images, same)
        assert torch.equal(labels, same_labels)
    other = SurfacesDataModule(**SMALL, seed=1)
    other.setup()
    assert not torch.equal(batches(other)[0][0], first[0][0])


def test_processes_draw_different_pictures_and_share_the_epoch() -> None:
    data = SurfacesDataModule(**SMALL)
    data.setup()
    one = data.train_dataloader()
    assert isinstance(one, SurfaceLoader)
    settings = (one.painter, 32, 8, one.normalise, one.device)
    halves = [list(SurfaceLoader(*settings, rank, 2, 0)) for rank in range(2)]
    assert [len(half) for half in halves] == [2, 2]
    whole = list(SurfaceLoader(*settings, 0, 1, 0))
    dealt = [batch for pair in zip(*halves, strict=True) for batch in pair]
    assert all(torch.equal(a, b) for (a, _), (b, _) in zip(whole, dealt, strict=True))


def test_strip_has_its_share_and_its_classes() -> None:
    data = SurfacesDataModule(**SMALL, strip_share=0.25)
    assert data.num_classes == 11
    assert data.class_names[-1] == "scratches"
    data.setup()
    for _, labels in batches(data):
        assert (labels >= 5).sum() == 2
    without = SurfacesDataModule(**SMALL, strip_share=0.0)
    assert without.num_classes == 5
    without.setup()
    assert all((labels < 5).all() for _, labels in batches(without))


def test_parts_are_fixed_and_normalised() -> None:
    data, again = SurfacesDataModule(**SMALL), SurfacesDataModule(**SMALL)
    data.setup()
    again.setup()
    assert data.describe() == again.describe()
    assert data.source == "synthetic"
    assert [len(part) for part in (data.parts.train, data.parts.val, data.parts.test)] == [20, 20, 20]
    pictures = data.data.images.flatten(1).numpy()
    assert len(np.unique(pictures, axis=0)) == 60, "no image is in two parts"
    images = torch.cat([images for images, _ in data.train_eval_dataloader()])
    torch.testing.assert_close(images.mean(), torch.zeros(()), atol=1e-3, rtol=0)


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"surfaces": 1}, r"data\.surfaces is 1: expected .* at least 2"),
        ({"images_per_epoch": 0}, r"data\.images_per_epoch is 0"),
        ({"eval_images": 0}, r"data\.eval_images is 0"),
        ({"image_size": 16}, r"data\.image_size is 16: expected at least 32"),
        ({"strip_share": 1.0}, r"data\.strip_share is 1\.0: expected at least 0 and below 1"),
        ({"jitter": -0.1}, r"data\.jitter is -0\.1: expected a number from 0 to 0\.5"),
        ({"seed": -1}, r"data\.seed is -1"),
    ],
)
def test_argument_out_of_range(arguments: dict[str, Any], message: str) -> None:
    with pytest.raises(InputError, match=message):
        SurfacesDataModule(**{**SMALL, **arguments})


def test_pretraining_is_a_run_whose_backbone_can_be_kept(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.chdir(tmp_path)
    small = ["--data.surfaces", "120", "--data.images_per_epoch", "64", "--data.eval_images", "40"]
    small += ["--data.image_size", "32", "--trainer.max_epochs", "1", "--trainer.accelerator", "cpu"]
    assert main(["fit", "--config", "surface_pretrain.yaml", *small]) == 0
    run = next((tmp_path / "runs" / "surface_pretrain").iterdir())
    assert read(run)["data"]["source"] == "synthetic"
    header = (run / "metrics.csv").read_text().splitlines()[0]
    assert "val/accuracy" in header
    assert "val/accuracy/surface" not in header, "not a curve for each of a hundred classes"
    assert main(["export", str(run), "--output", "kept/backbone.safetensors", "--half"]) == 0
    size = (tmp_path / "kept" / "backbone.safetensors").stat().st_size
    assert size < 2.2e6
    neu = ["--data.source", "synthetic", "--data.synthetic_per_class", "12", "--data.image_size", "32"]
    neu += ["--model.weights", "kept/backbone.safetensors", "--model.cache_features", "true", *small[6:][2:]]
    assert main(["fit", "--config", "neu_mobilenet.yaml", *neu]) == 0
    assert main(["export", str(run), "--output", "backbone.pth"]) == 1
    assert "expected a new folder, or the name of a .ckpt or .safetensors file" in capsys.readouterr().err


def test_a_checkpoint_for_prediction_alone(
    tmp_path: Path, class_folders: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """It predicts what the run predicts, is smaller, knows no place of the machine, and is found by its name."""
    config = write_config(tmp_path, class_folders)
    assert main(["fit", "--config", str(config)]) == 0
    run = next((tmp_path / "runs" / "tiny").iterdir())
    shipped = tmp_path / "checkpoints" / "tiny.ckpt"
    assert main(["export", str(run), "--output", str(shipped)]) == 0
    assert shipped.stat().st_size < 0.5 * (run / "checkpoints" / "best.ckpt").stat().st_size
    monkeypatch.setattr(resources, "SHIPPED", (tmp_path / "none", shipped.parent))
    monkeypatch.chdir(run)
    assert main(["predict", "tiny.ckpt", str(class_folders), "--output", str(tmp_path / "d.csv")]) == 1
    assert "which no card beside it has" in capsys.readouterr().err
    shipped.with_suffix(".md").write_text(f"SHA-256 `{hashlib.sha256(shipped.read_bytes()).hexdigest()}`\n")
    for name, output in ((str(run), "a.csv"), ("tiny.ckpt", "b.csv"), ("checkpoints/tiny.ckpt", "c.csv")):
        assert main(["predict", name, str(class_folders), "--output", str(tmp_path / output)]) == 0
    assert (tmp_path / "a.csv").read_bytes() == (tmp_path / "b.csv").read_bytes() == (tmp_path / "c.csv").read_bytes()
    capsys.readouterr()
    assert main(["predict", "tinny.ckpt", str(class_folders), "--output", str(tmp_path / "d.csv")]) == 1
    assert (
        "there is no checkpoint tinny.ckpt: expected a .ckpt file, or a shipped one: tiny.ckpt"
        in capsys.readouterr().err
    )
    assert main(["export", str(run), "--output", str(tmp_path / "w.safetensors")]) == 1
    assert "is a CompactCNN: expected the network of a PretrainedTask" in capsys.readouterr().err
    assert main(["export", str(run), "--output", str(tmp_path / "w.ckpt"), "--half"]) == 1
    assert main(["export", str(shipped), "--output", str(shipped)]) == 1
    assert "is the checkpoint itself" in capsys.readouterr().err
    assert not list(tmp_path.glob("w.*"))


def test_half_precision_keeps_what_it_must(tmp_path: Path) -> None:
    torch.manual_seed(0)
    network = PretrainedNetwork(6, 1, 64, "mobilenet_v3_small", stages="middle").eval()
    save_backbone_weights(network, tmp_path / "w.safetensors", half=True)
    kept = load_file(tmp_path / "w.safetensors")
    assert kept["features.0.0.weight"].dtype == torch.float16
    assert kept["features.0.1.running_var"].dtype == torch.float32
    again = PretrainedNetwork(6, 1, 64, "mobilenet_v3_small", stages="middle").eval()
    load_backbone_weights(again, str(tmp_path / "w.safetensors"))
    images = torch.randn(4, 1, 64, 64)
    torch.testing.assert_close(again.embed(images), network.embed(images), rtol=0.01, atol=0.01)
    assert not list(tmp_path.glob("*.tmp"))
