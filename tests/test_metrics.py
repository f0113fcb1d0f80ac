"""The figures for a split, against scikit-learn, SciPy, torchmetrics and arithmetic by hand."""

import math

import pytest
import torch
from scipy.stats import binomtest
from sklearn.metrics import (
    accuracy_score,
    balanced_accuracy_score,
    confusion_matrix,
    f1_score,
    log_loss,
    precision_recall_fscore_support,
)
from torch import Tensor
from torchmetrics.functional.classification import multiclass_f1_score

from defectlab.errors import InputError
from defectlab.metrics.classification import accuracy_interval, evaluate_predictions, fit_temperature


def scores(n: int, classes: int, seed: int = 0) -> tuple[Tensor, Tensor, list[str]]:
    generator = torch.Generator().manual_seed(seed)
    labels = torch.randint(classes, (n,), generator=generator)
    labels[:classes] = torch.arange(classes)  # no class is absent
    logits = torch.randn(n, classes, generator=generator)
    logits[torch.arange(n), labels] += 1.5
    return logits, labels, [f"class {index}" for index in range(classes)]


@pytest.mark.parametrize(("n", "classes"), [(300, 6), (40, 2), (1000, 200)])
def test_agrees_with_scikit_learn(n: int, classes: int) -> None:
    logits, labels, names = scores(n, classes)
    result = evaluate_predictions(logits, labels, names)
    y, p = labels.numpy(), logits.argmax(1).numpy()
    ids = list(range(classes))
    assert result["n"] == n
    assert result["accuracy"] == pytest.approx(accuracy_score(y, p), abs=1e-12)
    assert result["macro_f1"] == pytest.approx(f1_score(y, p, average="macro"), abs=1e-12)
    assert result["balanced_accuracy"] == pytest.approx(balanced_accuracy_score(y, p), abs=1e-12)
    assert result["macro_recall"] == result["balanced_accuracy"]
    probabilities = logits.double().softmax(1).numpy()
    assert result["loss"] == pytest.approx(log_loss(y, probabilities, labels=ids), abs=1e-9)
    assert result["confusion_matrix"] == confusion_matrix(y, p, labels=ids).tolist()
    expected = precision_recall_fscore_support(y, p, labels=ids, zero_division=math.nan)
    for index, name in enumerate(names):
        found = result["per_class"][name]
        for key, column in zip(("precision", "recall", "f1", "support"), expected, strict=True):
            assert found[key] == pytest.approx(column[index], abs=1e-12, nan_ok=True)  # type: ignore[literal-required]
        assert found["accuracy"] == pytest.approx(found["recall"], nan_ok=True)


def test_macro_f1_is_the_one_logged_during_training() -> None:
    logits, labels, names = scores(60, 8)
    labels[labels == 7] = 0  # class 7 has no images, but is predicted
    logged = multiclass_f1_score(logits, labels, num_classes=8, average="macro")
    assert evaluate_predictions(logits, labels, names)["macro_f1"] == pytest.approx(float(logged), abs=1e-6)


def test_calibration_error_is_that_of_its_definition() -> None:
    logits, labels, names = scores(500, 4)
    # Confidences of exactly 1, too sure, share the last bin with ones that are not sure enough.
    logits[:100] *= 1e5
    logits[100:] *= 2
    labels[100:] = logits[100:].argmax(1)
    confidence, predicted = logits.double().softmax(1).max(1)
    error = 0.0
    for index in range(15):
        inside = (confidence >= index / 15) & (confidence < (index + 1) / 15 + (index == 14))
        if inside.any():
            right = (predicted == labels)[inside].double().mean()
            error += float(inside.double().mean() * (right - confidence[inside].mean()).abs())
    assert evaluate_predictions(logits, labels, names)["ece"] == pytest.approx(error, abs=1e-6)


def test_classes_that_are_absent_or_never_predicted() -> None:
    # Class b is never predicted, class c has no images but is predicted, class d is neither.
    logits = torch.tensor([[3.0, 0, 0, 0], [3, 0, 0, 0], [0, 0, 3, 0], [3, 0, 0, 0]])
    labels = torch.tensor([0, 0, 0, 1])
    result = evaluate_predictions(logits, labels, ["a", "b", "c", "d"])
    a, b, c, d = result["per_class"].values()
    assert [a["recall"], a["precision"], a["support"]] == pytest.approx([2 / 3, 2 / 3, 3])
    assert (b["recall"], b["f1"], b["support"]) == (0, 0, 1)
    assert math.isnan(b["precision"])
    assert (math.isnan(c["recall"]), c["precision"], c["f1"], c["support"]) == (True, 0, 0, 0)
    assert all(math.isnan(d[key]) for key in ("accuracy", "precision", "recall", "f1"))
    assert result["macro_recall"] == pytest.approx((2 / 3 + 0) / 2)  # over a and b
    assert result["macro_f1"] == pytest.approx((2 / 3 + 0 + 0) / 3)  # over a, b and c
    assert result["confusion_matrix"] == [[2, 0, 1, 0], [1, 0, 0, 0], [0, 0, 0, 0], [0, 0, 0, 0]]


