"""Rare classes: sampling by class, and the focal loss."""

from collections import Counter
from pathlib import Path

import numpy as np
import pytest
import torch
from helpers import write_config
from PIL import Image
from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

import defectlab as dl
from defectlab.cli.main import main
from defectlab.data.pipeline.augment import Augmentation
from defectlab.data.pipeline.loader import Sampling, TrainLoader
from defectlab.errors import InputError
from defectlab.figures.ranking import ranking_figure
from defectlab.metrics.line import ANY, good_class, promises, scores_of
from defectlab.metrics.operating import choose_false_alarms, choose_recall
from defectlab.runs import read_own_table
from defectlab.tasks.loss import binary_loss, weighted_cross_entropy

LABELS = torch.tensor([0] * 90 + [1] * 9 + [2])


def loader(
    sampling: Sampling, rank: int = 0, world_size: int = 1, augmentation: Augmentation | None = None
) -> TrainLoader:
    return TrainLoader(
        images=torch.arange(100, dtype=torch.uint8).view(-1, 1, 1, 1).repeat(1, 1, 4, 4), labels=torch.arange(100),
        indices=torch.arange(100), batch_size=8, normalise=lambda images: images.float(), device=torch.device("cpu"), rank=rank,
        world_size=world_size, seed=3, num_classes=3, augmentation=augmentation, sampling=sampling, strata=LABELS,
    )  # fmt: skip


def drawn(one: TrainLoader) -> list[int]:
    return torch.cat([labels for _, labels in one]).tolist()


def test_classes_come_as_often_as_asked() -> None:
    one = loader("balanced")
    first, second = drawn(one), drawn(one)
    for order in (first, second):
        assert sorted(Counter(LABELS[order].tolist()).values()) == [33, 33, 34]
        common = [index for index in order if index < 90]
        assert len(set(common)) == len(common), "none of a common class twice"
        assert max(Counter(index for index in order if 90 <= index < 99).values()) <= 4, "each of nine about as often"
    assert first != second
    assert first == drawn(loader("balanced")), "a function of seed and epoch"
    shares = np.sqrt([90, 9, 1])
    counts = Counter(LABELS[drawn(loader("sqrt_balanced"))].tolist())
    for label, share in enumerate(100 * shares / shares.sum()):
        assert abs(counts[label] - share) <= 1
    assert sorted(drawn(loader("shuffled"))) == list(range(100))


def test_processes_deal_out_one_order() -> None:
    whole = drawn(loader("balanced"))
    parts = [drawn(loader("balanced", rank, 2)) for rank in (0, 1)]
    assert [index for pair in zip(*parts, strict=True) for index in pair] == whole


def test_a_repeated_image_has_other_draws() -> None:
    batches = list(loader("balanced", augmentation=Augmentation(noise=0.1)))
    images, labels = (torch.cat(parts) for parts in zip(*batches, strict=True))
    last = images[labels == 99].flatten(1)
    assert len(last) > 30
    assert len(torch.unique(last, dim=0)) == len(last)


def test_a_pass_is_taken_up_where_it_was_left() -> None:
    whole = drawn(loader("balanced"))
    again = loader("balanced")
    again.load_state_dict({"batches": 5})
    assert drawn(again) == whole[40:]


def test_focal_loss_is_as_published() -> None:
    logits, labels = torch.randn(50, 4, dtype=torch.float64), torch.randint(4, (50,))
    p = logits.softmax(dim=1)[torch.arange(50), labels]
    expected = (-((1 - p) ** 2) * p.log()).mean()
    torch.testing.assert_close(weighted_cross_entropy(logits, labels, None, 0.0, focal=True), expected)
    hot = torch.nn.functional.one_hot(labels, 4).double()
    torch.testing.assert_close(weighted_cross_entropy(logits, hot, None, 0.0, focal=True), expected)
    weights = torch.tensor([1.0, 2.0, 3.0, 4.0], dtype=torch.float64)
    doubled = weighted_cross_entropy(logits, 2 * hot, weights, 0.1, focal=True)
    torch.testing.assert_close(doubled, 2 * weighted_cross_entropy(logits, labels, weights, 0.1, focal=True))
    q, truth = logits.sigmoid(), (torch.rand(50, 4) < 0.3).double()
    binary = -(truth * (1 - q) ** 2 * q.log() + (1 - truth) * q**2 * (1 - q).log()).mean()
    torch.testing.assert_close(binary_loss(logits, truth, None, 0.0, "focal"), binary)


def draw_set(folder: Path, counts: dict[str, tuple[int, int]]) -> Path:
    """Draw so many images of 16 px of a grey level for each class."""
    rng = np.random.default_rng(0)
    for name, (count, grey) in counts.items():
        (folder / name).mkdir(parents=True)
        for number in range(count):
            pixels = rng.normal(grey, 30, (16, 16)).clip(0, 255).astype(np.uint8)
            Image.fromarray(pixels).save(folder / name / f"{number}.png")
    return folder


