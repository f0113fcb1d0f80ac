"""What `validate` and `test` share: the figures of a checkpoint, of a run folder or of a config's own."""

import time
from pathlib import Path
from typing import Literal

from defectlab.cli.console import print_result
from defectlab.engine.configs import resolve_config_arguments
from defectlab.engine.experiment import DefectCLI
from defectlab.engine.outcome import write_outcome
from defectlab.engine.processes import guarded
from defectlab.engine.warnings import quieten
from defectlab.errors import InputError
from defectlab.runs import RunFolder, write_text
from defectlab.runs.locate import checkpoint_of, take_run
from defectlab.tasks.checkpoint import check_fit, read_checkpoint
from defectlab.utils.text import shown_path

__all__ = ["evaluate"]


def evaluate(command: Literal["validate", "test"], words: list[str]) -> int:
    """`test RUN`, or `test --config C --ckpt_path FILE` as Lightning has it; validate likewise."""
    quieten()
    run_folder: RunFolder | None = None
    target: RunFolder | None = None
    if words and not words[0].startswith("-"):
        run_folder, changes = take_run(command, words)
        best = checkpoint_of(str(run_folder.path))
        words = ["--config", str(run_folder.config), "--ckpt_path", str(best), *changes]
        # Another checkpoint or other images give another result: the run keeps the one it was made with.
        other = run_folder.path / time.strftime(f"{command}-%Y%m%d-%H%M%S")
        target = run_folder if not any(_changes_result(word) for word in changes) else RunFolder(other)
    words, name = resolve_config_arguments(words)
    if name is None and not {"-h", "--help"} & set(words):
        raise InputError(f"{command} needs a run folder, or --config and --ckpt_path: defectlab {command} RUN")
    cli = DefectCLI(command, words, run=run_folder.path if run_folder else Path("runs"))
    trainer, task, data = cli.trainer, cli.model, cli.datamodule
    checkpoint = cli.config_init[command].ckpt_path
    if checkpoint is None:
        raise InputError(f"{command} needs trained weights: give a run folder, or --config and --ckpt_path")
    check_fit(task, read_checkpoint(Path(checkpoint)), Path(checkpoint))
    evaluator = trainer.validate if command == "validate" else trainer.test
    with guarded(trainer, "nothing was written"):
        evaluator(task, datamodule=data, ckpt_path=checkpoint, weights_only=True, verbose=False)
    if not trainer.is_global_zero:
        return 0
    stage = "val" if command == "validate" else "test"
    if target is not None and stage == "test":
        if target != run_folder:
            write_text(target.config, cli.dump())
        write_outcome(target, task, data, trainer, {}, {})
    print_result(task.results[stage], stage, data.source)
    if target is not None and stage == "test":
        print(f"written to   {shown_path(target.path)}")
    return 0


def _changes_result(word: str) -> bool:
    return word.startswith(
        ("--data", "--model", "--ckpt_path", "--config", "-c", "--trainer.limit", "--trainer.precision")
    )
