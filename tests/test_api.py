"""The functions of `import defectlab as dl`: what they return, what they refuse, and that the host stays as it was."""

import importlib
import json
import logging
import os
import random
import shutil
import subprocess
import sys
import warnings
from collections.abc import Callable
from pathlib import Path

import lightning.pytorch as pl
import pytest
import torch
import yaml
from conftest import write_class_folders
from helpers import read, refusal, write_config
from torch import Tensor, nn
from torch.utils.data import DataLoader, TensorDataset

import defectlab as dl
from defectlab.callbacks import EMA
from defectlab.cli.main import main
from defectlab.networks import CompactCNN


@pytest.fixture
def config(tmp_path: Path, class_folders: Path) -> Path:
    return write_config(tmp_path, class_folders)


@pytest.fixture(scope="module")
def finished(tmp_path_factory: pytest.TempPathFactory) -> dl.RunFolder:
    """A run of `fit` with overrides, that no test changes."""
    folder = tmp_path_factory.mktemp("api")
    config = write_config(folder, write_class_folders(folder / "images", 12))
    return dl.fit(
        config,
        data={"val_size": 5, "augmentation": {"rotation": 5}},
        model={"optimizer": {"lr": 0.002}, "network": {"class_path": "CompactCNN", "init_args": {"dropout": 0.1}}},
        trainer={"max_epochs": 1},
        seed_everything=3,
        output=str(folder / "out"),
    )


@pytest.mark.parametrize("name", dl.__all__)
def test_every_name_is_there(name: str) -> None:
    assert callable(getattr(dl, name))
    assert name in dir(dl)


def test_names_places_and_what_a_type_checker_reads_agree() -> None:
    assert sorted(dl.__all__) == sorted(dl._PLACES)
    with pytest.raises(AttributeError, match="no attribute 'fitt'"):
        dl.fitt  # noqa: B018


def test_the_face_is_light_and_rooms_stay_importable() -> None:
    code = """
import sys
import defectlab as dl
assert not {'torch', 'lightning', 'numpy', 'matplotlib'} & set(sys.modules)
import defectlab.metrics, defectlab.evaluate.comparison, defectlab.report.page as page
assert 'lightning' not in sys.modules
assert callable(dl.report) and dl.report.page is page
import inspect
print(inspect.signature(dl.report))
"""
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert "run: " in done.stdout


def test_fit_takes_overrides_as_nested_values(finished: dl.RunFolder, capsys: pytest.CaptureFixture[str]) -> None:
    config = yaml.safe_load(finished.config.read_text())
    assert config["seed_everything"] == 3
    assert config["model"]["init_args"]["optimizer"]["lr"] == 0.002
    assert config["model"]["init_args"]["network"]["init_args"]["dropout"] == 0.1
    assert config["data"]["init_args"]["augmentation"]["rotation"] == 5
    assert finished.path.name == "out"
    assert finished.metrics["run"]["config"] == "tiny"
    assert finished.metrics["run"]["epochs"] == 1
    assert sum(finished.metrics["data"]["counts"]["val"].values()) == 5
    assert capsys.readouterr().out == ""


WRONG = {
    "data.roo: did you mean root": {"data": {"roo": "x"}},
    "model.optimizer.lrr: did you mean lr": {"model": {"optimizer": {"lrr": 1}}},
    "model.lr: did you mean model.optimizer.lr": {"model": {"lr": 1}},
    "trainer.epochs: did you mean trainer.max_epochs": {"trainer": {"epochs": 1}},
    "data.augmentation.flip: did you mean data.augmentation.horizontal_flip": {"data": {"augmentation": {"flip": 1}}},
    "trainer.max_epochs is many: expected a whole number": {"trainer": {"max_epochs": "many"}},
    "fast_dev_run keeps nothing": {"trainer": {"fast_dev_run": True}},
    "task of fit": {"task": nn.Module()},
}


@pytest.mark.parametrize("words", WRONG)
def test_fit_refuses_in_the_words_of_the_command(words: str, config: Path, tmp_path: Path) -> None:
    refusal(lambda: dl.fit(config, **WRONG[words]), words)  # type: ignore[arg-type]
    assert not (tmp_path / "runs").exists()


