"""Compute the values of report.html from metrics.json and predictions.csv."""

import math
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt

from defectlab.metrics.classification import accuracy_interval, confident_mistakes
from defectlab.metrics.decisions import Labels, label_texts
from defectlab.metrics.line import good_class
from defectlab.metrics.multilabel import mean_average_precision_interval
from defectlab.metrics.novelty import novelty_p_values
from defectlab.metrics.operating import auroc_interval, average_precision_interval, images_for_bound
from defectlab.report.render import Cell, Table, percentage
from defectlab.runs import PredictionTable
from defectlab.runs.metrics import count_correct

OPERATING_ROWS = 8
WRONG_ROWS, UNSURE_ROWS, CONFUSION_ROWS, SKIPPED_FILES = 100, 12, 10, 20  # more would not be read
SPLITS = {"test": "test", "val": "validation"}


@dataclass(frozen=True, kw_only=True)
class Headline:
    """Accuracy with its 95 % Wilson interval, that of the most frequent class, and cards of name, value and note."""

    right: int
    n: int
    accuracy: float
    low: float
    high: float
    majority: float
    cards: list[tuple[str, str, str]]


@dataclass(frozen=True)
class Images:
    """The wrong and the least certain images, of how many mistakes in all, and the file that holds every row."""

    mistakes: int
    wrong: Table
    unsure: Table
    file: str


def headline(result: dict[str, Any], predictions: PredictionTable | None = None) -> Headline:
    """Compute the accuracy with its interval, and the cards; of a multi-label task the mean average precision has one, too."""
    right, n = count_correct(result), result["n"]
    low, high = accuracy_interval(right, n)
    present = {name: m for name, m in result["per_class"].items() if m["support"]}
    worst, figure = min(present.items(), key=lambda item: item[1]["accuracy"])
    if figure["accuracy"] == 1:
        worst, detail = "none", "every image of every class is right"
    else:
        found = round(figure["accuracy"] * figure["support"])
        detail = f"{percentage(figure['accuracy'])}: {found:,} of {figure['support']:,} recognised"
        level = sum(m["accuracy"] == figure["accuracy"] for m in present.values()) - 1
        detail += f"; level with {level} other{'s' if level > 1 else ''}" if level else ""
    cards = [
        ("micro F1", percentage(result["micro_f1"]), "over all images and classes")
        if "micro_f1" in result
        else ("balanced accuracy", percentage(result["macro_recall"]), "mean recall of the classes"),
        ("macro F1", percentage(result["macro_f1"]), "the mean over classes"),
        ("calibration error", percentage(result["ece"]), "ECE in 15 bins, 0 is best"),
        ("worst class", worst, detail),
    ]
    if predictions is not None and predictions.thresholds is not None and result.get("average_precision") is not None:
        low_map, high_map = mean_average_precision_interval(predictions.probabilities, predictions.truth)
        span = f"95 % of bootstrap samples: {100 * low_map:.1f} to {100 * high_map:.1f}"
        cards.insert(0, ("mean average precision", percentage(result["average_precision"]), span))
    majority = result.get("majority_share") or max(m["support"] for m in present.values()) / n
    return Headline(right=right, n=n, accuracy=right / n, low=low, high=high, majority=majority, cards=cards)


def results(metrics: dict[str, Any]) -> Table:
    """Tabulate the metrics, a row a split."""
    rows: list[list[Cell]] = []
    for key, name in SPLITS.items():
        if metrics.get(key):
            m = metrics[key]
            low, high = accuracy_interval(count_correct(m), m["n"])
            losses = ["–" if m.get(loss) is None else f"{m[loss]:.4f}" for loss in ("loss", "training_loss")]
            span = f"{100 * low:.1f} – {100 * high:.1f} %"
            rows.append([name, m["n"], m["accuracy"], span, m["macro_recall"], m["macro_f1"], m["ece"], *losses])
    columns = ["split", "n", "accuracy (micro)", "95 % interval", "balanced accuracy", "macro F1", "ECE"]
    return Table([*columns, "cross-entropy", "training loss"], rows)


