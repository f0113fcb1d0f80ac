"""`defectlab robustness RUN`: accuracy on test images that were made worse, step by step."""

from rich.console import Console
from rich.table import Table
from torch import Tensor

from defectlab.data.synthesis.strip import CLASS_NAMES
from defectlab.engine.restore import restore
from defectlab.engine.warnings import quieten
from defectlab.evaluate.corruptions import CORRUPTIONS
from defectlab.evaluate.robustness import AECLBP, Row, curves, measure
from defectlab.figures.style import save_png
from defectlab.runs import csv_text, write_text
from defectlab.runs.locate import take_run
from defectlab.utils.progress import progress_bar
from defectlab.utils.text import shown_path

__all__ = ["run"]


def run(words: list[str]) -> int:
    """Write robustness.csv and robustness.png into the run folder."""
    quieten()
    run_folder, changes = take_run("robustness", words)
    restored = restore(run_folder, changes)
    restored.data.check_test_part()
    task, card, data, device = restored.task, restored.card, restored.data, restored.device
    images, labels = data.pixels("test").to(device), data.labels("test")

    def classify(batch: Tensor) -> Tensor:
        logits: Tensor = task.predict_logits(card.normalise(batch))
        return logits.argmax(dim=1)

    steps = 1 + sum(len(corruption.levels) for corruption in CORRUPTIONS)
    with progress_bar("making images worse", steps) as advance:
        rows = measure(classify, images, labels, advance)
    write_text(run_folder.path / "robustness.csv", csv_text(Row, rows))
    published = tuple(data.class_names) == CLASS_NAMES and data.source == "real"
    save_png(curves(rows, published), run_folder.path / "robustness.png", data.source == "synthetic")
    _print(rows, published)
    print(f"written to   {shown_path(run_folder.path / 'robustness.png')}")
    return 0


def _print(rows: list[Row], published: bool) -> None:
    title = f"accuracy on {rows[0].n} test images, clean {rows[0].accuracy:.2%}"
    shown = Table(title=title, title_justify="left")
    for name in ("made worse by", "level", "accuracy", "95 % interval (Wilson)"):
        shown.add_column(name, justify="left" if name == "made worse by" else "right")
    if published:
        shown.add_column("AECLBP", justify="right")
    for row in rows[1:]:
        cells = [f"{row.level:g} {row.unit}", f"{row.accuracy:.2%}", f"{row.low:.1%} to {row.high:.1%}"]
        known = AECLBP.get(row.level or 0.0) if row.corruption == "noise, SNR of power" else None
        shown.add_row(row.corruption, *cells, *([f"{known:.2f}%" if known else ""] if published else []))
    Console().print(shown)