def test_both_from_a_config(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    config = write_config(tmp_path, draw_set(tmp_path / "set", {"good": (60, 120), "bad": (9, 60)}))
    more = ["--data.sampling", "balanced", "--model.loss", "focal", "--trainer.max_epochs", "6"]
    words = ["fit", "--config", str(config), *more, "--output", str(tmp_path / "run")]
    assert main([*words, "--model.class_weights", "balanced"]) == 0
    assert "twice" in capsys.readouterr().err
    assert dl.RunFolder(tmp_path / "run").read_metrics()["test"]["balanced_accuracy"] > 0.9
    for wrong in (["--data.sampling", "even"], ["--model.loss", "focused"]):
        assert main([*words[:-1], str(tmp_path / "none"), *wrong]) == 1
        assert not (tmp_path / "none").exists()
    with pytest.raises(InputError, match=r"data\.sampling"):
        dl.ImageFolderDataModule(str(tmp_path), sampling="even")  # type: ignore[arg-type]


def test_promises_are_chosen_on_validation_and_measured_on_test() -> None:
    rng = np.random.default_rng(0)
    labels = rng.random((2, 1500)) < 0.3
    scores = 1 / (1 + np.exp(-rng.normal(3 * labels - 1.5, 1)))
    parts = [
        scores_of(np.stack((1 - own, own), axis=1), truth.astype(np.int64), ("good", "bad"))
        for own, truth in zip(scores, labels, strict=True)
    ]
    found = promises(parts[0], parts[1])
    alarms, recall = found["bad"]
    assert alarms["threshold"] == choose_false_alarms(scores[0], labels[0], 0.01).threshold
    assert recall["threshold"] == choose_recall(scores[0], labels[0], 0.99).threshold
    assert alarms["test"] is not None
    assert recall["test"] is not None
    flagged = scores[1] >= alarms["threshold"]
    assert alarms["test"]["false_alarm_rate"] == pytest.approx(flagged[~labels[1]].mean())
    assert alarms["test"]["escapes"] == pytest.approx(10 * (1 - flagged[labels[1]].mean()))
    few = promises({name: (own[:200], truth[:200]) for name, (own, truth) in parts[0].items()}, None)
    assert few["bad"][1]["rate"] == 0.9, "what 53 images can promise"
    assert few["bad"][1]["threshold"] == choose_recall(scores[0, :200], labels[0, :200], 0.9).threshold
    none = promises({name: (own[:40], truth[:40]) for name, (own, truth) in parts[0].items()}, None)["bad"][1]
    assert (none["threshold"], none["needs"], none["n"]) == (None, 299, int(labels[0, :40].sum()))
    assert set(found) == {"good", "bad"}, "any defect is the one that is bad"
    three = scores_of(np.full((4, 3), 1 / 3), np.array([0, 1, 2, 1]), ("OK", "hole", "stain"))
    assert three[ANY][1].tolist() == [False, True, True, True]
    assert [good_class([name, "hole"]) for name in ("MT_Free", "no_defect", "not_ok")] == ["MT_Free", "no_defect", None]


def test_false_alarms_below_one_in_a_hundred_are_told_apart_on_the_axis() -> None:
    own, labels = np.linspace(0, 1, 4000), np.arange(4000) % 2
    figure = ranking_figure(np.stack((1 - own, own), axis=1), labels, ("good", "bad"))
    assert figure is not None
    text = figure.axes[0].xaxis.get_major_formatter()
    assert [text(rate, None) for rate in (0.001, 0.01, 0.1)] == ["0.1%", "1%", "10%"]


def test_operating_points_are_in_report_and_tensorboard(tmp_path: Path) -> None:
    pictures = draw_set(tmp_path / "set", {"good": (330, 120), "hole": (30, 60), "stain": (30, 200)})
    words = [
        "fit",
        "--config",
        str(write_config(tmp_path, pictures)),
        "--data.val_size",
        "350",
        "--data.test_size",
        "20",
    ]
    assert main([*words, "--output", str(tmp_path / "run")]) == 0
    found = dl.RunFolder(tmp_path / "run").read_metrics()["operating"]
    assert set(found) == {"good", "hole", "stain", ANY}
    assert found["hole"][0]["threshold"] is not None, "there are 299 others, or more"
    assert found["hole"][0]["rate"] == 0.01
    assert found["hole"][1]["threshold"] is None or found["hole"][1]["rate"] < 0.95, "of thirty images"
    assert "Operating points" in (tmp_path / "run" / "report.html").read_text()
    events = EventAccumulator(str(tmp_path / "run"), size_guidance={"images": 0})
    events.Reload()
    assert {"val/ranking", "test/ranking"} <= set(events.Tags()["images"])
    run, test = dl.RunFolder(tmp_path / "run"), dl.RunFolder(tmp_path / "run").read_metrics()["test"]
    assert f"balanced {test['balanced_accuracy']:.2%}" in repr(run)
    assert read_own_table(run).balanced_accuracy == pytest.approx(test["balanced_accuracy"])


def test_the_focal_minimum_is_at_the_smoothed_target() -> None:
    logits = torch.zeros(1, 3, dtype=torch.float64, requires_grad=True)
    optimizer = torch.optim.LBFGS([logits], lr=0.5, max_iter=300, tolerance_change=1e-14)

    def closure() -> torch.Tensor:
        optimizer.zero_grad()
        loss = weighted_cross_entropy(logits, torch.tensor([1]), None, 0.3, focal=True)
        loss.backward()  # type: ignore[no-untyped-call]
        return loss

    optimizer.step(closure)  # type: ignore[no-untyped-call]
    torch.testing.assert_close(
        logits.softmax(dim=1)[0].detach(), torch.tensor([0.1, 0.8, 0.1]).double(), atol=0.02, rtol=0
    )
