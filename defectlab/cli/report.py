"""`defectlab report RUN`: the report of a run, written anew."""

from defectlab.cli.arguments import CommandParser
from defectlab.report import write_report
from defectlab.runs import RunFolder


def run(words: list[str]) -> int:
    """Write report.html and its figures."""
    parser = CommandParser(
        "defectlab report", "Write report.html and its figures from metrics.json and predictions.csv."
    )
    parser.add_argument("run", help="run folder")
    print(write_report(RunFolder.open(parser.parse_args(words).run)))
    return 0
