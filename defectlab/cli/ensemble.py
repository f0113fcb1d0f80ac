"""`defectlab ensemble RUN RUN...`: the mean of several runs' probabilities, as a run folder of its own."""

import shutil
from pathlib import Path

import torch
from torch import Tensor

from defectlab.cli.arguments import CommandParser
from defectlab.cli.console import print_result
from defectlab.engine.experiment import new_run_folder
from defectlab.engine.outcome import calibration, runs_root
from defectlab.errors import InputError
from defectlab.evaluate.comparison import correct_matrix
from defectlab.evaluate.ensemble import averaged
from defectlab.metrics.classification import evaluate_predictions
from defectlab.report import write_report
from defectlab.runs import (
    PredictionTable,
    RunFolder,
    environment,
    log_test_evaluation,
    members_of,
    write_members,
    write_prediction_table,
)
from defectlab.utils.text import shown_path

__all__ = ["run"]

_SMALLEST = 1e-7  # a probability that is 0 in a table was below 5e-7: its logarithm has to be finite


def run(words: list[str]) -> int:
    """Average the predictions that the runs have left, judge them, and write a run folder; nothing is trained."""
    parser = CommandParser(
        "defectlab ensemble",
        "The mean of the probabilities of runs that were judged on the same images, as a run folder that compare, report "
        "and predict take.",
    )
    parser.add_argument("runs", nargs="+", help="two or more run folders")
    parser.add_argument("--output", type=Path, help="a new folder (default: ensemble/<time> beside the first run's)")
    given = parser.parse_args(words)
    members = [RunFolder.open(name) for name in given.runs]
    _check_members(members)
    if (
        given.output is not None
        and given.output.exists()
        and (not given.output.is_dir() or any(given.output.iterdir()))
    ):
        raise InputError(f"--output {given.output} is there already: expected a new folder")
    accuracies = correct_matrix(members).mean(axis=1).tolist()
    tables = {"test": averaged([member.predictions_csv for member in members])}
    described = [member.read_metrics().get("data") or {} for member in members]
    hashes = list(dict.fromkeys(str(data.get("split_hash")) for data in described))
    # Of another split, one's validation images may be among those that another was trained on.
    if len(hashes) == 1 and all(member.val_predictions_csv.is_file() for member in members):
        tables["val"] = averaged([member.val_predictions_csv for member in members])
    logits = {part: _logits(table) for part, table in tables.items()}
    names = tables["test"].class_names
    results = {part: evaluate_predictions(*logits[part], names) for part in sorted(tables, reverse=True)}
    about = {
        "config": f"ensemble of {len(members)}",
        "members": [str(member.path.resolve()) for member in members],
        "member_accuracy": accuracies,
    }
    metrics = {
        "data": {**described[0], "split_hash": ", ".join(hashes)},
        **results,
        **calibration(results, logits, names),
        "environment": environment(),
        "run": about,
    }
    root = runs_root(members[0])
    folder = given.output or new_run_folder(root, "ensemble")[0]
    ensemble = RunFolder(folder)
    try:
        write_members(ensemble, members)
        for part, path in (("val", ensemble.val_predictions_csv), ("test", ensemble.predictions_csv)):
            if part in tables:
                table = tables[part]
                write_prediction_table(path, table.files, table.labels, table.probabilities, table.class_names)
        reads = [
            log_test_evaluation(root, split_hash, folder.name, results["test"]["accuracy"]) for split_hash in hashes
        ]
        ensemble.write_metrics({**metrics, "run": {**about, "test_split_read": max(reads)}})
        write_report(ensemble)
    except BaseException:
        shutil.rmtree(folder, ignore_errors=True)
        raise
    print_result(results["test"], "test", str(described[0].get("source")))
    for member, accuracy in zip(members, accuracies, strict=True):
        print(f"member       {accuracy:.2%}   {shown_path(member.path)}")
    if "val" not in tables:
        print("validation   left out: the members were not all validated on the same images")
    print(f"run folder   {shown_path(folder)}")
    return 0


def _check_members(members: list[RunFolder]) -> None:
    paths = [member.path.resolve() for member in members]
    if len(paths) < 2:
        raise InputError(f"one run is named, {paths[0]}: expected at least two")
    if len(set(paths)) < len(paths):
        raise InputError(f"{next(p for p in paths if paths.count(p) > 1)} is named twice: name different runs")
    for member in members:
        if inner := members_of(member):
            raise InputError(
                f"{member.path} is an ensemble itself: name its members, {', '.join(str(run.path) for run in inner)}"
            )


def _logits(table: PredictionTable) -> tuple[Tensor, Tensor]:
    """Logarithms of the probabilities (N, C), which are logits too, and the labels (N,)."""
    return torch.from_numpy(table.probabilities).clamp(min=_SMALLEST).log(), torch.tensor(table.labels)