def test_fit_refuses_an_output_that_is_a_run(finished: dl.RunFolder, config: Path) -> None:
    refusal(lambda: dl.fit(config, output=finished.path), "is a run folder already")
    refusal(lambda: dl.fit(), "fit needs a config")
    assert main(["fit", "--config", str(config), "--output", str(finished.path)]) == 1


def test_the_command_writes_to_the_folder_that_is_named(config: Path, tmp_path: Path) -> None:
    output = tmp_path / "deep" / "down"
    assert main(["fit", "--config", str(config), "--trainer.max_epochs=1", f"--output={output}"]) == 0
    assert read(output)["run"]["config"] == "tiny"
    assert main(["fit", "--config", str(config), "--data.root=nowhere", "--output", str(tmp_path / "new" / "x")]) == 1
    assert not (tmp_path / "new").exists()


def test_a_config_of_sections_then_resume_test_and_validate(config: Path) -> None:
    sections = yaml.safe_load(config.read_text())
    sections["trainer"]["max_epochs"] = 1
    run = dl.fit(sections)
    assert [len(part.read_text().splitlines()) for part in (run.metrics_csv,)] == [2]
    again = dl.resume(str(run.path), trainer={"max_epochs": 2})
    assert again == run
    assert run.metrics["run"]["epochs"] == 2
    tested = dl.test(str(run.path))
    assert tested.accuracy == run.metrics["test"]["accuracy"]
    assert tested.n == 7
    assert tested.run == run
    assert f"{tested.accuracy:.2%}" in repr(tested)
    assert "<table>" in tested._repr_html_()
    other = dl.test(run, data={"test_size": 9})
    assert other.run is not None
    assert other.run.path.parent == run.path
    assert run.metrics["test"]["n"] == 7
    checked = dl.validate(run)
    assert checked.stage == "val"
    assert checked.accuracy == run.metrics["val"]["accuracy"]
    refusal(lambda: dl.test(run, data={"roo": 1}), "did you mean root")
    refusal(lambda: dl.test(run.path / "nowhere"), "did you mean")


