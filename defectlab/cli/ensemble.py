"""`defectlab ensemble RUN RUN...`: the mean of several runs' probabilities, as a run folder of its own."""

from pathlib import Path

from defectlab.cli.arguments import CommandParser
from defectlab.cli.console import print_result
from defectlab.evaluate.ensemble import ensemble
from defectlab.utils.text import shown_path


def run(words: list[str]) -> int:
    """Print what the ensemble comes to, beside its members."""
    parser = CommandParser(
        "defectlab ensemble",
        "The mean of the probabilities of runs that were evaluated on the same images, as a run folder that compare, report "
        "and predict take.",
    )
    parser.add_argument("runs", nargs="+", help="two or more run folders")
    parser.add_argument("--output", type=Path, help="a new folder (default: ensemble/<time> beside the first run's)")
    given = parser.parse_args(words)
    result = ensemble(given.runs, given.output)
    metrics = result.read_metrics()
    print_result(metrics["test"], "test", str(metrics["data"].get("source")))
    about = metrics["run"]
    columns = (about["members"], about["member_accuracy"], about["member_balanced_accuracy"])
    for member, accuracy, balanced in zip(*columns, strict=True):
        print(f"member       {accuracy:.2%} (balanced {balanced:.2%})   {shown_path(Path(member))}")
    if "val" not in metrics:
        print("validation   left out: the members were not all validated on the same images")
    print(f"run folder   {shown_path(result.path)}")
    return 0
