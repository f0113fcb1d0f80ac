"""`defectlab test RUN [--on DIR]`, and `validate`, or with `--config C --ckpt_path FILE` as Lightning has it."""

from defectlab.cli.arguments import take_option
from defectlab.cli.console import print_result, take_run
from defectlab.engine.evaluate import Command, evaluate_run, evaluate_words
from defectlab.utils.text import shown_path


def run(words: list[str]) -> int:
    """Print the metrics of a checkpoint on the test images, and write a run's anew."""
    return run_evaluation("test", words)


def run_evaluation(command: Command, words: list[str]) -> int:
    """Evaluate a run or a checkpoint, and print."""
    if {"-h", "--help"} & set(words) or (words and not words[0].startswith("-")):
        folder, changes = take_run(command, words, "[--on DIR] ")
        on, changes = take_option("on", changes)
        found = evaluate_run(command, folder, changes, on)
    else:
        found = evaluate_words(command, words)
    if found is None:
        return 0
    print_result(found.metrics, found.stage, found.source)
    if found.run is not None:
        print(f"written to   {shown_path(found.run.path)}")
    return 0
