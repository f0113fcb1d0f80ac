"""Novelty: embeddings beside logits, the score, its promise, and what predict makes of it."""

import csv
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from conftest import write_class_folders
from helpers import write_config
from PIL import Image
from scipy.stats import binom
from torch import Tensor, nn

from defectlab.cli.main import main
from defectlab.data.pipeline.split_table import SplitTable
from defectlab.engine.fit import fit
from defectlab.errors import InputError
from defectlab.evaluate.ensemble import ensemble
from defectlab.evaluate.leave_class_out import leave_class_out
from defectlab.inference import predictor
from defectlab.inference.predict import predict
from defectlab.inference.predictor import load
from defectlab.metrics.novelty import check_novelty, joined_novelty, novelty_p_values
from defectlab.metrics.ranking import curve
from defectlab.networks import CompactCNN, PretrainedNetwork
from defectlab.networks.base import embed_and_classify
from defectlab.networks.novelty import NoveltyScorer
from defectlab.report import write_report
from defectlab.runs import RunFolder, read_prediction_table, write_prediction_table
from defectlab.runs.state import write_state
from defectlab.tasks.checkpoint import load_task
from defectlab.tasks.tta import tta_embeddings, tta_logits
from defectlab.utils.image_format import Tiles


def foreign() -> nn.Module:
    return nn.Sequential(nn.Flatten(), nn.Linear(32 * 32, 7), nn.ReLU(), nn.Linear(7, 3))


@pytest.mark.parametrize(
    ("make", "width"),
    [
        (lambda: CompactCNN(3, 1, 32), 24),
        (lambda: PretrainedNetwork(3, 1, 32, stages="middle"), 416),
        (lambda: PretrainedNetwork(3, 1, 32, stages="last", tiles=Tiles(size=16, overlap=8)), 2 * 576),
        (lambda: PretrainedNetwork(3, 1, 32, tiles=Tiles(size=16, overlap=8), pooling="attention"), 576),
        (foreign, 7),
    ],
)
def test_one_pass_gives_embedding_and_the_same_logits(make: Callable[[], nn.Module], width: int) -> None:
    network, images = make().eval(), torch.rand(4, 1, 32, 32)
    with torch.no_grad():
        embedding, logits = embed_and_classify(network, images)
        torch.testing.assert_close(logits, network(images))
    assert len(embedding) == 4
    assert embedding.shape[1] == width


def test_views_are_averaged() -> None:
    network, images = CompactCNN(3, 1, 32).eval(), torch.rand(2, 1, 32, 32)
    with torch.no_grad():
        embedding, logits = tta_embeddings(network.embed_and_classify, images, "flip")
        torch.testing.assert_close(logits, tta_logits(network, images, "flip"))
        views: list[Tensor] = [network.embed_and_classify(view)[0] for view in (images, images.flip(3))]
    torch.testing.assert_close(embedding, (views[0] + views[1]) / 2)


def blobs(classes: int, per_class: int, seed: int, spread: float = 0.3) -> tuple[Tensor, Tensor]:
    """Embeddings (N, 12) about one corner a class, and their classes."""
    generator = torch.Generator().manual_seed(seed)
    labels = torch.arange(classes).repeat_interleave(per_class)
    corners = 2.0 * torch.eye(12)[:classes]
    return corners[labels] + spread * torch.randn(len(labels), 12, generator=generator), labels


def area(known: Tensor, new: Tensor) -> float:
    scores = torch.cat([known, new]).numpy()
    return curve(scores, np.arange(len(scores)) >= len(known)).auroc


def test_score_ranks_new_classes_and_other_materials_above_known_images() -> None:
    scorer = NoveltyScorer.fit(*blobs(3, 100, 0))
    known = scorer(blobs(3, 50, 1)[0])
    left_out = scorer(blobs(4, 50, 2)[0][150:])
    far = scorer(10 + blobs(1, 50, 3)[0])
    assert area(known, left_out) > 0.97
    assert area(known, far) == 1.0
    assert float(scorer(blobs(3, 100, 0)[0]).max()) < float(left_out.min())  # its own bank is not strange
    assert abs(area(known, scorer(blobs(3, 50, 4)[0])) - 0.5) < 0.1


@pytest.mark.parametrize("noise", [0.0, 1e-7])
def test_embeddings_that_are_all_alike_tell_nothing(noise: float) -> None:
    with pytest.raises(InputError, match="rounding alone"):
        NoveltyScorer.fit(torch.ones(40, 5) + noise * torch.randn(40, 5), torch.arange(2).repeat(20))


