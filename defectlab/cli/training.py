"""fit, resume, validate and test."""

import logging
import os
import sys
import time
import warnings
from contextlib import suppress
from pathlib import Path
from typing import Any

import yaml
from lightning.pytorch.callbacks import ModelCheckpoint
from lightning.pytorch.strategies.launchers import _SubprocessScriptLauncher

from defectlab.cli.configs import resolve_config_arguments
from defectlab.cli.files import checkpoint_of
from defectlab.cli.outcome import print_result, write_outcome
from defectlab.cli.parser import DefectCLI
from defectlab.errors import InputError
from defectlab.runs import RunFolder, write_text
from defectlab.tasks.checkpoint import read_checkpoint

__all__ = ["run"]

_KNOWN_WARNINGS = (
    r".*isinstance\(treespec, LeafSpec\).*",  # Lightning's own affair with torch
    r".*smaller than the logging interval.*",  # curves have a point an epoch in any case
    r".*module\(s\) in eval mode at the start.*",  # a frozen backbone
    r".*does not have many workers.*",  # the loader has none and needs none
    r".*Checkpoint directory .* exists and is not empty.*",  # resume goes on in its run folder
    r".*lr_scheduler\.step\(\).*before.*optimizer\.step\(\).*",  # a step that the gradient scaler left out
)


def run(command: str, words: list[str]) -> int:
    """Run one of the four commands with the words after it."""
    _quieten()
    if command == "fit":
        words, name = resolve_config_arguments(words)
        if name is None and not {"-h", "--help"} & set(words):
            raise InputError("fit needs a config: defectlab fit --config neu_mobilenet.yaml (see defectlab configs)")
        return _fit(DefectCLI("fit", words, name=name or "run"))
    if command == "resume":
        return _resume(words)
    return _evaluate(command, words)


def _quieten() -> None:
    """Lightning's notes on devices and tips go; warnings that call for action stay."""
    for name in ("lightning.pytorch", "lightning.fabric"):
        logging.getLogger(name).setLevel(logging.WARNING)
    for text in _KNOWN_WARNINGS:
        warnings.filterwarnings("ignore", message=text)


def _take_run(command: str, words: list[str]) -> tuple[RunFolder, list[str]]:
    if not words or words[0].startswith("-"):
        print(f"usage: defectlab {command} RUN [--trainer.max_epochs N ...]\nRUN: the folder that fit left behind")
        raise SystemExit(0 if {"-h", "--help"} & set(words) else 2)
    return RunFolder.open(words[0]), words[1:]


def _resume(words: list[str]) -> int:
    run_folder, rest = _take_run("resume", words)
    arguments = ["--config", str(run_folder.config), *rest]
    if run_folder.last.is_file():
        read_checkpoint(run_folder.last)  # a damaged or foreign file is told before anything starts
        arguments += ["--ckpt_path", str(run_folder.last)]
    else:
        print(f"{run_folder.last} is not there: the run was stopped in its first epoch and begins anew")
    return _fit(DefectCLI("fit", arguments, run=run_folder.path))