def test_same_input_same_bits_for_any_number_of_threads() -> None:
    logits, labels, names = scores(20_000, 10)
    before = torch.get_num_threads()
    try:
        results = []
        for threads in (1, 2, 3):
            torch.set_num_threads(threads)
            results.append(evaluate_predictions(logits, labels, names))
    finally:
        torch.set_num_threads(before)
    assert results[0] == results[1] == results[2]


def test_half_precision_logits_are_taken_as_they_are() -> None:
    logits, labels, names = scores(50, 3)
    half = logits.bfloat16()
    assert evaluate_predictions(half, labels, names) == evaluate_predictions(half.double(), labels, names)


@pytest.mark.parametrize(
    ("logits", "labels", "names", "said"),
    [
        (torch.zeros(0, 2), torch.zeros(0, dtype=torch.int64), ["a", "b"], "no images"),
        (torch.zeros(2, 3), torch.tensor([0, 1]), ["a", "b"], r"expected \(N, 2\)"),
        (torch.zeros(2, 2), torch.tensor([0]), ["a", "b"], r"shape \(1,\)"),
        (torch.zeros(2, 2), torch.tensor([0, 2]), ["a", "b"], "0 to 2"),
        (torch.zeros(2, 2), torch.tensor([0, 1]), ["a", "a"], "different names"),
        (torch.tensor([[0, math.nan], [0, 1]]), torch.tensor([0, 1]), ["a", "b"], "1 of 2 images"),
    ],
)
def test_bad_input_is_named(logits: Tensor, labels: Tensor, names: list[str], said: str) -> None:
    with pytest.raises(InputError, match=said) as caught:
        evaluate_predictions(logits, labels, names)
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize(("correct", "n"), [(0, 1), (1, 1), (0, 30), (270, 270), (265, 270), (9912, 10_000)])
@pytest.mark.parametrize("level", [0.95, 0.99])
def test_interval_is_wilsons(correct: int, n: int, level: float) -> None:
    expected = binomtest(correct, n).proportion_ci(confidence_level=level, method="wilson")
    assert accuracy_interval(correct, n, level) == pytest.approx((expected.low, expected.high), abs=1e-9)


@pytest.mark.parametrize(("correct", "n", "level"), [(0, 0, 0.95), (3, 2, 0.95), (-1, 2, 0.95), (1, 2, 95)])
def test_interval_of_impossible_counts(correct: int, n: int, level: float) -> None:
    with pytest.raises(InputError, match="expected"):
        accuracy_interval(correct, n, level)


def test_temperature_undoes_overconfidence() -> None:
    generator = torch.Generator().manual_seed(0)
    honest = 2 * torch.randn(4000, 5, generator=generator)
    labels = torch.multinomial(honest.softmax(dim=1), 1, generator=generator).squeeze(1)
    for factor in (0.5, 1.0, 3.0):
        assert fit_temperature(factor * honest, labels) == pytest.approx(factor, rel=0.05)
    before = evaluate_predictions(3 * honest, labels, list("abcde"))
    after = evaluate_predictions(3 * honest / fit_temperature(3 * honest, labels), labels, list("abcde"))
    assert after["ece"] < 0.03 < before["ece"]
    assert after["accuracy"] == before["accuracy"]
    assert fit_temperature(torch.eye(3), torch.arange(3)) == pytest.approx(0.05, rel=0.05), (
        "all right: as sure as allowed"
    )


@pytest.mark.parametrize("share", [0.9, 0.98])
def test_the_accuracy_interval_covers(share: float) -> None:
    """Nominal 95 %: observed 93 to 100 % over every count that 300 images can give, weighted by its probability."""
    chances = [math.comb(300, k) * share**k * (1 - share) ** (300 - k) for k in range(301)]
    covered = [low <= share <= high for low, high in (accuracy_interval(k, 300) for k in range(301))]
    assert 0.93 <= sum(p for p, inside in zip(chances, covered, strict=True) if inside) <= 1.0