def test_score_does_not_depend_on_batch_or_scale_of_features() -> None:
    embeddings, labels = blobs(3, 40, 0)
    scorer, other = NoveltyScorer.fit(embeddings, labels), NoveltyScorer.fit(1000 * embeddings - 7, labels)
    seen = blobs(4, 5, 1)[0]
    torch.testing.assert_close(scorer(seen), torch.cat([scorer(row[None]) for row in seen]))
    torch.testing.assert_close(scorer(seen), other(1000 * seen - 7), rtol=1e-2, atol=1e-2)


def test_degenerate_embeddings_give_finite_scores() -> None:
    constant = torch.cat([blobs(2, 10, 0)[0], torch.ones(20, 3)], dim=1)  # features that never vary
    for embeddings, labels in (
        (constant, torch.arange(2).repeat_interleave(10)),
        (torch.eye(3), torch.arange(3)),  # one image a class
        (torch.eye(4), torch.tensor([[1, 0], [0, 1], [1, 1], [0, 0]])),  # of a multi-label task
    ):
        scorer = NoveltyScorer.fit(embeddings, labels)
        scores = scorer(torch.cat([embeddings, embeddings + 100, -embeddings]))
        assert torch.isfinite(scores).all()
        assert float(scores[: len(embeddings)].max()) <= float(scores.max())


def test_scorer_is_kept_and_exported_as_it_is() -> None:
    scorer, seen = NoveltyScorer.fit(*blobs(3, 30, 0)), blobs(4, 5, 1)[0]
    again = NoveltyScorer.from_state(scorer.state())
    assert torch.equal(again(seen), scorer(seen))
    assert not scorer.state_dict()  # a task that holds one has the weights of its network alone
    batches = {"embeddings": {0: torch.export.Dim.DYNAMIC}}
    program = torch.export.export(scorer, (seen[:2],), dynamic_shapes=batches)
    torch.testing.assert_close(program.module()(seen), scorer(seen))


@pytest.mark.parametrize("name", ["mean", "scale", "whitening", "bank"])
def test_damaged_states_are_refused(name: str) -> None:
    state = NoveltyScorer.fit(*blobs(3, 30, 0)).state()
    broken = state[name].clone()
    broken.view(-1)[0] = torch.nan
    for bad in (broken, state[name][:0], state[name][..., :-1], state[name].long(), "text", None):
        with pytest.raises(InputError, match="novelty"):
            NoveltyScorer.from_state({**state, name: bad})
    with pytest.raises(InputError, match="novelty"):
        NoveltyScorer.from_state([state])


def test_p_values_are_conservative() -> None:
    known = np.array([1, 2, 2, 3], np.float32)
    found = novelty_p_values(np.array([0, 1, 2, 2.5, 3, 4, np.nan], np.float32), known)
    np.testing.assert_allclose(found, [1, 1, 0.8, 0.4, 0.4, 0.2, 0.2])
    third = np.array([1 / 3])
    assert novelty_p_values(third, third.astype(np.float32))[0] == 1.0  # compared as tables keep them


@pytest.mark.parametrize(("share", "needed"), [(0.01, 99), (0.05, 19), (0.3, 3), (0.5, 1)])
def test_how_many_images_a_share_takes(share: float, needed: int) -> None:
    check_novelty(share, needed)
    assert novelty_p_values(np.array([999.0]), np.arange(needed))[0] <= share  # so that something can be novel
    with pytest.raises(InputError, match=f"at least {needed} validation images, found {needed - 1}"):
        check_novelty(share, needed - 1)


@pytest.mark.parametrize("share", [0.0, 1.0, -0.1, 2.0, float("nan")])
def test_shares_out_of_range(share: float) -> None:
    with pytest.raises(InputError, match="novelty is"):
        check_novelty(share, 1000)


def test_false_alarms_stay_below_the_share() -> None:
    """Over 20 splits of one set, in all of which the scorer is fitted anew, the known test images alarm as promised."""
    alarms = images = 0
    for split in range(20):
        scorer = NoveltyScorer.fit(*blobs(3, 30, 3 * split))
        known, seen = (scorer(blobs(3, 133, 3 * split + part)[0]).numpy() for part in (1, 2))
        alarms += int((novelty_p_values(seen, known) <= 0.05).sum())
        images += len(seen)
    low, high = binom.interval(0.999, images, 0.05)
    # Images of one split share the validation images: their alarms vary more than alone.
    assert alarms <= high * 1.2
    assert alarms >= 0.5 * low  # it is used up, too


