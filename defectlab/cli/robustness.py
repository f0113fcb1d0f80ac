"""`defectlab robustness RUN`: accuracy on test images that were made worse, step by step."""

from rich.console import Console

from defectlab.cli.console import take_run
from defectlab.cli.tables import new_table
from defectlab.evaluate.robustness import AECLBP, Robustness, robustness
from defectlab.utils.text import shown_path


def run(words: list[str]) -> int:
    """Write robustness.csv and robustness.png into the run folder."""
    folder, changes = take_run("robustness", words)
    found = robustness(folder, progress=True, overrides=changes)
    found.write(folder)
    _print(found)
    print(f"written to   {shown_path(folder.path / 'robustness.png')}")
    return 0


def _print(found: Robustness) -> None:
    rows = found.rows
    columns = ["made worse by", "level", "accuracy", "95 % interval (Wilson)", *["AECLBP"] * found.published]
    shown = new_table(f"accuracy on {rows[0].n} test images, clean {rows[0].accuracy:.2%}", columns)
    for row in rows[1:]:
        cells = [f"{row.level:g} {row.unit}", f"{row.accuracy:.2%}", f"{row.low:.1%} to {row.high:.1%}"]
        known = AECLBP.get(row.level or 0.0) if row.corruption == "noise, SNR of power" else None
        shown.add_row(row.corruption, *cells, *([f"{known:.2f}%" if known else ""] if found.published else []))
    Console().print(shown)
