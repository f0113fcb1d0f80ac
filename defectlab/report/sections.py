"""The sections of report.html, from the figures of metrics.json and the rows of predictions.csv."""

from __future__ import annotations

from typing import Any

import numpy as np
import numpy.typing as npt

from defectlab.metrics.classification import accuracy_interval
from defectlab.report.markup import Cell, facts, percent, table, text
from defectlab.runs import PredictionTable

WRONG_ROWS, UNSURE_ROWS, CONFUSION_ROWS, SKIPPED_FILES = 100, 12, 10, 20  # more would not be read
SPLITS = {"test": "test", "val": "validation"}


def banners(split: str, synthetic: bool) -> str:
    banners = ""
    if synthetic:
        banners += (
            "<div class=banner><b>Synthetic data: made by the generator, not real steel.</b> "
            "No figure on this page says how the model does on real defects.</div>"
        )
    if split == "val":
        banners += (
            "<div class=banner><b>Not tested yet.</b> These are the figures of validation, which also chose "
            "the checkpoint, so they flatter it.</div>"
        )
    return banners


def headline(judged: dict[str, Any], kind: str, seed: int | None) -> str:
    right, n = _right(judged), judged["n"]
    low, high = accuracy_interval(right, n)
    present = {name: m for name, m in judged["per_class"].items() if m["support"]}
    worst, figure = min(present.items(), key=lambda item: item[1]["accuracy"])
    if figure["accuracy"] == 1:
        worst, detail = "none", "every image of every class is right"
    else:
        found = round(figure["accuracy"] * figure["support"])
        detail = f"{percent(figure['accuracy'])}: {found:,} of {figure['support']:,} recognised"
        level = sum(m["accuracy"] == figure["accuracy"] for m in present.values()) - 1
        detail += f"; level with {level} other{'s' if level > 1 else ''}" if level else ""
    cards = (
        ("balanced accuracy", percent(judged["macro_recall"]), "mean recall of the classes"),
        ("macro F1", percent(judged["macro_f1"]), "the mean over classes"),
        ("calibration error", percent(judged["ece"]), "ECE in 15 bins, 0 is best"),
        ("worst class", worst, detail),
    )
    boxes = "".join(
        f"<div class=card><span>{name}</span><b>{text(value)}</b><small>{text(note)}</small></div>"
        for name, value, note in cards
    )
    once = "" if seed is None else f"One run, seed {text(seed)}. "
    majority = max(m["support"] for m in present.values()) / n
    below = (
        f"<p><b>Below the {percent(majority)} of always predicting the most frequent class:</b> this network trades accuracy "
        "for the rare classes, or has not learned. Balanced accuracy tells which.</p>"
        if right / n < majority
        else ""
    )
    return (
        f"<div class=headline><div class=accuracy><span>{kind} accuracy</span>"
        f"<strong>{percent(right / n)}</strong>"
        f"<p><b>95 % interval {100 * low:.1f} to {100 * high:.1f} %</b> (Wilson)<br>"
        f"{right:,} of n = {n:,} {kind} images</p>{below}"
        f"<p class=quiet>{once}The interval is that of drawing these images; another seed or split "
        f"adds to it.</p></div><div class=cards>{boxes}</div></div>"
    )


def splits(metrics: dict[str, Any]) -> str:
    rows: list[list[Cell]] = []
    for key, name in SPLITS.items():
        if metrics.get(key):
            m = metrics[key]
            low, high = accuracy_interval(_right(m), m["n"])
            losses = ["–" if m.get(loss) is None else f"{m[loss]:.4f}" for loss in ("loss", "training_loss")]
            span = f"{100 * low:.1f} – {100 * high:.1f} %"
            rows.append([name, m["n"], m["accuracy"], span, m["macro_recall"], m["macro_f1"], m["ece"], *losses])
    columns = ["split", "n", "accuracy (micro)", "95 % interval", "balanced accuracy", "macro F1", "ECE"]
    columns += ["cross-entropy", "training loss"]
    if len(rows) == 1:
        return table(columns, rows)
    return table(columns, rows) + "<p class=quiet>Validation chose the checkpoint; the test did not.</p>"