def _fit(cli: DefectCLI) -> int:
    """Train, then judge the best checkpoint once on validation and once on the test images."""
    began = time.perf_counter()
    trainer, task, data = cli.trainer, cli.model, cli.datamodule
    options = cli.config_init["fit"]
    assert cli.run is not None
    run_folder = RunFolder(cli.run)
    earlier = run_folder.read_metrics() if run_folder.metrics_json.is_file() else {}
    if int(os.environ.get("LOCAL_RANK", "0")) == 0:
        # Before the run folder exists: unusable data leaves nothing behind.
        data.prepare_data()
        data.setup("fit")
        if not trainer.fast_dev_run:
            write_text(run_folder.config, cli.dump())
    try:
        trainer.fit(task, datamodule=data, ckpt_path=options.ckpt_path, weights_only=True)
    except SystemExit:  # Lightning's answer to Ctrl-C
        print(f"stopped; go on with: defectlab resume {run_folder.path}", file=sys.stderr)
        return 130
    except BaseException:
        _end_children(cli)
        raise
    if trainer.fast_dev_run:
        print("fast_dev_run: nothing was kept")
        return 0
    train_seconds = time.perf_counter() - began
    epochs = trainer.current_epoch
    best = _best_checkpoint(cli)
    trainer.validate(task, datamodule=data, ckpt_path=best, weights_only=True, verbose=False)
    trainer.test(task, datamodule=data, verbose=False)
    if not trainer.is_global_zero:
        return 0
    config = yaml.safe_load(cli.dump())
    facts = {
        "config": cli.name if cli.name != "run" else earlier.get("run", {}).get("config", cli.name),
        "seed": config["seed_everything"],
        "epochs": epochs,
        "best_epoch": read_checkpoint(Path(best))["epoch"] if best else epochs - 1,
        "parameters": sum(parameter.numel() for parameter in task.parameters()),
        "weights": config["model"]["init_args"].get("weights") or "none",
        "train_seconds": round(train_seconds, 1),
        "total_seconds": round(time.perf_counter() - began, 1),
    }
    shown = {"seed": config["seed_everything"], "model": config["model"], "data": config["data"]}
    write_outcome(run_folder, task, data, trainer, facts, shown)
    print_result(task.results["test"], "test", data.source, run_folder.path)
    return 0


def _best_checkpoint(cli: DefectCLI) -> str | None:
    """The best by validation, else the last; None tests the weights in memory."""
    callback = next((c for c in cli.trainer.callbacks if isinstance(c, ModelCheckpoint)), None)  # type: ignore[attr-defined]
    if callback is None:
        return None
    return callback.best_model_path or callback.last_model_path or None


def _end_children(cli: DefectCLI) -> None:
    """The processes that DDP started wait for this one; without it they would wait for half an hour."""
    launcher: Any = cli.trainer.strategy.launcher
    if isinstance(launcher, _SubprocessScriptLauncher):
        with suppress(ProcessLookupError):
            launcher.kill(15)


def _evaluate(command: str, words: list[str]) -> int:
    """`test RUN`, or `test --config C --ckpt_path FILE` as Lightning has it; validate likewise."""
    run_folder: RunFolder | None = None
    if words and not words[0].startswith("-"):
        run_folder, rest = _take_run(command, words)
        checkpoint = checkpoint_of(str(run_folder.path))
        words = ["--config", str(run_folder.config), "--ckpt_path", str(checkpoint), *rest]
        # Other images are another result: the run keeps the one it was made with.
        other = any(word.startswith("--data") for word in rest)
        target = RunFolder(run_folder.path / time.strftime(f"{command}-%Y%m%d-%H%M%S")) if other else run_folder
    words, _ = resolve_config_arguments(words)
    cli = DefectCLI(command, words, run=run_folder.path if run_folder else Path("runs"))
    trainer, task, data = cli.trainer, cli.model, cli.datamodule
    checkpoint_path = cli.config_init[command].ckpt_path
    if checkpoint_path is None:
        raise InputError(f"{command} needs trained weights: give a run folder, or --config and --ckpt_path")
    read_checkpoint(Path(checkpoint_path))
    try:
        if command == "validate":
            trainer.validate(task, datamodule=data, ckpt_path=checkpoint_path, weights_only=True, verbose=False)
        else:
            trainer.test(task, datamodule=data, ckpt_path=checkpoint_path, weights_only=True, verbose=False)
    except BaseException:
        _end_children(cli)
        raise
    if not trainer.is_global_zero:
        return 0
    stage = "val" if command == "validate" else "test"
    if run_folder is not None and stage == "test":
        if target != run_folder:
            write_text(target.config, cli.dump())
        write_outcome(target, task, data, trainer, {}, {})
    print_result(task.results[stage], stage, data.source, None)
    if run_folder is not None and stage == "test":
        print(f"written to   {target.path}")
    return 0
