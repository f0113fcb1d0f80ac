"""Read the RUN argument, and print results and run folders."""

from rich.console import Console
from rich.markup import escape

from defectlab.cli.tables import new_table
from defectlab.errors import InputError
from defectlab.metrics.classification import SplitMetrics, accuracy_interval
from defectlab.report import NO_TEST_PART
from defectlab.runs import RunFolder
from defectlab.runs.locate import open_trained_run
from defectlab.runs.metrics import count_correct
from defectlab.utils.progress import is_first_process
from defectlab.utils.text import shown_path


def take_run(command: str, words: list[str], more: str = "") -> tuple[RunFolder, list[str]]:
    """Return the run folder that the first word names, and the words after it; print the usage where it is asked for."""
    usage = f"defectlab {command} RUN {more}[--trainer.max_epochs N ...]"
    if {"-h", "--help"} & set(words):
        print(f"usage: {usage}\n\nRUN is the folder that fit left behind; defectlab fit --help lists the options.")
        raise SystemExit(0)
    if not words or words[0].startswith("-"):
        raise InputError(f"{command} needs a run folder: {usage}")
    return open_trained_run(words[0]), words[1:]


def print_result(result: SplitMetrics, stage: str, source: str) -> None:
    """Print the metrics of each class, then accuracy, macro F1 and the worst class."""
    console = Console()
    hits = count_correct(result)
    low, high = accuracy_interval(hits, result["n"])
    synthetic = " on SYNTHETIC images" if source == "synthetic" else ""
    title = f"{stage}: {hits} of {result['n']} images right{synthetic}"
    table = new_table(title, ("class", "images", "accuracy", "precision", "F1"))
    rows = result["per_class"].items()
    shown = [(name, row) for name, row in rows if row["support"]]
    worst, row = min(shown, key=lambda item: (item[1]["accuracy"], item[1]["f1"]))
    worst_class = f"{worst}, {row['accuracy']:.2%}" if row["accuracy"] < 1 else "none: every image is right"
    if len(shown) > 30:
        shown = sorted(shown, key=lambda item: item[1]["accuracy"])[:30]
        table.caption = f"the 30 worst of {len(rows)} classes"
    for name, row in shown:
        figures = (
            f"{row[key]:.2%}" if row[key] is not None and row[key] == row[key] else "–"
            for key in ("accuracy", "precision", "f1")
        )
        table.add_row(
            escape(name), str(row["support"]), *figures, style="bold" if name == worst and row["accuracy"] < 1 else None
        )
    console.print(table)
    console.print(
        f"accuracy     {result['accuracy']:.2%}   (95 % interval {low:.1%} to {high:.1%}, Wilson, n = {result['n']})\n"
        f"balanced     {result['balanced_accuracy']:.2%}   (mean recall of the classes)\n"
        f"macro F1     {result['macro_f1']:.2%}\nECE          {result['ece']:.2%}\n"
        f"worst class  {worst_class}",
        highlight=False, markup=False,
    )  # fmt: skip
    if result["accuracy"] < result["majority_share"]:
        console.print(
            f"note: always predicting the most frequent class would be right in {result['majority_share']:.2%}: "
            "this network trades accuracy for the rare classes, or has not learned; see balanced accuracy",
            highlight=False, markup=False,
        )  # fmt: skip


def print_run(run: RunFolder | None) -> None:
    """Print what a finished fit came to; nothing in a process that writes nothing."""
    if run is None:
        if is_first_process():
            print("fast_dev_run: nothing was kept")
        return
    metrics = run.read_metrics()
    stage = "test" if "test" in metrics else "val"
    print_result(metrics[stage], stage, metrics["data"]["source"])
    facts = metrics.get("run") or {}
    if facts.get("best_epoch") is not None:
        print(f"best epoch   {facts['best_epoch'] + 1} of {facts['epochs']}")
    if stage == "val":
        print(f"No test part. {NO_TEST_PART}")
    # No rich console: lines that are for copying must not be wrapped.
    print(f"run folder   {shown_path(run.path)}\nTensorBoard  tensorboard --logdir {shown_path(run.path)}")