def test_networks_are_joined_by_the_geometric_mean() -> None:
    np.testing.assert_array_equal(joined_novelty([[1, 2]]), np.array([1, 2], np.float32))
    np.testing.assert_allclose(joined_novelty([[1, 4, 0], [4, 9, 5]]), [2, 6, 0])


def test_fit_keeps_a_scorer_and_predict_uses_it(
    tmp_path: Path, class_folders: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main(["fit", "--config", str(write_config(tmp_path, class_folders))]) == 0
    run = RunFolder(next((tmp_path / "runs" / "tiny").iterdir()))
    known, tested = (read_prediction_table(path) for path in (run.val_predictions_csv, run.predictions_csv))
    assert known.novelty is not None
    assert tested.novelty is not None
    assert known.checkpoint == run.fingerprint  # which the scorer is a part of
    noise = tmp_path / "noise.png"
    Image.fromarray(np.random.default_rng(0).integers(0, 256, (24, 24), np.uint8)).save(noise)
    out = tmp_path / "out.csv"
    words = ["predict", str(run.path), str(class_folders), str(noise), "--output", str(out)]
    assert main([*words, "--novelty", "0.2", "--sets", "0.8"]) == 0
    with out.open(encoding="utf-8", newline="") as file:
        rows = {Path(row["file"]): row for row in csv.DictReader(file)}
    assert rows[noise]["novel"] == "yes"
    assert float(rows[noise]["novelty_p"]) == pytest.approx(1 / 7, abs=1e-5)
    assert rows[noise]["set"] is not None
    found = predict(run, [class_folders / file for file in known.files], novelty=0.2)
    assert found.novelty is not None
    np.testing.assert_allclose(found.novelty, known.novelty, rtol=1e-3)
    assert "novel" not in predict(run, noise).extra

    exported = tmp_path / "plain.ckpt"
    assert main(["export", str(run.path), "--output", str(exported)]) == 0
    (task,) = load(exported).tasks
    assert task.novelty is not None
    assert load_task(exported)[0].novelty is not None
    capsys.readouterr()
    assert main(["predict", str(exported), str(noise), "--novelty", "0.2"]) == 1
    assert "run folder" in capsys.readouterr().err

    out.unlink()
    for share, text in (
        ("0", "novelty is 0"),
        ("1", "novelty is 1"),
        ("0.01", "at least 99 validation images, found 6"),
    ):
        assert main([*words, "--novelty", share]) == 1
        assert text in capsys.readouterr().err
    checkpoint = torch.load(run.best, weights_only=True)
    del checkpoint["novelty"]
    best = run.best
    torch.save(checkpoint, best)
    write_state(run.path, "finished", best)  # as one of an earlier version
    write_prediction_table(
        run.val_predictions_csv, known.files, known.labels, known.probabilities, known.class_names,
        checkpoint=run.fingerprint,
    )  # fmt: skip
    assert main([*words, "--novelty", "0.2"]) == 1
    assert "no novelty scorer" in capsys.readouterr().err
    assert not out.exists()
    assert main(words) == 0  # all else is as it was


def test_ensembles_know_what_is_novel(tmp_path: Path, class_folders: Path) -> None:
    config = write_config(tmp_path, class_folders)
    runs = [fit(config, seed_everything=seed, output=tmp_path / str(seed)) for seed in (0, 1)]
    joined = ensemble(runs, tmp_path / "both")
    tables = [read_prediction_table(run.val_predictions_csv) for run in (joined, *runs)]
    scores = [np.asarray(table.novelty, np.float32) for table in tables]
    np.testing.assert_allclose(scores[0], joined_novelty(scores[1:]), rtol=1e-6)
    found = predict(joined, [class_folders / file for file in tables[0].files], novelty=0.2)
    assert found.novelty is not None
    np.testing.assert_allclose(found.novelty, scores[0], rtol=1e-3)


def test_what_an_interrupted_prediction_left_keeps_its_novelty(
    tmp_path: Path, class_folders: Path, finished: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("defectlab.inference.predictor._BLOCK", 8)
    whole = predict(finished, class_folders, novelty=0.2, output=tmp_path / "whole.csv")
    read = predictor._read
    calls: list[int] = []

    def fails(*arguments: Any) -> Any:
        calls.append(1)
        if len(calls) == 3:
            raise KeyboardInterrupt
        return read(*arguments)

    monkeypatch.setattr("defectlab.inference.predictor._read", fails)
    with pytest.raises(KeyboardInterrupt):
        predict(finished, class_folders, novelty=0.2, output=tmp_path / "out.csv")
    assert predict(finished, class_folders, novelty=0.2, output=tmp_path / "out.csv").novelty is not None
    assert len(calls) < 2 * len(whole) / 8  # what was done is not done again
    assert (tmp_path / "out.csv").read_bytes() == (tmp_path / "whole.csv").read_bytes()


def test_each_class_is_left_out_in_turn(
    tmp_path: Path, class_folders: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    config, out = write_config(tmp_path, class_folders), tmp_path / "out"
    words = [
        "crossval",
        "--config",
        str(config),
        "--leave-class-out",
        "--output",
        str(out),
        "--trainer.max_epochs",
        "1",
    ]
    assert main(words) == 0
    assert "AUROC" in capsys.readouterr().out
    with (out / "novelty.csv").open(encoding="utf-8", newline="") as file:
        rows = list(csv.DictReader(file))
    assert [row["class"] for row in rows] == ["good", "hole", "scratch"]
    for run, row in zip(sorted(path.parent for path in out.glob("*/config.yaml")), rows, strict=True):
        split = SplitTable.read(RunFolder(run).split_csv).rows
        own = {one.part for one in split if one.label == row["class"]}
        assert own == {"test"}  # none to train on, none to calibrate with
        assert {one.label for one in split if one.part == "train"} == {"good", "hole", "scratch"} - {row["class"]}
        table = read_prediction_table(RunFolder(run).predictions_csv)
        assert table.novelty is not None
        new = np.array([table.class_names[label] == row["class"] for label in np.array(table.labels)])
        assert int(row["images"]) == new.sum() == 12
        assert float(row["auroc"]) == pytest.approx(curve(table.novelty, new).auroc)
        assert row["false_alarms"] == ""  # of 1 %: there are too few validation images
    best = RunFolder(out / "01-good").fingerprint
    assert main(words) == 0  # nothing is done again
    assert RunFolder(out / "01-good").fingerprint == best
    found = leave_class_out(config, overrides={"trainer.max_epochs": 1}, output=out, share=0.4)
    assert [row["false_alarms"] is not None for row in found.rows] == [True] * 3
    assert found.mean == pytest.approx(np.mean([float(row["auroc"]) for row in rows]))
    capsys.readouterr()
    for more, text in (
        (["--seed", "1"], "another plan"),
        (["--folds", "3"], "found folds"),
        (["--data.seed", "4"], "data.seed is crossval's own"),
    ):
        assert main([*words, *more]) == 1
        assert text in capsys.readouterr().err
    for share in (0.0, 1.0):
        with pytest.raises(InputError, match="novelty is"):
            leave_class_out(config, share=share, output=tmp_path / "none")
    assert not (tmp_path / "none").exists()


def test_two_classes_leave_none_to_tell_apart(tmp_path: Path) -> None:
    config = write_config(tmp_path, write_class_folders(tmp_path / "two", 12, ("good", "hole")))
    with pytest.raises(InputError, match="2 classes"):
        leave_class_out(config, output=tmp_path / "none")
    assert not (tmp_path / "none").exists()


def test_report_shows_the_strangest_images(finished: Path) -> None:
    page = (finished / "report.html").read_text(encoding="utf-8")
    table = read_prediction_table(RunFolder(finished).predictions_csv)
    assert table.novelty is not None
    section = page[page.index("Novelty</h2>") :]
    assert (finished / "novelty.png").is_file()
    strangest = [table.files[index] for index in np.argsort(-table.novelty)[:3]]
    places = [section.index(file) for file in strangest]
    assert places == sorted(places)
    known = read_prediction_table(RunFolder(finished).val_predictions_csv).novelty
    assert known is not None
    assert f"{novelty_p_values(table.novelty, known).min():.4f}" in section


def test_a_report_of_an_earlier_run_has_no_novelty(finished: Path, tmp_path: Path) -> None:
    run = RunFolder(shutil.copytree(finished, tmp_path / "run"))
    for path in (run.val_predictions_csv, run.predictions_csv):
        table = read_prediction_table(path)
        write_prediction_table(
            path, table.files, table.labels, table.probabilities, table.class_names, checkpoint=table.checkpoint
        )
    assert "Novelty</h2>" not in write_report(run).read_text(encoding="utf-8")
