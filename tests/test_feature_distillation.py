"""A student of a larger network's maps: what it is taught, what is kept, what resumes, what is refused."""

from pathlib import Path
from typing import Any

import pytest
import torch
import yaml
from helpers import read, write_teacher

from defectlab.cli.main import main
from defectlab.data import SurfacesDataModule
from defectlab.data.synthesis.scenes import draw_scenes
from defectlab.errors import InputError
from defectlab.networks import PretrainedNetwork
from defectlab.networks.weights import load_backbone_weights
from defectlab.tasks import FeatureDistillationTask
from defectlab.tasks.checkpoint import load_task, read_checkpoint
from defectlab.tasks.feature_distillation import (
    MapReader,
    in_even_light,
    pooled,
    similarity_loss,
    standardise_groups,
    standardised,
)

TINY = [
    "--config", "surface_distill.yaml", "--data.surfaces", "5", "--data.eval_images", "16", "--data.image_size", "32",
    "--data.images_per_epoch", "32", "--data.batch_size", "16", "--data.draw_batches", "2", "--trainer.accelerator", "cpu",
]  # fmt: skip


@pytest.fixture(autouse=True)
def here(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)


def run_of(folder: Path) -> Path:
    return sorted((folder / "runs" / "surface_distill").iterdir())[-1]


def test_a_run_teaches_resumes_and_leaves_a_backbone(tmp_path: Path) -> None:
    """Killed after its first epoch and resumed, it ends like an unbroken run; the teacher is needed by fit alone."""
    teacher = write_teacher(tmp_path)
    words = [*TINY, "--model.teacher", teacher.name, "--trainer.max_epochs", "2"]
    assert main(["fit", *words]) == 0
    unbroken = run_of(tmp_path)
    assert yaml.safe_load((unbroken / "config.yaml").read_text())["model"]["init_args"]["teacher"] == str(teacher)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(FeatureDistillationTask, "on_train_epoch_start", _interrupted)
        assert main(["fit", *words]) == 130
    broken = run_of(tmp_path)
    assert broken != unbroken
    assert main(["resume", str(broken)]) == 0
    states = [read_checkpoint(run / "checkpoints" / "last.ckpt") for run in (unbroken, broken)]
    assert not [name for name in states[0]["state_dict"] if "teacher" in name]
    assert states[0]["hyper_parameters"]["teacher"] is None
    for name, value in states[0]["state_dict"].items():
        assert torch.equal(value, states[1]["state_dict"][name]), name
    teacher.unlink()
    assert main(["test", str(unbroken)]) == 0
    assert read(unbroken)["data"]["source"] == "synthetic"
    assert main(["export", str(unbroken), "--output", "backbone.safetensors", "--half"]) == 0
    network = PretrainedNetwork(6, 3, 32, stages="middle")
    load_backbone_weights(network, "backbone.safetensors")
    task, _ = load_task(unbroken / "checkpoints" / "best.ckpt")
    kernels = [next(part.parameters()).sum(1) for part in (network.features, task.network.features)]  # type: ignore[union-attr]
    torch.testing.assert_close(*kernels, rtol=1e-2, atol=1e-3)


def _interrupted(task: FeatureDistillationTask) -> None:
    if task.current_epoch == 1:
        raise KeyboardInterrupt


def test_the_student_comes_to_resemble_its_teacher() -> None:
    """With the optimiser alone, on one batch: the loss of maps, statistics and similarity falls by far."""
    torch.manual_seed(0)
    task = FeatureDistillationTask(6, 1, 32, "mobilenet_v3_small", label_weight=0.0, group=4)
    teacher = PretrainedNetwork(2, 3, 32, "mobilenet_v2", stages="middle").eval()
    images = draw_scenes(16, 32, torch.Generator().manual_seed(0), torch.device("cpu"), 4)
    with torch.no_grad():
        maps = teacher.stage_maps(in_even_light(images))
    wanted = [map_.view(2, 2, 4, *map_.shape[1:])[:, 0].flatten(0, 1) for map_ in maps]
    optimizer = torch.optim.AdamW(task.parameters(), lr=3e-3)
    losses = []
    for _ in range(25):
        own = task.network.stage_maps(images)
        loss = task.teaching_loss(task.reader, own, pooled(own), wanted, pooled(maps))
        optimizer.zero_grad()
        loss.backward()  # type: ignore[no-untyped-call]
        optimizer.step()
        losses.append(loss.item())
    assert losses[-1] < 0.5 * losses[0]


def test_a_reader_of_the_same_maps_can_be_perfect() -> None:
    """One map read with the weight one over its deviation has no loss but that of its mean."""
    torch.manual_seed(0)
    maps = [torch.randn(8, 1, 6, 6) * 3]
    reader = MapReader([1], [1])
    torch.nn.init.constant_(reader.maps[0].weight, 1 / float(maps[0].std()))  # type: ignore[arg-type]
    perfect = reader(maps, maps).item()
    assert perfect < 0.01
    assert reader([-maps[0]], maps).item() > 0.5
    assert reader([maps[0][..., ::2, ::2]], maps).item() > 10 * perfect, "a smaller map is enlarged, and knows less"