def confusions(result: dict[str, Any]) -> Table:
    """Tabulate the most frequent confusions; no row if there is none."""
    names, counts = list(result["per_class"]), np.array(result["confusion_matrix"])
    wrong = counts * (1 - np.eye(len(names), dtype=counts.dtype))
    order = np.argsort(-wrong, axis=None, kind="stable")[:CONFUSION_ROWS]
    supports = [m["support"] for m in result["per_class"].values()]
    rows: list[list[Cell]] = [
        [names[true], names[taken], int(wrong[true, taken]), float(wrong[true, taken] / supports[true])]
        for true, taken in (divmod(int(cell), len(names)) for cell in order)
        if wrong[true, taken]
    ]
    taken = "taken for, too" if "micro_f1" in result else "taken for"
    return Table(["true class", taken, "images", "share of the true class"], rows, text_columns=2)


def classes(result: dict[str, Any]) -> Table:
    """Tabulate the metrics of each class."""
    rows = [[name, m["support"], m["accuracy"], m["precision"], m["f1"]] for name, m in result["per_class"].items()]
    return Table(["class", "images", "accuracy = recall", "precision", "F1"], rows, bars=(2, 3, 4))


def ranking(result: dict[str, Any]) -> Table | None:
    """Tabulate how well each class is ranked above all others, with 95 % intervals; None in a run that has no such metrics."""

    def cell(value: float, interval: tuple[float, float]) -> str:
        return f"{100 * value:.2f} ({100 * interval[0]:.1f} – {100 * interval[1]:.1f})"

    rows: list[list[Cell]] = []
    for name, m in result["per_class"].items():
        if m.get("auroc") is not None and math.isfinite(m["auroc"]):
            positives, recall = m["support"], m["recall_at_1_percent"]
            area, precision = m["auroc"], m["average_precision"]
            rows.append([
                name, positives, cell(area, auroc_interval(area, positives, result["n"] - positives)),
                cell(precision, average_precision_interval(precision, positives)),
                cell(recall, accuracy_interval(round(recall * positives), positives)),
            ])  # fmt: skip
    columns = ["class, against all others", "images", "AUROC", "average precision", "recall at 1 % false alarms"]
    return Table(columns, rows) if rows else None


def operating(metrics: dict[str, Any]) -> Table | None:
    """Tabulate the thresholds that are chosen on validation and what they do on the test images; None in an older run.

    Of more than `OPERATING_ROWS` classes those that are ranked worst on validation.
    """
    found, per_class = metrics.get("operating") or {}, (metrics.get("val") or {}).get("per_class", {})
    area = {name: m["auroc"] for name, m in per_class.items() if m.get("auroc") is not None}
    names = sorted(found, key=lambda name: area.get(name, -1.0))[:OPERATING_ROWS]
    rows: list[list[Cell]] = []
    passing = good_class(list(found)) if len(found) == 2 else None  # what is said of the other says all
    for name in (name for name in found if name in names and name != passing):
        for one in found[name]:
            allowed = one["promise"] == "false_alarms"
            asked = f"false alarms ≤ {one['rate']:.0%}" if allowed else f"recall ≥ {one['rate']:.0%}"
            about = "of others" if allowed else "of it"
            least = images_for_bound(one["rate"] if allowed else 1 - one["rate"])
            cells: list[Cell] = [f"validation has {one['n']} images {about}, and it takes {least}"]
            cells += ["–"] * 4
            if one["threshold"] is not None:
                cells[0], test = f"{one['threshold']:.4f}", one["test"]
                if test is not None:
                    for place, rate, span in (
                        (1, "recall", "recall_interval"),
                        (2, "false_alarm_rate", "false_alarm_interval"),
                    ):
                        low, high = (100 * bound for bound in test[span])
                        cells[place] = f"{100 * test[rate]:.1f} ({low:.1f} – {high:.1f})"
                    cells[3:] = [f"{test[rate]:.1f}" for rate in ("escapes", "false_rejects")]
            rows.append([name, asked, *cells])
    columns = ["class to flag", "promise", "threshold", "recall, %", "false alarms, %", "escapes", "false rejects"]
    return Table(columns, rows, text_columns=3) if rows else None


