"""Every shipped YAML is built; one of each pair of task and datamodule runs one step through the front door."""

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
import yaml
from helpers import write_teacher
from PIL import Image
from torchvision.models import get_model_weights

from defectlab.cli.main import main
from defectlab.engine.configs import base_of, read_arguments
from defectlab.engine.experiment import without_run
from defectlab.errors import InputError
from defectlab.networks import PretrainedNetwork
from defectlab.utils.resources import shipped_configs

EXPERIMENTS = sorted(name for name in shipped_configs() if name != "gpu.yaml")
ALONE = [name for name in EXPERIMENTS if base_of(shipped_configs()[name]) is None]
OVERLAYS = sorted(set(EXPERIMENTS) - set(ALONE))
# One of each pair of a task and a datamodule, overlays and arrays among them.
FITTED = ("mnist_ema.yaml", "fashion_lab.yaml", "neu_npy.yaml", "neu_noise.yaml", "folder_mobilenet.yaml", "folder_auto.yaml",
          "flowers_all.yaml", "surface_pretrain.yaml", "surface_distill.yaml")  # fmt: skip
DRAWN = ("surface_pretrain.yaml", "surface_distill.yaml")  # they draw their own images
SHORT = ["--trainer.max_epochs", "1", "--trainer.limit_train_batches", "1", "--trainer.accelerator", "cpu"]


def sections(name: str) -> dict[str, Any]:
    """The YAML as it is, or its base's where it is an overlay."""
    path = shipped_configs()[name]
    content: dict[str, Any] = yaml.safe_load((base_of(path) or path).read_text(encoding="utf-8"))
    return content


def arguments(name: str, folder: Path, request: pytest.FixtureRequest) -> list[str]:
    """What fit is given for it to run on miniatures."""
    if name in DRAWN:
        words = ["--data.surfaces", "5", "--data.eval_images", "20", "--data.image_size", "32", *SHORT]
        if name == "surface_distill.yaml":
            words += [
                "--model.teacher",
                str(write_teacher(folder)),
                "--data.batch_size",
                "16",
                "--data.draw_batches",
                "1",
            ]
        return words
    folders = {"neu": "neu_folder", "folder": "class_folders", "flowers": "flowers_folder"}
    fixture = folders.get(name.split("_")[0], "idx_folder")
    root = request.getfixturevalue(fixture)
    if name == "neu_npy.yaml":
        images = [np.asarray(Image.open(path)) for path in sorted(root.iterdir())]
        root = folder / "arrays"
        root.mkdir()
        np.save(root / "images.npy", np.stack(images))
        np.save(root / "labels.npy", np.repeat(np.arange(6), 10))
    words = ["--data.root", str(root), "--data.image_size", "28" if fixture == "idx_folder" else "32", *SHORT]
    given = sections(name)["data"]["init_args"]
    # The miniature has 200 and 50 images.
    sizes = {"train_size": 100, "val_size": 20, "test_size": 50} if "train_size" in given else {"val_size": 50}
    if fixture == "idx_folder":
        words += [f"--data.{size}={count}" for size, count in sizes.items() if size in given]
    return words


@pytest.mark.parametrize("name", EXPERIMENTS)
def test_is_built(name: str, tmp_path: Path, request: pytest.FixtureRequest) -> None:
    words = arguments(name, tmp_path, request)
    with without_run(name, [*words, "--trainer.default_root_dir", str(tmp_path / "runs")], read_weights=False) as cli:
        cli.datamodule.setup("fit")
        images, labels = next(iter(cli.datamodule.train_dataloader()))
        assert cli.model.network(images[:2]).shape == (2, cli.datamodule.num_classes)
        assert labels.max() < cli.datamodule.num_classes
    assert not (tmp_path / "runs").exists()


def test_each_pair_of_task_and_datamodule_is_fitted() -> None:
    pairs = {
        name: (sections(name)["model"]["class_path"], sections(name)["data"]["class_path"]) for name in EXPERIMENTS
    }
    assert {pairs[name] for name in FITTED} == set(pairs.values())


@pytest.mark.parametrize("name", FITTED)
def test_runs_one_step(
    name: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, request: pytest.FixtureRequest
) -> None:
    model = sections(name)["model"]["init_args"]
    if model.get("weights") == "imagenet":  # from the cache of downloads, as nothing can be downloaded
        monkeypatch.setenv("TORCH_HOME", str(tmp_path / "torch"))
        monkeypatch.setenv("https_proxy", "http://127.0.0.1:9")
        cache = tmp_path / "torch" / "hub" / "checkpoints"
        cache.mkdir(parents=True)
        source = PretrainedNetwork(2, 3, 32, model["backbone"]).features
        state = {f"features.{key}": value for key, value in source.state_dict().items()}
        torch.save(state, cache / Path(get_model_weights(model["backbone"]).DEFAULT.url).name)
    words = arguments(name, tmp_path, request)
    assert main(["fit", "--config", name, *words, "--trainer.default_root_dir", str(tmp_path / "runs")]) == 0
    (run,) = (tmp_path / "runs" / name.removesuffix(".yaml")).iterdir()
    metrics = json.loads((run / "metrics.json").read_text())
    assert metrics["data"]["source"] == ("synthetic" if name in DRAWN else "real")
    assert metrics["test"]["n"] == sum(metrics["data"]["counts"]["test"].values())
    assert (run / "checkpoints" / "best.ckpt").is_file()
    config = yaml.safe_load((run / "config.yaml").read_text(encoding="utf-8"))
    assert "base" not in config
    if name == "mnist_ema.yaml":
        callbacks = [callback["class_path"].rpartition(".")[2] for callback in config["trainer"]["callbacks"]]
        assert callbacks == ["ModelCheckpoint", "EMA"]


