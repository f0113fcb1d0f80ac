"""`defectlab test RUN`, and `validate`, or with `--config C --ckpt_path FILE` as Lightning has it."""

from typing import Literal

from defectlab.cli.console import print_result, take_run
from defectlab.engine.evaluate import evaluate, run_words, target_of
from defectlab.utils.text import shown_path


def run(words: list[str]) -> int:
    """Print the metrics of a checkpoint on the test images, and write a run's anew."""
    return run_evaluation("test", words)


def run_evaluation(command: Literal["validate", "test"], words: list[str]) -> int:
    """Evaluate a run or a checkpoint, and print."""
    folder, target = None, None
    if {"-h", "--help"} & set(words) or (words and not words[0].startswith("-")):
        folder, changes = take_run(command, words)
        words, target = run_words(folder, changes), target_of(command, folder, changes)
    found = evaluate(command, words, folder, target)
    if found is None:
        return 0
    print_result(found.metrics, found.stage, found.source)
    if found.run is not None:
        print(f"written to   {shown_path(found.run.path)}")
    return 0