def images(predictions: PredictionTable, labels: Labels, file: str) -> Images:
    """Tabulate the most confident mistakes and the least certain images."""
    names = predictions.class_names
    confidence, right = predictions.confidence, predictions.right
    own, called = (label_texts(one, names, "none") for one in (labels, predictions.predicted))

    def row(index: int, *verdict: Cell) -> list[Cell]:
        if predictions.thresholds is not None:
            return [
                predictions.files[index],
                own[index],
                called[index],
                *verdict,
                float(confidence[index]),
            ]
        probabilities = predictions.probabilities[index]
        taken, second = (int(k) for k in np.argsort(-probabilities, kind="stable")[:2])
        other = second if right[index] else int(labels[index])
        texts = (predictions.files[index], own[index], names[taken], *verdict, names[other])
        return [*texts, float(probabilities[taken]), float(probabilities[other])]

    columns, texts = ["file", "true class", "taken for", "against", "probability", "of the other"], 4
    if predictions.thresholds is not None:
        columns, texts = ["file", "true classes", "taken for", "probability of just these"], 3
    bars = tuple(range(texts, len(columns)))
    wrong = confident_mistakes(confidence, predictions.predicted, labels)
    unsure = np.argsort(confidence, kind="stable")[:UNSURE_ROWS]
    verdicts = [row(int(i), "right" if right[i] else "wrong") for i in unsure]
    return Images(
        len(wrong),
        Table(columns, [row(int(i)) for i in wrong[:WRONG_ROWS]], text_columns=texts, bars=bars),
        Table(
            [*columns[:3], "verdict", *columns[3:]], verdicts, text_columns=texts + 1, bars=tuple(b + 1 for b in bars)
        ),
        file,
    )


def novelty(predictions: PredictionTable, known: npt.NDArray[np.float32] | None) -> Table | None:
    """Tabulate the strangest images, with p-values where validation images are `known`; None without scores."""
    if predictions.novelty is None:
        return None
    scores, right = predictions.novelty, None if predictions.labels is None else predictions.right
    p_values = None if known is None or not len(known) else novelty_p_values(scores, known)
    taken = label_texts(predictions.predicted, predictions.class_names, "none")
    rows: list[list[Cell]] = []
    for index in np.argsort(-scores, kind="stable")[:UNSURE_ROWS].tolist():
        verdict = "–" if right is None else "right" if right[index] else "wrong"
        rarity = "–" if p_values is None else f"{p_values[index]:.4f}"
        rows.append([predictions.files[index], taken[index], verdict, f"{scores[index]:.3g}", rarity])
    return Table(["file", "taken for", "verdict", "novelty", "p-value"], rows, text_columns=3)


def data_facts(data: dict[str, Any]) -> list[tuple[str, Any]]:
    """List what metrics.json says of the data."""
    keys = (
        "source",
        "root",
        "split_hash",
        "group_by",
        "groups",
        "image_size",
        "fit",
        "scale",
        "channels",
        "mean",
        "std",
    )
    skipped = [str(reason) for reason in data.get("skipped") or []]
    shown = "; ".join(skipped[:SKIPPED_FILES] + ["…"] * (len(skipped) > SKIPPED_FILES))
    return [
        *((key.replace("_", " "), data.get(key)) for key in keys),
        ("skipped files", f"{len(skipped):,}: {shown}" if skipped else None),
    ]


def class_counts(data: dict[str, Any]) -> Table | None:
    """Tabulate images by class and split."""
    counts: dict[str, dict[str, int]] = data.get("counts") or {}
    names = list(dict.fromkeys(name for split in counts.values() for name in split))
    rows: list[list[Cell]] = [[name, *(split.get(name, 0) for split in counts.values())] for name in names]
    rows.append(["all classes", *(sum(split.values()) for split in counts.values())])
    return Table(["class", *counts], rows) if counts else None


def run_facts(about: dict[str, Any]) -> list[tuple[str, Any]]:
    """List what metrics.json says of the run; there the best epoch is counted from 0, here from 1."""
    names = {"test_split_read": "times this test split was read"}
    shown = dict(about)
    if shown.get("best_epoch") is not None:
        shown["best_epoch"] += 1
    return [(names.get(key, key.replace("_", " ")), value) for key, value in shown.items()]
