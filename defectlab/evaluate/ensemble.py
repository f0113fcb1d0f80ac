"""Average the predictions of several runs, as a run folder of its own."""

import os
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Literal

import numpy as np
import torch
from torch import Tensor

from defectlab.engine.outcome import calibration, runs_root
from defectlab.errors import InputError
from defectlab.evaluate.comparison import correct_matrix
from defectlab.metrics.classification import evaluate_predictions
from defectlab.metrics.decisions import decide, mean_thresholds
from defectlab.metrics.line import promises, scores_of
from defectlab.metrics.novelty import joined_novelty
from defectlab.report import write_report
from defectlab.runs import (
    PredictionTable,
    RunFolder,
    aligned_tables,
    environment,
    log_test_evaluation,
    members_of,
    read_own_table,
    write_members,
    write_prediction_table,
)
from defectlab.runs.create import remove_made, stamped_folder
from defectlab.runs.ensembles import joined_fingerprint
from defectlab.runs.predictions import as_kept
from defectlab.utils.files import temporary_folder

_SMALLEST = 1e-300  # the logarithm of a probability of 0 has to be finite


def ensemble(runs: Sequence[str | os.PathLike[str]], output: str | Path | None = None) -> RunFolder:
    """Average the predictions that runs have left, evaluate them, and write a run folder; nothing is trained.

    Args:
        runs: two or more run folders, tested on the same images.
        output: a new folder; by default ensemble/<time> beside the first run's.

    Returns:
        A run folder without a network, which compare, report and predict take. Its metrics name the members and their
        accuracies in `run`; without `val` unless all were validated on the same images.

    Raises:
        InputError: runs that cannot be averaged, or an output that is there already.
    """
    members = [RunFolder.open(run, newest=False) for run in ([runs] if isinstance(runs, str | os.PathLike) else runs)]
    _check_members(members)
    if output is not None and Path(output).exists() and (not Path(output).is_dir() or any(Path(output).iterdir())):
        raise InputError(f"output {output} is there already: expected a new folder")
    accuracies = correct_matrix(members).mean(axis=1).tolist()
    tables = {"test": averaged(members, "test")}
    described = [member.read_metrics().get("data") or {} for member in members]
    hashes = list(dict.fromkeys(str(data.get("split_hash")) for data in described))
    # Of another split, one's validation images may be among those that another was trained on.
    if len(hashes) == 1 and all(member.val_predictions_csv.is_file() for member in members):
        tables["val"] = averaged(members, "val")
    logits = {part: _logits(table) for part, table in tables.items()}
    names = tables["test"].class_names
    limits = {part: table.thresholds for part, table in tables.items()}
    results = {part: evaluate_predictions(*logits[part], names, limits[part]) for part in sorted(tables, reverse=True)}
    scores = {
        part: scores_of(as_kept(table.probabilities), table.labels, names)
        for part, table in tables.items() if table.labels is not None
    }  # fmt: skip
    about = {
        "config": f"ensemble of {len(members)}",
        "members": [str(member.path.resolve()) for member in members],
        "member_accuracy": accuracies,
        "member_balanced_accuracy": [read_own_table(member).balanced_accuracy for member in members],
    }
    metrics = {
        "data": {**described[0], "split_hash": ", ".join(hashes)},
        **results,
        **calibration(results, logits, names, limits["test"]),
        **({"operating": promises(scores["val"], scores["test"])} if "val" in scores else {}),
        "environment": environment(),
    }
    root = runs_root(members[0])
    target, made = stamped_folder(root / "ensemble", "", "give output") if output is None else (Path(output), [])
    try:
        with temporary_folder(target.parent) as folder:
            written = RunFolder(folder / target.name)
            write_members(written, members)
            for part, path in (("val", written.val_predictions_csv), ("test", written.predictions_csv)):
                if part in tables:
                    t = tables[part]
                    write_prediction_table(
                        path,
                        t.files,
                        t.labels,
                        t.probabilities,
                        t.class_names,
                        checkpoint=t.checkpoint,
                        thresholds=t.thresholds,
                        novelty=t.novelty,
                    )
            accuracy = results["test"]["accuracy"]
            reads = [log_test_evaluation(root, split_hash, target.name, accuracy) for split_hash in hashes]
            written.write_metrics({**metrics, "run": {**about, "test_split_read": max(reads)}})
            write_report(written)
            if target.is_dir():  # an empty one
                target.rmdir()
            os.replace(written.path, target)
    except BaseException as error:
        remove_made(made)
        if isinstance(error, OSError):
            raise InputError(f"output {target} cannot be written ({error.strerror}): give another folder") from None
        raise
    return RunFolder(target)


def averaged(members: Sequence[RunFolder], part: Literal["val", "test"]) -> PredictionTable:
    """Compute the mean of each image's probabilities, (N, C), over runs; the class of the largest is predicted.

    The arithmetic mean, as of an ensemble of networks (Lakshminarayanan et al. 2017, section 2.4), not that of logits:
    one network that is sure of the wrong class cannot outvote the others by how sure it is.
    """
    own = {member.path: read_own_table(member, part) for member in members}
    names = own[members[0].path].class_names
    for path, table in own.items():
        if table.class_names != names:
            raise InputError(
                f"{path} knows the classes {', '.join(table.class_names)}, {members[0].path} {', '.join(names)}: expected "
                "the same in the same order"
            )
    file = {"val": "val_predictions.csv", "test": "predictions.csv"}[part]
    tables = aligned_tables({path / file: table for path, table in own.items()})
    mean = np.mean([table.probabilities for table in tables], axis=0)
    checkpoint = joined_fingerprint([member.fingerprint for member in members])
    scores = [table.novelty for table in tables if table.novelty is not None]
    novelty = joined_novelty(scores) if len(scores) == len(tables) else None
    limits = mean_thresholds(table.thresholds for table in tables)
    predicted = decide(mean, limits)
    return replace(
        tables[0], predicted=predicted, probabilities=mean, checkpoint=checkpoint, thresholds=limits, novelty=novelty
    )


def _check_members(members: list[RunFolder]) -> None:
    paths = [member.path.resolve() for member in members]
    if len(paths) < 2:
        raise InputError(f"one run is named, {paths[0]}: expected at least two" if paths else "no run is named")
    if len(set(paths)) < len(paths):
        raise InputError(f"{next(p for p in paths if paths.count(p) > 1)} is named twice: name different runs")
    for member in members:
        if inner := members_of(member):
            raise InputError(
                f"{member.path} is an ensemble itself: name its members, {', '.join(str(run.path) for run in inner)}"
            )


def _logits(table: PredictionTable) -> tuple[Tensor, Tensor]:
    """Return logits (N, C) of the probabilities, of one class their logarithms, and the labels."""
    values = torch.from_numpy(table.probabilities)
    if table.thresholds is not None:
        return values.logit(eps=1e-12), torch.tensor(table.labels)
    return values.clamp(min=_SMALLEST).log(), torch.tensor(table.labels)