def test_the_test_names_the_checkpoint_that_it_tests(config: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    tested: list[object] = []
    run_test = pl.Trainer.test

    def spy(self: pl.Trainer, *args: object, **kwargs: object) -> object:
        tested.append(kwargs.get("ckpt_path"))
        return run_test(self, *args, **kwargs)  # type: ignore[arg-type]

    monkeypatch.setattr(pl.Trainer, "test", spy)
    run = dl.fit(config, trainer={"max_epochs": 1})
    assert tested == [str(run.best.resolve())]


def host_state() -> tuple[object, ...]:
    """What a function of defectlab must not change in the program that calls it."""
    loggers = [
        logging.getLogger(name) for name in ("defectlab", "lightning.pytorch", "lightning.fabric", "tensorboard")
    ]
    return (
        dict(os.environ),
        list(warnings.filters),
        torch.get_num_threads(),
        [(logger.handlers[:], logger.level) for logger in loggers],
        bool(torch.tensor([1e-40]).mul(1).item()),
        torch.get_rng_state().tolist(),
        random.getstate(),
    )


def test_the_host_program_is_left_as_it_was(config: Path) -> None:
    logger = logging.getLogger("defectlab")
    handler = logging.NullHandler()
    logger.addHandler(handler)
    before = host_state()
    try:
        run = dl.fit(config, trainer={"max_epochs": 1})
        dl.test(run)
        refusal(lambda: dl.fit(config, model={"optimizer": {"lr": -1}}), "model.optimizer.lr")
        assert main(["configs"]) == 0
        assert host_state() == before
    finally:
        logger.removeHandler(handler)


BUDGET = ("--data.source", "synthetic", "--data.synthetic_per_class", "12", "--data.image_size", "48")
FLOWS: dict[str, Callable[[dl.RunFolder, Path, Path], object]] = {
    "cross_validate": lambda run, config, images: dl.cross_validate(
        config, 2, 1, overrides={"trainer.max_epochs": 1, "cpu.threads": 2}
    ),
    "compare_networks": lambda run, config, images: dl.compare_networks([run, config], image_size=32, turns=1),
    "robustness": lambda run, config, images: dl.robustness(run, overrides=["--cpu.threads", "2"]),
    "label_budget": lambda run, config, images: dl.label_budget("neu_mobilenet.yaml", (1, 4), 2, BUDGET),
    "explain": lambda run, config, images: dl.explain(run, output="explained"),
    "inspect_data": lambda run, config, images: dl.inspect_data(images),
    "inspect_data of a config": lambda run, config, images: dl.inspect_data(config=config),
    "ensemble": lambda run, config, images: dl.ensemble([run, shutil.copytree(run, "copy")]),
    "predict": lambda run, config, images: dl.predict(run, images, sets=0.5),
}


@pytest.mark.parametrize("name", FLOWS)
def test_every_flow_leaves_the_host_as_it_was(
    name: str,
    finished: dl.RunFolder,
    config: Path,
    class_folders: Path,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.chdir(tmp_path)
    monkeypatch.delenv("DEFECTLAB_RUN", raising=False)
    for module in ("lightning.pytorch", "defectlab.explain.run", "scipy.stats"):
        importlib.import_module(module)  # what dependencies do when they are imported is theirs
    before = host_state()
    found = FLOWS[name](finished, config, class_folders)
    assert host_state() == before
    if name not in ("compare_networks", "explain", "ensemble"):  # lists, pages and runs
        assert ("<p>" if name == "inspect_data" else "<table><tr><th>") in found._repr_html_()  # type: ignore[attr-defined]


def make_data(root: Path) -> dl.ImageFolderDataModule:
    return dl.ImageFolderDataModule(root=str(root), image_size=16, channels=1, batch_size=8, val_size=6, test_size=7)


def test_ready_objects_make_the_same_run_folder(class_folders: Path, tmp_path: Path) -> None:
    torch.manual_seed(0)  # by which every class is predicted: an undefined precision is NaN here and null in the file
    task, settings = dl.SmallCNNTask(CompactCNN, 3, 1, 16), {"max_epochs": 2, "accelerator": "cpu", "callbacks": EMA()}
    run = dl.fit(task=task, data=make_data(class_folders), trainer=settings, output=tmp_path / "run")
    files = {path.name for path in run.path.iterdir()}
    assert {"config.yaml", "metrics.json", "metrics.csv", "predictions.csv", "report.html", "curves.png"} <= files
    assert {path.name for path in run.checkpoints.iterdir()} == {"best.ckpt", "last.ckpt"}
    assert run.metrics["run"]["epochs"] == 2
    before = run.metrics["test"]
    assert dl.test(run).metrics == before, "the config describes the objects"


def test_a_run_of_a_plain_trainer_is_recorded(class_folders: Path, tmp_path: Path) -> None:
    task, data = dl.SmallCNNTask(CompactCNN, 3, 1, 16), make_data(class_folders)
    quiet = {"logger": False, "enable_progress_bar": False, "enable_model_summary": False, "accelerator": "cpu"}
    trainer = pl.Trainer(max_epochs=1, default_root_dir=tmp_path, **quiet)  # type: ignore[arg-type]
    trainer.fit(task, datamodule=data)
    run = dl.record_run(trainer, task, data, tmp_path / "recorded")
    assert run.finished
    assert run.metrics["test"]["n"] == 7
    assert dl.test(run).accuracy == run.metrics["test"]["accuracy"]
    assert main(["compare", str(run.path), str(run.path)]) in (0, 1)
    refusal(lambda: dl.record_run(trainer, task, data, run.path), "is a run folder already")


class Foreign(pl.LightningModule):
    """A module that knows nothing of defectlab."""

    def __init__(self) -> None:
        super().__init__()
        self.network = nn.Sequential(nn.Flatten(), nn.Linear(64, 3))

    def forward(self, images: Tensor) -> Tensor:
        logits: Tensor = self.network(images)
        return logits

    def training_step(self, batch: tuple[Tensor, Tensor], index: int) -> Tensor:
        return nn.functional.cross_entropy(self(batch[0]), batch[1])

    def configure_optimizers(self) -> torch.optim.Optimizer:
        return torch.optim.SGD(self.parameters(), lr=0.1)


class ForeignData(pl.LightningDataModule):
    """Likewise, without names of its classes, and without test images."""

    def setup(self, stage: str) -> None:
        images = torch.rand(30, 1, 8, 8, generator=torch.Generator().manual_seed(0))
        self.set = TensorDataset(images, torch.arange(30) % 3)

    def train_dataloader(self) -> "DataLoader[tuple[Tensor, ...]]":
        return DataLoader(self.set, 10)

    def val_dataloader(self) -> "DataLoader[tuple[Tensor, ...]]":
        return DataLoader(self.set, 10)


@pytest.mark.filterwarnings("ignore")
def test_a_module_and_data_of_anybodys_are_recorded(tmp_path: Path) -> None:
    task = Foreign()
    run = dl.fit(
        task=task, data=ForeignData(), trainer={"max_epochs": 1, "accelerator": "cpu"}, output=tmp_path / "foreign"
    )
    assert run.metrics["val"]["n"] == 30
    assert run.metrics["data"]["class_names"] == ["0", "1", "2"]
    assert (run.path / "report.html").is_file()
    assert run.metrics["val"]["accuracy"] == pytest.approx(
        float((task(task.trainer.datamodule.set.tensors[0]).argmax(1) == torch.arange(30) % 3).float().mean())  # type: ignore[attr-defined]
    )


def test_a_str_is_a_path(finished: dl.RunFolder) -> None:
    run = dl.RunFolder(str(finished.path))
    assert run == finished
    assert run.best.is_file()
    assert dl.open_run(str(run.path)) == dl.open_run(run) == dl.Run(run.path)
    task, card = dl.load_task(str(run.best))
    assert card.class_names == ("good", "hole", "scratch")
    assert isinstance(task, dl.SmallCNNTask)
    assert dl.report(str(run.path)) == run.path / "report.html"
    again = dl.ClassificationTask.load_from_checkpoint(str(run.best), weights_only=True).eval()
    images = torch.rand(2, *card.shape)
    assert torch.equal(again(images), task(images))


def test_a_run_shows_itself(finished: dl.RunFolder, tmp_path: Path) -> None:
    accuracy = finished.metrics["test"]["accuracy"]
    assert repr(finished).startswith(f"<run {finished.path}: test {accuracy:.2%} (")
    assert "report.html" in finished._repr_html_()
    assert repr(dl.RunFolder(tmp_path)).endswith(": not finished>")
    assert repr(dl.RunFolder(tmp_path / "gone")).endswith(": not there any more>")


@pytest.mark.parametrize("text", ['{"test": 3}', '{"test": {"n": "many"}}', '{"data": {"counts": []}}'])
def test_metrics_are_checked_when_they_are_read(text: str, tmp_path: Path) -> None:
    (tmp_path / "metrics.json").write_text(text)
    section = next(iter(json.loads(text)))
    refusal(lambda: dl.RunFolder(tmp_path).metrics, "metrics.json", section, "again")


HINTS = {
    "--epochs 3": "did you mean trainer.max_epochs?",
    "--model.lr 3": "did you mean model.optimizer.lr?",
    "--batch_size 3": "did you mean data.batch_size?",
    "--data.augmentation.flip 0.5": "did you mean data.augmentation.horizontal_flip?",
    "--output": "--output has no value",
}


@pytest.mark.parametrize("words", HINTS)
def test_the_words_people_try(words: str, config: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["fit", "--config", str(config), *words.split()]) == 1
    assert HINTS[words] in capsys.readouterr().err


def test_sections_that_are_missing_or_misplaced(config: Path, capsys: pytest.CaptureFixture[str]) -> None:
    sections = yaml.safe_load(config.read_text())
    refusal(lambda: dl.fit({"trainer": sections["trainer"]}), "the config has no", "data", "model")
    sections["model"]["network"] = sections["model"]["init_args"].pop("network")
    refusal(lambda: dl.fit(sections), "model has network beside class_path")
    assert main(["configs", "nothere.yaml"]) == 1
    assert "did you mean" not in capsys.readouterr().err


def test_help_of_fit_is_of_the_config(config: Path, capsys: pytest.CaptureFixture[str]) -> None:
    for words, expected in (
        ([], ["--config", "NEUDataModule", "--help trainer"]),
        (
            ["--config", str(config)],
            ["--data.root", "--model.optimizer.lr", "(config: 0.003)", "model.network: CompactCNN"],
        ),
        (["trainer"], ["--trainer.max_epochs", "--trainer.precision"]),
    ):
        with pytest.raises(SystemExit):
            main(["fit", "--help", *words])
        said = capsys.readouterr().out
        assert all(word in said for word in expected), words
