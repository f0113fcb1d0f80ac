"""`resume`: equal to an unbroken run in every mode; changed settings take effect, or nothing is written."""

import csv
import json
import shutil
from pathlib import Path

import pytest
import torch
import yaml
from helpers import interrupt, read, start, wait_for, write_config

from defectlab.cli.main import main
from defectlab.runs.state import read_state
from defectlab.tasks.checkpoint import read_checkpoint

PATIENCE = "--trainer.callbacks.patience=1"  # of the last callback, EarlyStopping
EVERY_OTHER = "--trainer.check_val_every_n_epoch=2"
HALF = "--trainer.val_check_interval=0.5"


def table(run: Path) -> list[dict[str, str]]:
    with (run / "metrics.csv").open(encoding="utf-8") as file:
        return [{key: value for key, value in row.items() if key != "seconds"} for row in csv.DictReader(file)]


def tree(run: Path) -> dict[str, bytes]:
    return {str(path.relative_to(run)): path.read_bytes() for path in run.rglob("*") if path.is_file()}


@pytest.mark.parametrize(
    "words",
    [
        ["--model.scheduler.name", "plateau", "--model.scheduler.patience", "0"],
        ["--model.network.dropout=0.5"],
        ["--trainer.callbacks+=defectlab.callbacks.EMA", HALF],
        ["--trainer.callbacks+=defectlab.callbacks.SWA", "--trainer.callbacks.start=0.25", EVERY_OTHER],
        ["--model.scheduler.name", "plateau", "--model.scheduler.patience", "0", EVERY_OTHER],
        ["--trainer.max_steps=14", "--trainer.max_epochs=-1"],  # ends within an epoch
        ["--trainer.max_steps=14", "--trainer.max_epochs=-1", "--trainer.val_check_interval=3",
         "--trainer.check_val_every_n_epoch=null"],
    ],
)  # fmt: skip
def test_a_resumed_run_ends_like_an_unbroken_one(
    words: list[str], class_folders: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    words = ["fit", "--config", str(write_config(tmp_path, class_folders)), "--trainer.max_epochs", "4", *words]
    words += ["--data.augmentation", '{"rotation": 10, "mixup": 0.2}']
    unbroken, broken = tmp_path / "unbroken", tmp_path / "broken"
    assert main([*words, "--output", str(unbroken)]) == 0
    interrupt(monkeypatch, [*words, "--output", str(broken)])
    assert read_checkpoint(broken / "checkpoints" / "last.ckpt")["epoch"] == 1
    monkeypatch.chdir(tmp_path)
    assert main(["resume", "broken"]) == 0
    assert table(unbroken) == table(broken)
    first, second = read(unbroken), read(broken)
    assert (first["test"], first["val"]) == (second["test"], second["val"])
    for name in ("train_seconds", "total_seconds", "test_split_read", "checkpoint"):
        for run in (first, second):
            assert run["run"].pop(name) is not None
    assert first["run"] == second["run"]
    for name in ("last.ckpt", "best.ckpt"):
        one, other = (read_checkpoint(run / "checkpoints" / name) for run in (unbroken, broken))
        assert all(torch.equal(tensor, other["state_dict"][key]) for key, tensor in one["state_dict"].items())
        assert one["optimizer_states"][0]["param_groups"] == other["optimizer_states"][0]["param_groups"]


WITHIN = ["--trainer.callbacks+=defectlab.callbacks.LastCheckpoint", "--trainer.callbacks.minutes=0"]


@pytest.mark.parametrize(
    "words",
    [
        ["--model.network.dropout=0.5"],
        ["--trainer.callbacks+=defectlab.callbacks.EMA", HALF, "--data.batch_size=3"],
        ["--trainer.accumulate_grad_batches=2", "--data.batch_size=4"],
        ["--model.scheduler.name=plateau", "--model.scheduler.patience=0", "--data.backing=streamed"],
        ["--trainer.max_steps=11", "--trainer.max_epochs=-1"],
    ],
)
def test_a_run_that_was_stopped_within_an_epoch_ends_like_an_unbroken_one(
    words: list[str], class_folders: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    words = ["fit", "--config", str(write_config(tmp_path, class_folders)), "--trainer.max_epochs", "4", *words]
    words += ["--data.augmentation", '{"rotation": 10, "mixup": 0.2}', *WITHIN]
    unbroken, broken = tmp_path / "unbroken", tmp_path / "broken"
    assert main([*words, "--output", str(unbroken)]) == 0
    interrupt(monkeypatch, [*words, "--output", str(broken)], batch=2)
    last = read_checkpoint(broken / "checkpoints" / "last.ckpt")
    assert last["callbacks"]["LastCheckpoint"]["within"][0]["batches"][0] == 2
    before = tree(broken)
    for changed in ("--data.batch_size=5", "--trainer.limit_train_batches=2"):
        assert main(["resume", str(broken), changed]) == 1
    assert tree(broken) == before
    assert main(["resume", str(broken)]) == 0
    assert table(unbroken) == table(broken)
    for name in ("last.ckpt", "best.ckpt"):
        one, other = (read_checkpoint(run / "checkpoints" / name) for run in (unbroken, broken))
        assert one["global_step"] == other["global_step"]
        assert all(torch.equal(tensor, other["state_dict"][key]) for key, tensor in one["state_dict"].items())


def test_a_run_that_was_killed_within_its_first_epoch_ends_like_an_unbroken_one(
    class_folders: Path, tmp_path: Path
) -> None:
    words = ["fit", "--config", str(write_config(tmp_path, class_folders)), "--model.network.dropout=0.5", *WITHIN]
    words += ["--data.batch_size=2", "--data.backing=streamed", "--trainer.max_epochs=2"]
    unbroken, broken = tmp_path / "unbroken", tmp_path / "broken"
    assert main([*words, "--output", str(unbroken)]) == 0
    process = start(*words, "--output", str(broken))
    wait_for("checkpoints/last.ckpt", broken, process)
    process.kill()
    process.communicate()
    assert main(["resume", str(broken)]) == 0
    assert table(unbroken) == table(broken)
    one, other = (read_checkpoint(run / "checkpoints" / "last.ckpt") for run in (unbroken, broken))
    assert all(torch.equal(tensor, other["state_dict"][key]) for key, tensor in one["state_dict"].items())


@pytest.fixture(scope="module")
def constant(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A finished run of two epochs at a constant rate, stopped early by a patience of 1 at best."""
    from conftest import write_class_folders

    folder = tmp_path_factory.mktemp("constant")
    config = write_config(folder, write_class_folders(folder / "images", 12))
    assert (
        main(["fit", "--config", str(config), "--model.scheduler.name=constant", "--output", str(folder / "run")]) == 0
    )
    return folder / "run"


@pytest.fixture
def run(constant: Path, tmp_path: Path) -> Path:
    """A copy of that run."""
    return Path(shutil.copytree(constant, tmp_path / "run"))


def test_a_rate_a_decay_and_a_penalty_take_effect(run: Path) -> None:
    words = ["--model.optimizer.lr=1e-5", "--model.optimizer.weight_decay=0.3", "--trainer.max_epochs=3"]
    assert main(["resume", str(run), *words]) == 0
    assert [float(row["lr"]) for row in table(run)] == [0.003, 0.003, 1e-5]
    groups = read_checkpoint(run / "checkpoints" / "last.ckpt")["optimizer_states"][0]["param_groups"]
    assert [(group["lr"], group["weight_decay"]) for group in groups] == [(1e-5, 0.3), (1e-5, 0.0)]
    # And once more, from a checkpoint that has them.
    assert main(["resume", str(run), "--trainer.max_epochs=4", "--data.batch_size=6"]) == 0
    assert (table(run)[3]["lr"], table(run)[3]["step"]) == ("1e-05", "12")  # three epochs of 3 steps, one of 4
    assert read(run)["run"]["lr"] == 1e-5
    assert main(["resume", str(run), "--trainer.max_epochs=5"]) == 0, "epochs of other lengths are whole ones, too"


def test_an_epoch_that_was_cut_short_is_not_taken_up(class_folders: Path, tmp_path: Path) -> None:
    words = ["fit", "--config", str(write_config(tmp_path, class_folders)), "--model.scheduler.name=constant"]
    run = tmp_path / "run"
    assert main([*words, "--trainer.max_epochs=-1", "--trainer.max_steps=5", "--output", str(run)]) == 0
    before = tree(run)
    assert main(["resume", str(run), "--trainer.max_steps=9"]) == 1
    assert tree(run) == before


@pytest.mark.parametrize("name", ["onecycle", "cosine", "plateau"])
def test_a_rate_scales_every_schedule(
    name: str, class_folders: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    words = ["fit", "--config", str(write_config(tmp_path, class_folders)), "--trainer.max_epochs=4"]
    words += [f"--model.scheduler.name={name}", "--output"]
    interrupt(monkeypatch, [*words, str(tmp_path / "run")])
    shutil.copytree(tmp_path / "run", tmp_path / "slow")
    assert main(["resume", str(tmp_path / "run")]) == 0
    assert main(["resume", str(tmp_path / "slow"), "--model.optimizer.lr=0.0003"]) == 0
    rates = [[float(row["lr"]) for row in table(tmp_path / name)] for name in ("run", "slow")]
    assert rates[0][:2] == rates[1][:2]
    assert [10 * rate for rate in rates[1][2:]] == pytest.approx(rates[0][2:], rel=1e-3)


def test_patience_and_the_length_of_a_run_that_early_stopping_ended(class_folders: Path, tmp_path: Path) -> None:
    words = ["--config", str(write_config(tmp_path, class_folders)), "--model.optimizer.lr=0", "--trainer.max_epochs=9"]
    run = tmp_path / "run"
    assert main(["fit", *words, PATIENCE, "--output", str(run)]) == 0
    done = len(table(run))
    assert done == 2
    before = tree(run)
    for _ in range(2):
        assert main(["resume", str(run)]) == 1
    assert tree(run) == before, "finished stays finished"
    assert main(["resume", str(run), "--trainer.callbacks.patience=3"]) == 0
    assert len(table(run)) == 4


def test_a_run_that_was_told_to_stop_does_not_train_on(
    class_folders: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    words = ["--config", str(write_config(tmp_path, class_folders)), "--model.optimizer.lr=0", "--trainer.max_epochs=9"]
    run = tmp_path / "run"
    with monkeypatch.context() as patch:
        patch.setattr("defectlab.engine.fit.evaluate_checkpoint", lambda *_: (_ for _ in ()).throw(KeyboardInterrupt))
        assert main(["fit", *words, PATIENCE, "--output", str(run)]) == 130
    state = read_state(run)
    assert state is not None
    assert state.phase == "stopped"
    assert main(["resume", str(run)]) == 0
    assert len(table(run)) == 2
    assert read(run)["run"]["epochs"] == 2


@pytest.mark.parametrize(
    "words",
    [
        ["--model.scheduler.name=onecycle"],
        ["--model.scheduler.monitor=val/accuracy"],
        ["--model.optimizer.name=sgd"],
        ["--model.optimizer.momentum=0.5"],
        ["--model.label_smoothing=0.1"],
        ["--trainer.fast_dev_run=true"],
        ["--model.class_weights=balanced"],
        ["--model.network.dropout=0.5"],
        ["--data.val_size=9"],
        ["--data.seed=1"],
        ["--data.mean=[0.5]", "--data.std=[0.2]"],
        ["--seed_everything=1"],
        ["--trainer.limit_val_batches=1"],
        ["--trainer.default_root_dir=elsewhere"],
        ["--trainer.enable_checkpointing=false"],
        ["--trainer.max_epochs=1"],
        ["--trainer.max_steps=1"],
        ["--trainer.callbacks+=lightning.pytorch.callbacks.ModelCheckpoint", "--trainer.callbacks.monitor=val/accuracy",
         "--trainer.callbacks.mode=max"],
    ],
)  # fmt: skip
def test_what_would_not_take_effect_is_refused(run: Path, words: list[str], capsys: pytest.CaptureFixture[str]) -> None:
    before = tree(run)
    assert main(["resume", str(run), "--trainer.max_epochs=4", *words]) == 1
    assert capsys.readouterr().err.strip().count("\n") == 0
    assert tree(run) == before


def test_steps_of_another_length_are_refused_where_the_schedule_counts_them(
    class_folders: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    words = ["fit", "--config", str(write_config(tmp_path, class_folders)), "--trainer.max_epochs=4"]
    run = tmp_path / "run"
    interrupt(monkeypatch, [*words, "--output", str(run)])
    before = tree(run)
    for change in (
        "--trainer.max_epochs=-1",
        "--data.batch_size=4",
        "--trainer.accumulate_grad_batches=2",
        "--trainer.limit_train_batches=2",
    ):
        assert main(["resume", str(run), change]) == 1
    assert tree(run) == before


def test_a_checkpoint_of_the_middle_of_an_epoch_is_no_place_to_go_on_from(
    class_folders: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    words = ["--config", str(write_config(tmp_path, class_folders)), "--trainer.limit_train_batches=2"]
    middle = ["--trainer.callbacks+=lightning.pytorch.callbacks.ModelCheckpoint", "--trainer.callbacks.filename=middle",
              "--trainer.callbacks.every_n_train_steps=2"]  # fmt: skip
    assert main(["fit", *words, *middle, "--output", str(tmp_path / "run")]) == 0
    checkpoint = tmp_path / "run" / "checkpoints" / "middle.ckpt"
    new = ["--output", str(tmp_path / "new"), "--ckpt_path", str(checkpoint)]
    assert main(["fit", *words, "--trainer.max_epochs=4", *new]) == 1
    assert "within an epoch" in capsys.readouterr().err
    assert not (tmp_path / "new").exists()


def test_a_rate_that_was_found_is_not_given(class_folders: Path, tmp_path: Path) -> None:
    words = [
        "--config",
        str(write_config(tmp_path, class_folders)),
        "--trainer.callbacks+=defectlab.callbacks.RateFinder",
    ]
    run = tmp_path / "run"
    assert main(["fit", *words, "--trainer.callbacks.steps=20", "--output", str(run)]) == 0
    found = read(run)["run"]["lr"]
    assert main(["resume", str(run), "--trainer.max_epochs=3", "--model.optimizer.lr=0.5"]) == 1
    assert main(["resume", str(run), "--trainer.max_epochs=3"]) == 0
    assert read(run)["run"]["lr"] == found


def test_training_that_is_rarely_validated_is_kept(class_folders: Path, tmp_path: Path) -> None:
    words = ["--config", str(write_config(tmp_path, class_folders)), "--trainer.check_val_every_n_epoch=5"]
    run = tmp_path / "run"
    assert main(["fit", *words, "--output", str(run)]) == 0
    assert read(run)["run"]["epochs"] == 2
    assert (run / "checkpoints" / "last.ckpt").is_file()
    assert [row.get("val/loss", "") for row in table(run)] == ["", ""]
    assert json.loads((run / "state.json").read_text())["state"] == "finished"
    assert yaml.safe_load((run / "config.yaml").read_text())["trainer"]["check_val_every_n_epoch"] == 5