def confusions(judged: dict[str, Any]) -> str:
    names, counts = list(judged["per_class"]), np.array(judged["confusion_matrix"])
    wrong = counts * (1 - np.eye(len(names), dtype=counts.dtype))
    order = np.argsort(-wrong, axis=None, kind="stable")[:CONFUSION_ROWS]
    pairs = [divmod(int(cell), len(names)) for cell in order]
    rows: list[list[Cell]] = [
        [names[true], names[taken], int(wrong[true, taken]), float(wrong[true, taken] / counts[true].sum())]
        for true, taken in pairs
        if wrong[true, taken]
    ]
    if not rows:
        return "<p>No image is misclassified.</p>"
    columns = ["true class", "taken for", "images", "share of the true class"]
    return f"<h3>Most frequent confusions</h3>{table(columns, rows, text_columns=2)}"


def classes(judged: dict[str, Any]) -> str:
    rows = [[name, m["support"], m["accuracy"], m["precision"], m["f1"]] for name, m in judged["per_class"].items()]
    note = (
        "<p class=quiet>The accuracy of a class is its recall: the share of its images that were recognised. "
        "A dash stands where there is nothing to divide by.</p>"
    )
    return table(["class", "images", "accuracy = recall", "precision", "F1"], rows, bars=(2, 3, 4)) + note


def misclassified(predictions: PredictionTable, labels: npt.NDArray[np.int64], sheet: str) -> tuple[str, str]:
    """The sections of the wrong and of the least certain images."""
    names, n = predictions.class_names, len(predictions.files)
    confidence = predictions.probabilities.max(axis=1)
    right = predictions.predicted == labels

    def row(index: int, *verdict: Cell) -> list[Cell]:
        shares = predictions.probabilities[index]
        taken, second = (int(k) for k in np.argsort(-shares, kind="stable")[:2])
        other = names[second] if right[index] else names[labels[index]]
        share = float(shares[second if right[index] else labels[index]])
        texts = (predictions.files[index], names[labels[index]], names[taken], *verdict, other)
        return [*texts, float(shares[taken]), share]

    columns = ["file", "true class", "taken for", "against", "probability", "of the other"]
    wrong = np.flatnonzero(~right)
    wrong = wrong[np.argsort(-confidence[wrong], kind="stable")]
    mistakes = "<p>None.</p>"
    if len(wrong):
        mistakes = (
            f"<p>{len(wrong):,} of {n:,} test images, the surest first: look there for wrong labels and "
            f"blind spots.</p>{sheet}"
            + table(columns, [row(int(i)) for i in wrong[:WRONG_ROWS]], text_columns=4, bars=(4, 5))
        )
        if len(wrong) > WRONG_ROWS:
            mistakes += f"<p class=quiet>The first {WRONG_ROWS}; predictions.csv has them all.</p>"

    unsure = np.argsort(confidence, kind="stable")[:UNSURE_ROWS]
    verdicts = [row(int(i), "right" if right[i] else "wrong") for i in unsure]
    doubts = "<p>The lowest top probability first, whether right or wrong.</p>"
    columns = [*columns[:3], "verdict", *columns[3:]]
    return mistakes, doubts + table(columns, verdicts, text_columns=5, bars=(5, 6))


def calibration(judged: dict[str, Any], scaled: dict[str, Any] | None) -> str:
    """With a temperature fitted on validation, if there is one."""
    known = (
        "<p>Of the images that get 90 %, are nine in ten right? Over 15 bins of confidence the mean distance "
        f"is {percent(judged['ece'])} (ECE). Bars below the diagonal are over-confidence.</p>"
    )
    if not scaled:
        return known
    return (
        f"{known}<p>Divided by a temperature of {scaled['temperature']:.2f}, which fits the validation images best, the "
        f"logits give an ECE of {percent(scaled['ece'])}; which class is predicted stays the same.</p>"
    )


def data(data: dict[str, Any]) -> str:
    keys = ("source", "root", "split_hash", "image_size", "channels", "mean", "std")
    skipped = [str(reason) for reason in data.get("skipped") or []]
    more = ["…"] if len(skipped) > SKIPPED_FILES else []
    body = facts(
        [
            *((key.replace("_", " "), data.get(key)) for key in keys),
            (
                "skipped files",
                f"{len(skipped):,}: " + "; ".join(skipped[:SKIPPED_FILES] + more) if skipped else "",
            ),
        ]
    )
    counts: dict[str, dict[str, int]] = data.get("counts") or {}
    if counts:
        names = list(dict.fromkeys(name for split in counts.values() for name in split))
        rows: list[list[Cell]] = [[name, *(split.get(name, 0) for split in counts.values())] for name in names]
        rows.append(["all classes", *(sum(split.values()) for split in counts.values())])
        body += "<h3>Images</h3>" + table(["class", *counts], rows)
    return body


def _right(judged: dict[str, Any]) -> int:
    return sum(row[index] for index, row in enumerate(judged["confusion_matrix"]))