def test_similarity_is_that_of_kernels() -> None:
    """It is 0 for rotated features, near 1 for unrelated ones, and its embedding is the network's own."""
    torch.manual_seed(0)
    features = standardised(torch.randn(64, 10))
    turned = features @ torch.linalg.qr(torch.randn(10, 10))[0]
    assert float(similarity_loss(features, turned)) == pytest.approx(0, abs=1e-5)
    assert float(similarity_loss(features, standardised(torch.randn(64, 10)))) > 0.5
    network = PretrainedNetwork(2, 1, 64, stages="middle").eval()
    images = torch.randn(3, 1, 64, 64)
    torch.testing.assert_close(pooled(network.stage_maps(images)), network.embed(images))


def test_light_is_taken_from_images() -> None:
    """A teacher's images do not depend on level and contrast; a student's do, to a degree that a group shares."""
    images = torch.randn(16, 1, 24, 24)
    brighter = 3 * images + 2
    assert (in_even_light(images) - in_even_light(brighter)).abs().mean() < 0.15 * (images - brighter).abs().mean()
    assert in_even_light(images).shape == (16, 3, 24, 24)
    found = standardise_groups(brighter, 8, seed=0)
    assert torch.equal(found, standardise_groups(brighter, 8, seed=0))
    assert not torch.equal(found, standardise_groups(brighter, 8, seed=1))
    levels = found.mean(dim=(1, 2, 3)).view(2, 8)
    assert levels.std(dim=1).max() < 0.2
    assert levels[0].mean() != pytest.approx(float(levels[1].mean()), abs=0.05)


def test_scenes_are_images_of_one_ground_a_group() -> None:
    def scenes(seed: int, group: int) -> torch.Tensor:
        return draw_scenes(24, 48, torch.Generator().manual_seed(seed), torch.device("cpu"), group)

    images = scenes(0, 8)
    assert images.shape == (24, 1, 48, 48)
    assert images.isfinite().all()
    assert 0 <= images.min() < images.max() <= 1
    assert torch.equal(images, scenes(0, 8))
    assert not torch.equal(images, scenes(1, 8))
    assert (images[1:] != images[:-1]).flatten(1).any(1).all(), "no image comes twice"
    spread = [torch.stack([scenes(seed, group).view(3, 8, -1).std(2).log().std(1).mean() for seed in range(6)]).mean()
              for group in (8, 1)]  # fmt: skip
    assert spread[0] < 0.8 * spread[1], "contrasts of a group are alike"


def test_groups_and_shares_hold_in_every_batch() -> None:
    settings: dict[str, Any] = {
        "surfaces": 5, "images_per_epoch": 96, "eval_images": 20, "image_size": 32, "batch_size": 32, "group": 4,
        "strip_share": 0.25, "scene_share": 0.5,
    }  # fmt: skip
    data = SurfacesDataModule(**settings, draw_batches=2)
    data.setup()
    assert data.class_names[-1] == "scene"
    batches = list(data.train_dataloader())
    assert [len(labels) for _, labels in batches] == [32, 32, 32]  # two drawn together, then one
    for images, labels in batches:
        assert images.shape == (32, 1, 32, 32)
        assert (labels == data.num_classes - 1).sum() == 16
        assert ((labels >= 5) & (labels < 11)).sum() == 8
        assert (labels.view(-1, 4) == labels.view(-1, 4)[:, :1]).all(), "a group is of one kind"
    for wrong in ({"group": 5}, {"scene_share": 0.8}, {"draw_batches": 0}):
        with pytest.raises(InputError, match=f"data.{next(iter(wrong))} is"):
            SurfacesDataModule(**{**settings, **wrong})


def test_what_cannot_teach(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    student = tmp_path / "student.safetensors"
    write_teacher(tmp_path).rename(student)
    for words, expected in (
        ([], "has no teacher: give model.teacher"),
        (["--model.teacher", "nowhere.pth"], "nowhere.pth"),
        (["--model.teacher", str(student), "--model.teacher_backbone", "resnet18"], "does not fit resnet18"),
        (["--model.teacher", str(student), "--model.group", "16"], "model.group is 16, data.group 8"),
        (["--model.teacher", str(student), "--data.batch_size", "8"], "a divisor of half of data.batch_size, 8"),
        (["--model.teacher", str(student), "--model.label_weight", "-1"], "model.label_weight is -1.0"),
    ):
        assert main(["fit", *TINY, *words]) == 1, words
        lines = capsys.readouterr().err.strip().splitlines()
        assert expected in lines[-1]
    assert not (tmp_path / "runs").exists()
