"""What cannot be used ends in one line on standard error, a status that is not 0, and nothing left behind."""

import os
import pickle
import sys
import zipfile
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from helpers import read, write_config
from PIL import Image

from defectlab.cli.main import main
from defectlab.data.sources.layouts import NEU_CLASSES
from defectlab.errors import InputError

Refused = Callable[..., str]


@pytest.fixture
def config(tmp_path: Path, class_folders: Path) -> Path:
    return write_config(tmp_path, class_folders)


@pytest.fixture
def refused(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> Refused:
    """Run a command that has to fail; gives its one line."""

    def run(*words: str) -> str:
        existed, before = (tmp_path / "runs").exists(), set(tmp_path.glob("runs/**/*"))
        capsys.readouterr()
        assert main(words) in (1, 2)
        said = capsys.readouterr().err.splitlines()
        assert len(said) == 1, said
        assert said[0].startswith("defectlab: error: ")
        assert set(tmp_path.glob("runs/**/*")) == before
        assert (tmp_path / "runs").exists() == existed
        return said[0]

    return run


def write_pictures(root: Path, names: tuple[str, ...] = ("good", "hole", "scratch"), per_class: int = 8) -> Path:
    rng = np.random.default_rng(0)
    for name in names:
        (root / name).mkdir(parents=True)
        for index in range(per_class):
            Image.fromarray(rng.integers(0, 256, (16, 16), dtype=np.uint8)).save(root / name / f"{index}.png")
    return root


class Malicious:
    """A pickle of it makes the folder `pwned` when loaded without care."""

    def __init__(self, proof: Path) -> None:
        self.proof = proof

    def __reduce__(self) -> tuple[Any, tuple[str]]:
        return os.mkdir, (str(self.proof),)


IN_YAML = {
    "trainer": ("max_epochs: 2", "max_epoch: 2", "unknown key trainer.max_epoch: did you mean max_epochs?"),
    "top level": ("seed_everything: 0", "seed_everythin: 0", "unknown key seed_everythin: did you mean seed_everything?"),
    "section": ("model:", "modle:", "unknown key modle: did you mean model?"),
    "model": ("network:", "netwrk:", "unknown key model.netwrk: did you mean network?"),
    "optimizer": ("lr: 0.003", "rl: 0.003", "unknown key model.optimizer.rl: did you mean lr?"),
    "network": ("CompactCNN}", "BipyramidalCNN, init_args: {dept: 2}}", "model.network.dept: did you mean depth?"),
    "data": ("image_size: 16", "imagesize: 16", "unknown key data.imagesize: did you mean image_size?"),
    "augmentation": ("val_size: 6", "val_size: 6, augmentation: {rotatoin: 5}", "did you mean rotation?"),
    "callback": ("patience: 50", "patiense: 50", "trainer.callbacks.EarlyStopping.patiense: did you mean patience?"),
    "empty section": ("trainer:", "modell: {}\ntrainer:", "unknown key modell: did you mean model?"),
    "section of nothing": ("trainer:", "modell:\ntrainer:", "unknown key modell: did you mean model?"),
    "empty mapping": ("max_epochs: 2", "max_epoch: {}", "unknown key trainer.max_epoch: did you mean max_epochs?"),
    "empty in the optimizer": ("lr: 0.003", "rl: {}", "unknown key model.optimizer.rl: did you mean lr?"),
    "cpu": ("trainer:", "cpu: {thread: 1}\ntrainer:", "unknown key cpu.thread: did you mean threads?"),
    "task class": ("SmallCNNTask", "SmalCNNTask", "model: there is no class SmalCNNTask: did you mean SmallCNNTask?"),
    "network class": ("CompactCNN", "CompactCN", "model.network: there is no class CompactCN: did you mean CompactCNN?"),
    "data class": ("ImageFolderDataModule", "ImageFoldrDataModule", "did you mean ImageFolderDataModule?"),
    "callback class": ("callbacks.EarlyStopping", "callbacks.EarlyStoping", "EarlyStoping: did you mean EarlyStopping?"),
    "module": ("CompactCNN", "no_such_package.Net", "there is no class no_such_package.Net"),
    "not a network": ("CompactCNN", "torch.nn.Identity", "model.network Identity turns images of shape (2, 1, 16, 16)"),
    "not a callback": ("lightning.pytorch.callbacks.EarlyStopping", "torch.nn.ReLU", "expected a subclass of Callback"),
    "literal": ("name: adamw", "name: adamww", "model.optimizer.name is adamww: expected one of adamw, adam, sgd, rmsprop"),
    "number": ("lr: 0.003", "lr: fast", "model.optimizer.lr is fast: expected a number"),
    "range": ("lr: 0.003", "lr: -1", "model.optimizer.lr is -1.0: expected a number of at least 0"),
    "whole number": ("max_epochs: 2", "max_epochs: 1.5", "trainer.max_epochs is 1.5: expected a whole number or null"),
    "channels": ("channels: 1", "channels: 65", "channels is 65, expected 1 (grey), 3 (RGB), or up to 64"),
    "batch size": ("batch_size: 8", "batch_size: 0", "data.batch_size is 0"),
    "too small": ("image_size: 16", "image_size: 1", "image_size is 1: CompactCNN"),
    "linked": ("optimizer:", "num_classes: 5\n    optimizer:", "model.num_classes comes from the data"),
    "missing": ("{root: ROOT, ", "{", "data.root is missing: give it in the config, or as --data.root"),
    "monitor": ("monitor: val/loss, mode: min, patience", "monitor: val/los, mode: min, patience", "expected one of val/loss,"),
    "syntax": ("model:", "model: [", "tiny.yaml is no valid YAML"),
    "settings by name": ("{name: adamw, lr: 0.003}", "adamw", "model.optimizer is adamw: expected its arguments"),
    "endless": ("max_epochs: 2", "max_epochs: -1", "give trainer.max_epochs"),
    "class weights": ("optimizer:", "class_weights: [1, 2]\n    optimizer:", "expected balanced, sqrt_balanced, or a number for each of 3"),
}  # fmt: skip


@pytest.mark.parametrize("case", IN_YAML)
def test_mistakes_in_the_yaml(case: str, config: Path, class_folders: Path, refused: Refused) -> None:
    old, new, expected = IN_YAML[case]
    text = config.read_text().replace(str(class_folders), "ROOT")
    assert old in text
    config.write_text(text.replace(old, new, 1).replace("ROOT", str(class_folders)))
    assert expected in refused("fit", "--config", str(config))


ON_THE_LINE = {
    "--trainer.max_epochs abc": "trainer.max_epochs is abc: expected a whole number or null",
    "--trainer.max_epoch 3": "unknown key trainer.max_epoch: did you mean max_epochs?",
    "--model.optimizer.lrr 3": "unknown key model.optimizer.lrr: did you mean lr?",
    "--model.netwrk LeNet5": "unknown key model.netwrk: did you mean network?",
    "--model.network LabCN": "model.network: there is no class LabCN: did you mean LabCNN?",
    "--data.rot 15": "unknown key data.rot: did you mean data.augmentation.rotation?",
    "--data.size 64": "unknown key data.size: did you mean data.image_size?",
    "--model.lr 0.1": "unknown key model.lr: did you mean model.optimizer.lr?",
    "--epochs 3": "unknown key epochs: did you mean trainer.max_epochs?",
    "--data.augmentation.rotatio 3": "unknown key data.augmentation.rotatio: did you mean rotation?",
    "--dta.root 3": "unknown key dta: did you mean data?",
    "--model PretrainTask": "model: there is no class PretrainTask: did you mean PretrainedTask?",
    "--model PretrainedTask --model.backbone resnet": "expected one of mobilenet_v2, mobilenet_v3_small, mobilenet_v3_large",
    "--model PretrainedTask --model.weights nowhere.pth": "nowhere.pth",
    "--model PretrainedTask --model.cache_features true": "give model.weights",
    "--trainer.precision 17": "trainer.precision is 17: expected one of",
    "--trainer.accelerator cude": "invalid accelerator name",
    "--trainer.devices 7 --trainer.accelerator gpu": "trainer: ",
    "--trainer.strategy dpp": "invalid strategy name",
    "--trainer.limit_val_batches 0": "trainer.limit_val_batches is 0",
    "--trainer.limit_test_batches 0": "trainer.limit_test_batches is 0",
    "--trainer.max_time soon": "not a valid duration",
    "--model.label_smoothing 1": "model.label_smoothing is 1.0",
    "--model.scheduler.name plateau --model.scheduler.monitor val/lss": "model.scheduler.monitor is val/lss",
    "--model.optimizer.lr nan": "model.optimizer.lr is nan",
    "--cpu.threads 0": "cpu.threads is 0",
    "--data.val_size 0.9": "data.val_size is 0.9",
    "--data.test_size 1000": "data.test_size",
    "--data.mean [0.5]": "data.mean and data.std go together",
    "--ckpt_path nowhere.ckpt": "there is no checkpoint nowhere.ckpt",
    "--config gpu.yml": "did you mean gpu.yaml?",
    "--config .": "is a folder: expected a YAML file",
    "stray words": "unexpected words stray words",
    "--data.root": "expected one argument",
}  # fmt: skip


@pytest.mark.parametrize("words", ON_THE_LINE)
def test_mistakes_on_the_command_line(words: str, config: Path, refused: Refused) -> None:
    assert ON_THE_LINE[words] in refused("fit", "--config", str(config), *words.split())


@pytest.mark.parametrize("text", ["", "- 1\n", "words", "model:\n", "\x00"])
def test_a_config_that_is_none(text: str, tmp_path: Path, refused: Refused) -> None:
    (tmp_path / "bad.yaml").write_text(text)
    refused("fit", "--config", str(tmp_path / "bad.yaml"))


def test_commands_and_runs_that_are_none(tmp_path: Path, refused: Refused) -> None:
    assert "did you mean fit?" in refused("fti")
    assert "fit needs a config" in refused("fit")
    assert "did you mean mnist_compact.yaml?" in refused("fit", "--config", "mnist_compct.yaml")
    for command in ("resume", "test", "validate", "report"):
        assert "does not exist" in refused(command, str(tmp_path / "nowhere"))
    assert "resume needs a run folder" in refused("resume")
    assert "needs a run folder, or --config and --ckpt_path" in refused("test")
    assert "needs trained weights" in refused("test", "--config", "mnist_compact.yaml", "--data.root", str(tmp_path))
    assert "required: images" in refused("predict", "run")
    assert "invalid choice: 'syn'" in refused("data", "syn", "x")
    assert "no config nowhere" in refused("configs", "nowhere")


def test_pictures_that_cannot_be_used(config: Path, tmp_path: Path, class_folders: Path, refused: Refused) -> None:
    def fit(root: Path, *words: str) -> str:
        return refused("fit", "--config", str(config), "--data.root", str(root), *words)

    (tmp_path / "empty").mkdir()
    assert "no image inside" in fit(tmp_path / "empty")
    assert "nowhere" in fit(tmp_path / "nowhere")
    (class_folders / "zero").mkdir()
    assert "zero: a folder without an image" in fit(class_folders)
    (class_folders / "zero").rmdir()
    whole = (class_folders / "good" / "0.png").read_bytes()
    (class_folders / "good" / "0.png").write_bytes(whole[: len(whole) // 2])
    assert "0.png" in fit(class_folders)
    (class_folders / "good" / "0.png").write_bytes(b"not an image")
    assert "on_bad_image: skip" in fit(class_folders)
    assert main(["fit", "--config", str(config), "--data.on_bad_image", "skip", "--trainer.max_epochs=1"]) == 0
    (run,) = (tmp_path / "runs" / "tiny").iterdir()
    assert [line.split(":")[0] for line in read(run)["data"]["skipped"]] == ["good/0.png"]


def test_arrays_and_archives_that_cannot_be_used(config: Path, tmp_path: Path, refused: Refused) -> None:
    arrays = tmp_path / "arrays"
    arrays.mkdir()
    np.save(arrays / "images.npy", np.zeros((9, 16, 16), dtype=np.uint8))
    np.save(arrays / "labels.npy", np.zeros(8, dtype=np.int64))
    assert "labels.npy" in refused("fit", "--config", str(config), "--data.root", str(arrays))
    np.save(arrays / "labels.npy", np.array([Malicious(tmp_path / "pwned")] * 9), allow_pickle=True)
    refused("fit", "--config", str(config), "--data.root", str(arrays))
    with zipfile.ZipFile(tmp_path / "climbs.zip", "w") as archive:
        archive.writestr("../../escaped.png", b"x")
    assert "escaped.png" in refused("fit", "--config", str(config), "--data.root", str(tmp_path / "climbs.zip"))
    (tmp_path / "text.zip").write_text("no archive")
    refused("fit", "--config", str(config), "--data.root", str(tmp_path / "text.zip"))
    assert not (tmp_path / "pwned").exists()
    assert not list(tmp_path.rglob("escaped.png"))


def test_a_checkpoint_of_other_classes(finished: Path, tmp_path: Path, refused: Refused) -> None:
    best = str(finished / "checkpoints" / "best.ckpt")
    two, others = write_pictures(tmp_path / "two", ("a", "b")), write_pictures(tmp_path / "others", ("a", "b", "c"))
    words = ["test", "--config", str(finished / "config.yaml"), "--ckpt_path", best]
    assert "3 classes, the data has 2" in refused(*words, "--data.root", str(two), "--data.test_size", "4")
    assert "the data has a, b, c" in refused(*words, "--data.root", str(others))
    for root in (two, others):
        assert "expected folders good, hole, scratch" in refused("test", str(finished), "--data.root", str(root))
    before = {file: file.read_bytes() for file in finished.rglob("*.*") if file.is_file()}
    assert "has none of the 36 images of the run" in refused(
        "resume", str(finished), "--data.root", str(two), "--data.test_size", "4", "--trainer.max_epochs=2"
    )
    changed = [file.name for file, content in before.items() if file.read_bytes() != content]
    assert changed == [], "a resume that is refused leaves the run alone"
    assert "but 1 epochs are done" in refused("resume", str(finished), "--trainer.max_epochs=0")


def test_a_pickle_never_runs(finished: Path, config: Path, tmp_path: Path, refused: Refused) -> None:
    proof = tmp_path / "pwned"
    files = [tmp_path / name for name in ("zip.ckpt", "old.ckpt", "plain.ckpt")]
    content = {"state_dict": {}, "hyper_parameters": {"num_classes": 3}, "callbacks": Malicious(proof)}
    torch.save(content, files[0])
    torch.save(content, files[1], _use_new_zipfile_serialization=False)
    files[2].write_bytes(pickle.dumps(Malicious(proof)))
    run = tmp_path / "copy"
    (run / "checkpoints").mkdir(parents=True)
    (run / "config.yaml").write_bytes((finished / "config.yaml").read_bytes())
    for file in files:
        for words in (
            ["fit", "--config", str(config), "--ckpt_path", str(file)],
            ["test", "--config", str(config), "--ckpt_path", str(file)],
            ["predict", str(file), str(tmp_path), "--output", str(tmp_path / "out.csv")],
        ):
            assert "nothing in it was run" in refused(*words)
        words = ["fit", "--config", str(config), "--model", "PretrainedTask", "--model.weights", str(file)]
        assert "nothing in it was run" in refused(*words)
        (run / "checkpoints" / "last.ckpt").write_bytes(file.read_bytes())
        for words in (["resume", str(run)], ["test", str(run)]):
            assert "nothing in it was run" in refused(*words)
    assert not proof.exists()
    with pytest.raises(FileExistsError):  # the pickle does what it says where it is let
        [pickle.loads(files[2].read_bytes()) for _ in range(2)]


@pytest.mark.parametrize("damage", ["empty", "half", "text", "list"])
def test_a_damaged_checkpoint(damage: str, finished: Path, tmp_path: Path, refused: Refused) -> None:
    whole = (finished / "checkpoints" / "best.ckpt").read_bytes()
    file = tmp_path / "damaged.ckpt"
    file.write_bytes({"empty": b"", "half": whole[: len(whole) // 2], "text": b"hello"}.get(damage, b""))
    if damage == "list":
        torch.save([1, 2], file)
    assert "damaged.ckpt" in refused("predict", str(file), str(tmp_path), "--output", str(tmp_path / "out.csv"))
    words = ["test", "--config", str(finished / "config.yaml"), "--ckpt_path", str(file)]
    assert "damaged.ckpt" in refused(*words)


def test_predictions_that_cannot_be_made(finished: Path, tmp_path: Path, class_folders: Path, refused: Refused) -> None:
    def predict(images: Path | str, output: Path) -> str:
        return refused("predict", str(finished), str(images), "--output", str(output))

    assert "no image found" in predict(str(class_folders / "*.gif"), tmp_path / "out.csv")
    assert "no such file" in predict(class_folders / "nothing", tmp_path / "out.csv")
    assert "is a folder" in predict(class_folders, tmp_path)
    assert "cannot be written" in predict(class_folders, class_folders / "good" / "0.png" / "out.csv")
    (tmp_path / "text.png").write_text("not an image")
    assert "text.png" in predict(tmp_path / "text.png", tmp_path / "out.csv")
    words = ["predict", str(finished), str(tmp_path / "text.png"), "--output", str(tmp_path / "out.csv")]
    assert "nothing was written" in refused(*words, "--on_bad_image", "skip")
    assert "use cpu" in refused(*words, "--device", "quantum")
    assert not (tmp_path / "out.csv").exists()


@contextmanager
def nobody() -> Iterator[None]:
    """Root reads and writes everything, so for a while somebody else does what is done."""
    if os.getuid() == 0:
        os.seteuid(65534)
    try:
        yield
    finally:  # or every later test would be nobody's, too
        os.seteuid(os.getuid())


@pytest.mark.skipif(sys.platform == "win32", reason="Windows has other permissions")
def test_folders_without_permission(config: Path, tmp_path: Path, class_folders: Path, refused: Refused) -> None:
    # Which imports everything into this very process: nobody may not even read the package.
    assert main(["fit", "--config", str(config), "--trainer.default_root_dir", str(tmp_path / "first")]) == 0
    for folder in (tmp_path, *tmp_path.parents):
        if not folder.stat().st_mode & 0o001:  # pytest's own are closed to others
            folder.chmod(0o755)
    (tmp_path / "others").mkdir(mode=0o555)
    (tmp_path / "runs").mkdir()
    (tmp_path / "runs").chmod(0o777)
    with nobody():
        said = refused("fit", "--config", str(config), "--trainer.default_root_dir", str(tmp_path / "others"))
        assert "Permission denied): set trainer.default_root_dir" in said
    (class_folders / "good").chmod(0o000)
    with nobody():
        assert "good: Permission denied" in refused("fit", "--config", str(config))
    (class_folders / "good").chmod(0o755)


def test_a_full_disk_costs_the_new_checkpoint_alone(
    config: Path, tmp_path: Path, refused: Refused, monkeypatch: pytest.MonkeyPatch
) -> None:
    assert main(["fit", "--config", str(config)]) == 0
    (run,) = (tmp_path / "runs" / "tiny").iterdir()
    good = {name: (run / "checkpoints" / f"{name}.ckpt").read_bytes() for name in ("best", "last")}
    save = torch.save

    def full(content: object, file: Any) -> None:
        save(content, file)
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(torch, "save", full)
    assert main(["resume", str(run), "--trainer.max_epochs", "4"]) == 1
    for name, content in good.items():
        assert (run / "checkpoints" / f"{name}.ckpt").read_bytes() == content
        assert torch.load(run / "checkpoints" / f"{name}.ckpt", weights_only=True)["epoch"] == 1
    assert not list(run.rglob("*.tmp"))
    monkeypatch.undo()
    assert main(["resume", str(run), "--trainer.max_epochs", "3"]) == 0


def test_a_loss_that_is_no_number(config: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert (
        main(["fit", "--config", str(config), "--model.optimizer.lr", "1e30", "--model.scheduler.name=constant"]) == 1
    )
    assert "lower the learning rate" in capsys.readouterr().err


def test_a_root_that_is_given_has_to_work(config: Path, tmp_path: Path, refused: Refused) -> None:
    pictures = write_pictures(tmp_path / "other", ("a", "b"))
    words = ["fit", "--config", str(config), "--data", "NEUDataModule", "--data.root", str(pictures)]
    assert "of no NEU class" in refused(*words), "no silent stand-in"


def test_input_error_is_told_in_one_line(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    def fail(words: list[str]) -> int:
        raise InputError(f"two\nlines of {NEU_CLASSES[0]}")

    monkeypatch.setattr("defectlab.cli.configs.run", fail)
    assert main(["configs"]) == 1
    assert capsys.readouterr().err == "defectlab: error: two lines of crazing\n"


def test_ctrl_c_is_130_wherever_it_comes(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    def interrupt(words: list[str]) -> int:
        raise KeyboardInterrupt

    monkeypatch.setattr("defectlab.cli.configs.run", interrupt)
    assert main(["configs"]) == 130
    assert capsys.readouterr().err == "defectlab: stopped\n"
