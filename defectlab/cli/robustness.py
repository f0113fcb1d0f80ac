"""`defectlab robustness RUN`: accuracy on test images that were made worse, step by step, and what mends it."""

import yaml
from rich.console import Console

from defectlab.cli.console import take_run
from defectlab.cli.tables import new_table
from defectlab.evaluate.harden import Hardening, harden
from defectlab.evaluate.robustness import AECLBP, Robustness, robustness
from defectlab.utils.text import listed, shown_path


def run(words: list[str]) -> int:
    """Write robustness.csv and robustness.png into the run folder; with --harden train it anew, and compare."""
    folder, changes = take_run("robustness", [word for word in words if word != "--harden"], "[--harden] ")
    if "--harden" in words:
        _print_hardening(harden(folder, changes, progress=True))
        return 0
    found = robustness(folder, progress=True, overrides=changes)
    found.write(folder)
    _print(found)
    print(f"written to   {shown_path(folder.path / 'robustness.png')}")
    return 0


def _print(found: Robustness) -> None:
    rows = found.rows
    columns = [
        "made worse by",
        "level",
        "accuracy",
        "95 % interval (Wilson)",
        "balanced",
        *["AECLBP"] * found.published,
    ]
    shown = new_table(
        f"accuracy on {rows[0].n} test images, clean {rows[0].accuracy:.2%} (balanced {rows[0].balanced_accuracy:.2%})",
        columns,
    )
    for row in rows[1:]:
        cells = [f"{row.level:g} {row.unit}", f"{row.accuracy:.2%}", f"{row.low:.1%} to {row.high:.1%}"]
        cells.append(f"{row.balanced_accuracy:.2%}")
        known = AECLBP.get(row.level or 0.0) if row.corruption == "noise, SNR of power" else None
        shown.add_row(row.corruption, *cells, *([f"{known:.2f}%" if known else ""] if found.published else []))
    Console().print(shown)


def _print_hardening(found: Hardening) -> None:
    if found.run is None:
        print("nothing broke: no corruption costs more than the noise of the validation images; nothing was trained")
        return
    found.write(found.run)
    columns = ("made worse by", "level", "points lost, validation", "before (balanced)", "after (balanced)", "p (Holm)")
    shown = new_table(f"accuracy on {found.rows[0].n} test images, before and after", columns)
    for row in found.comparison:
        drop, low, high = (f"{100 * value:.1f}" for value in (row.drop, row.drop_low, row.drop_high))
        cells = [f"{row.level:g} {row.unit}", f"{drop} ({low} to {high})"] if row.level is not None else ["", ""]
        pairs = ((row.accuracy, row.balanced_accuracy), (row.after, row.after_balanced))
        cells += [f"{accuracy:.2%} ({balanced:.2%})" for accuracy, balanced in pairs]
        shown.add_row(row.corruption, *cells, f"{row.p_holm:.3f}")
    Console().print(shown)
    print(f"broke        {listed([row.corruption for row in found.broken], 99)}")
    print(f"not mended   {listed(found.not_mended, 99) or 'none of it'}")
    print(f"augmentation {yaml.safe_dump(found.augmentation, default_flow_style=True, width=10_000).strip()}")
    print(f"run folder   {shown_path(found.run.path)}\nwritten to   {shown_path(found.run.path / 'harden.png')}")
