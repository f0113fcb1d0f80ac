"""Every shipped YAML runs one step through the front door."""

import json
from pathlib import Path

import numpy as np
import pytest
import torch
import yaml
from PIL import Image
from torchvision.models import get_model_weights

from defectlab.cli.main import main
from defectlab.networks import PretrainedNetwork
from defectlab.utils.resources import shipped_configs

EXPERIMENTS = sorted(name for name in shipped_configs() if name != "gpu.yaml")
SHORT = ["--trainer.max_epochs", "1", "--trainer.limit_train_batches", "1", "--trainer.accelerator", "cpu"]


@pytest.fixture
def imagenet(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A cache of downloads, where nothing can be downloaded from."""
    monkeypatch.setenv("TORCH_HOME", str(tmp_path / "torch"))
    monkeypatch.setenv("https_proxy", "http://127.0.0.1:9")
    cache = tmp_path / "torch" / "hub" / "checkpoints"
    cache.mkdir(parents=True)
    return cache


@pytest.mark.parametrize("name", EXPERIMENTS)
def test_runs_one_step(name: str, tmp_path: Path, imagenet: Path, request: pytest.FixtureRequest) -> None:
    folders = {"neu": "neu_folder", "folder": "class_folders", "flowers": "flowers_folder"}
    fixture = folders.get(name.split("_")[0], "idx_folder")
    root = request.getfixturevalue(fixture)
    image_size = 28 if fixture == "idx_folder" else 32
    if name == "neu_npy.yaml":
        images = [np.asarray(Image.open(path)) for path in sorted(root.iterdir())]
        root = tmp_path / "arrays"
        root.mkdir()
        np.save(root / "images.npy", np.stack(images))
        np.save(root / "labels.npy", np.repeat(np.arange(6), 10))
    shipped = yaml.safe_load(shipped_configs()[name].read_text(encoding="utf-8"))
    model, callbacks = shipped["model"]["init_args"], shipped["trainer"]["callbacks"]
    if model.get("weights") == "imagenet":
        source = PretrainedNetwork(2, 3, 32, model["backbone"]).features
        state = {f"features.{key}": value for key, value in source.state_dict().items()}
        torch.save(state, imagenet / Path(get_model_weights(model["backbone"]).DEFAULT.url).name)
    words = ["fit", "--config", name, "--data.root", str(root), "--data.image_size", str(image_size), *SHORT]
    words += ["--trainer.default_root_dir", str(tmp_path / "runs")]
    if name == "surface_pretrain.yaml":  # draws its own images
        words = [word for word in words if word not in ("--data.root", str(root))]
        words += ["--data.surfaces", "5", "--data.eval_images", "20", "--data.image_size", "32"]
    given = yaml.safe_load(shipped_configs()[name].read_text(encoding="utf-8"))["data"]["init_args"]
    # The miniature has 200 and 50 images.
    sizes = {"train_size": 100, "val_size": 20, "test_size": 50} if "train_size" in given else {"val_size": 50}
    if fixture == "idx_folder":
        words += [f"--data.{size}={count}" for size, count in sizes.items() if size in given]
    if name.endswith("distillation.yaml"):  # a student is its own teacher's like
        alone = [callback for callback in callbacks if "Distillation" not in callback["class_path"]]
        assert main([*words, "--trainer.callbacks", json.dumps(alone)]) == 0
        (teacher,) = (tmp_path / "runs" / name.removesuffix(".yaml")).iterdir()
        words += ["--trainer.callbacks.teacher", str(teacher.rename(tmp_path / "teacher"))]
    assert main(words) == 0
    (run,) = (tmp_path / "runs" / name.removesuffix(".yaml")).iterdir()
    metrics = json.loads((run / "metrics.json").read_text())
    assert metrics["data"]["source"] == ("synthetic" if name == "surface_pretrain.yaml" else "real")
    assert metrics["test"]["n"] == sum(metrics["data"]["counts"]["test"].values())
    assert (run / "checkpoints" / "best.ckpt").is_file()


@pytest.mark.parametrize("name", EXPERIMENTS)
def test_is_complete_and_short(name: str) -> None:
    text = shipped_configs()[name].read_text(encoding="utf-8")
    assert len(text.splitlines()) < 50
    assert text.startswith("# ")
    config = yaml.safe_load(text)
    assert {"seed_everything", "model", "data", "trainer"} == set(config)
    callbacks = {callback["class_path"].rsplit(".")[-1] for callback in config["trainer"]["callbacks"]}
    if shipped_configs()[name].parent.name == "course":  # which stops early where it shows that
        assert "ModelCheckpoint" in callbacks
    else:
        # Pretraining, where no image comes twice, and an average, which is best at the end, go on to the end.
        last = {"surface_pretrain.yaml": set(), "mnist_small_resnet.yaml": {"EMA"}}.get(name, {"EarlyStopping"})
        assert callbacks == {"ModelCheckpoint"} | last


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