@pytest.mark.parametrize("name", ALONE)
def test_is_complete_and_short(name: str) -> None:
    text = shipped_configs()[name].read_text(encoding="utf-8")
    assert len(text.splitlines()) < 50
    assert text.startswith("# ")
    config = yaml.safe_load(text)
    own = {"choose"} if name == "folder_auto.yaml" else set()
    assert {"seed_everything", "model", "data", "trainer"} | own == set(config)
    callbacks = {callback["class_path"].rsplit(".")[-1] for callback in config["trainer"]["callbacks"]}
    if shipped_configs()[name].parent.name == "course":  # which stops early where it shows that
        assert "ModelCheckpoint" in callbacks
    else:
        # Pretraining, where no image comes twice, and an average, which is best at the end, go on to the end.
        last = {"EMA"} if name == "mnist_small_resnet.yaml" else {"EarlyStopping"}
        assert callbacks == {"ModelCheckpoint"} | (set() if name in DRAWN else last)


# Overlays


@pytest.mark.parametrize("name", OVERLAYS)
def test_an_overlay_shows_what_it_changes(name: str, capsys: pytest.CaptureFixture[str]) -> None:
    text = shipped_configs()[name].read_text(encoding="utf-8")
    assert len(text.splitlines()) <= 12
    assert text.startswith("# ")
    assert main(["configs", name]) == 0
    printed = capsys.readouterr().out
    assert printed.startswith(text)
    assert "--print_config" in printed
    assert yaml.safe_load(printed) == yaml.safe_load(text)


def test_an_overlay_of_ones_own(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    (tmp_path / "mine.yaml").write_text(shipped_configs()["mnist_plain.yaml"].read_text(encoding="utf-8"))
    overlay = tmp_path / "less.yaml"
    overlay.write_text("base: mine.yaml\ntrainer: {max_epochs: 3}\n", encoding="utf-8")
    found = read_arguments(["--config", str(overlay), "--trainer.max_epochs", "2"])
    assert found.name == "less"
    assert found.sections[0]["data"]["class_path"] == "MNISTDataModule"
    assert found.sections[1:] == [{"trainer": {"max_epochs": 3}}]
    assert found.words[::2][:2] == ["--config", "--config"]
    assert found.words[4:] == ["--trainer.max_epochs", "2"]
    with pytest.raises(SystemExit):
        main(["fit", f"--config={overlay}", "--print_config"])
    shown = yaml.safe_load(capsys.readouterr().out)
    assert shown["trainer"]["max_epochs"] == 3
    assert shown["model"]["init_args"]["network"]["class_path"].endswith("LeNet5")


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("base: nowhere.yaml", "base is nowhere.yaml: expected the name of a YAML file beside it"),
        ("base: [a, b]", "expected the name of a YAML file"),
        ("base: a.yaml", "its base a.yaml has a base itself"),
        ("base: mnist_ema.yaml", "its base mnist_ema.yaml has a base itself"),
    ],
)
def test_an_overlay_that_cannot_be_laid_over_anything(text: str, message: str, tmp_path: Path) -> None:
    (tmp_path / "a.yaml").write_text(text + "\n", encoding="utf-8")
    with pytest.raises(InputError) as caught:
        read_arguments(["--config", str(tmp_path / "a.yaml")])
    assert message in str(caught.value)


@pytest.mark.parametrize("value", ["LeNet5", "{}"])
def test_a_typo_in_an_overlay_is_an_error(value: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    overlay = tmp_path / "a.yaml"
    overlay.write_text(f"base: mnist_plain.yaml\nmodel:\n  init_args:\n    netwrok: {value}\n", encoding="utf-8")
    assert main(["fit", "--config", str(overlay), "--trainer.default_root_dir", str(tmp_path / "runs")]) == 1
    assert "unknown key model.netwrok: did you mean network?" in capsys.readouterr().err


def test_no_two_have_the_same_name() -> None:
    folder = shipped_configs()["gpu.yaml"].parent
    assert len(shipped_configs()) == len(list(folder.rglob("*.yaml")))


def test_the_gpu_overlay_joins_another_config(capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit) as stop:
        main(["fit", "--config", "neu_mobilenet.yaml", "--config", "gpu.yaml", "--print_config"])
    assert not stop.value.code
    config = yaml.safe_load(capsys.readouterr().out)
    assert config["trainer"]["precision"] == "bf16-mixed"
    assert config["trainer"]["strategy"] == "ddp"
    assert config["model"]["init_args"]["stages"] == "middle"
