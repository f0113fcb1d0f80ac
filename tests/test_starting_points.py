"""A starting point that chooses itself: on training images alone, once, and stored."""

import csv
import json
import shutil
from collections.abc import Mapping
from pathlib import Path

import numpy as np
import pytest
import yaml
from helpers import read, refusal, write_config

import defectlab as dl
from defectlab.cli.main import main
from defectlab.engine.probe import SHARES, inner_folds, learning_curve, out_of_fold_hits, resampled_weights
from defectlab.networks import PretrainedNetwork
from defectlab.networks.weights import save_backbone_weights

SURFACE = {"weights": "surface"}
LARGER = {"weights": "surface", "image_size": 48, "fit": "stretch", "symmetric": True}
NOT_THERE = {"weights": "imagenet", "backbone": "resnet18"}


@pytest.fixture
def words(tmp_path: Path, class_folders: Path, monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """Arguments of fit for a run of a second."""
    monkeypatch.setenv("TORCH_HOME", str(tmp_path / "torch"))
    monkeypatch.setenv("https_proxy", "http://127.0.0.1:9")
    return [
        "--config", "folder_auto.yaml", "--data.root", str(class_folders), "--data.image_size", "32", "--data.val_size", "6",
        "--trainer.max_epochs", "1", "--trainer.accelerator", "cpu", "--trainer.default_root_dir", str(tmp_path / "runs"),
    ]  # fmt: skip


def from_these(*candidates: Mapping[str, object]) -> list[str]:
    return ["--choose.candidates", json.dumps(candidates), "--choose.folds", "2"]


def test_fit_chooses_says_what_by_and_saves_the_choice_alone(
    words: list[str], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    random = tmp_path / "random.safetensors"
    save_backbone_weights(PretrainedNetwork(3, 3, 32, "mobilenet_v2", 0.25), random, half=False)
    own = {"weights": str(random), "backbone": "mobilenet_v2", "width": 0.25, "stages": [3, 6]}
    assert main(["fit", *words, *from_these(NOT_THERE, own, SURFACE, LARGER), "--output", str(tmp_path / "a")]) == 0
    out, err = capsys.readouterr()
    assert "twice as many labels" in out
    assert "left out: imagenet, resnet18" in err
    assert not (tmp_path / "torch").exists()
    with (tmp_path / "a" / "starting_points.csv").open() as file:
        rows = list(csv.DictReader(file))
    assert [row["weights"] for row in rows][-1] == "imagenet"
    assert rows[-1]["left_out"]
    assert not rows[-1]["balanced_accuracy"]
    scores = [float(row["balanced_accuracy"]) for row in rows[:-1]]
    assert scores == sorted(scores, reverse=True)
    assert [float(row["behind"]) for row in rows[:-1]] == pytest.approx([scores[0] - score for score in scores])
    (chosen,) = (row for row in rows if row["chosen"] == "True")
    assert float(chosen["behind"]) <= 0.001
    found = read(tmp_path / "a")["run"]["start"]
    assert [row["chosen"] for row in found["rows"]] == [row["chosen"] == "True" for row in rows]
    labelled = list(map(int, found["curve"]))
    assert labelled[-1] == 2 * labelled[-2]
    config = yaml.safe_load((tmp_path / "a" / "config.yaml").read_text())
    assert config["choose"] is None
    assert config["model"]["init_args"]["weights"] == chosen["weights"]
    assert config["data"]["init_args"]["image_size"] == int(chosen["image_size"] or 32)
    assert str(config["model"]["init_args"]["symmetric"]) == chosen["symmetric"]
    again = ["fit", "--config", str(tmp_path / "a" / "config.yaml"), "--output", str(tmp_path / "b")]
    assert main(again) == 0
    assert read(tmp_path / "b")["test"] == read(tmp_path / "a")["test"]
    assert "start" not in read(tmp_path / "b")["run"]
    assert main(["resume", str(tmp_path / "a"), "--trainer.max_epochs", "2"]) == 0
    assert read(tmp_path / "a")["run"]["start"] == found
    assert "twice as many labels" not in capsys.readouterr().out


def test_labels_of_test_images_play_no_part(words: list[str], split_folders: Path) -> None:
    images = ["--data.root", str(split_folders), *from_these(SURFACE, LARGER)]
    first = dl.choose_start("folder_auto.yaml", overrides=[*words[2:], *images])
    test = split_folders / "test"
    for folder, name in (("good", "moved"), ("hole", "good"), ("moved", "hole")):
        shutil.move(test / folder, test / name)
    for path in sorted(test.rglob("*.png"))[::2]:
        path.write_bytes(sorted((split_folders / "train").rglob("*.png"))[0].read_bytes())
    second = dl.choose_start("folder_auto.yaml", overrides=[*words[2:], *images])
    for one, other in zip(first.rows, second.rows, strict=True):
        assert (one.weights, one.image_size, one.chosen) == (other.weights, other.image_size, other.chosen)
        assert (one.balanced_accuracy, one.se, one.behind) == (other.balanced_accuracy, other.se, other.behind)
    assert first.curve == second.curve


def test_each_fold_of_crossval_chooses_for_itself(words: list[str], tmp_path: Path) -> None:
    found = dl.cross_validate(
        "folder_auto.yaml", 2, 1, overrides=[*words[2:], *from_these(SURFACE)], output=tmp_path / "cv"
    )
    for row in found.rows:
        run = dl.open_run(tmp_path / "cv" / row["run"])
        assert yaml.safe_load(run.config.read_text())["choose"] is None
        assert read(run.path)["run"]["start"]["rows"][0]["weights"] == "surface"


def test_candidates_of_ones_own_in_python(words: list[str]) -> None:
    found = dl.choose_start("folder_auto.yaml", [dl.Start(**SURFACE)], overrides=words[2:])  # type: ignore[arg-type]
    assert found.chosen == found.rows[0]
    assert len(found.rows) == 1
    assert "<table>" in found._repr_html_()


REFUSED = {
    "candidates is empty": ["--choose.candidates", "[]"],
    "choose.folds is 1": ["--choose.folds", "1"],
    "weight": ["--choose.candidates", '[{"weight": "surface"}]'],
    "none of 3 can be had": from_these(NOT_THERE, {"weights": "no/such.pth"}, {"weights": "surface", "width": 0.35}),
    "model.pooling": ["--model.pooling", "attention"],
    "ckpt_path": ["--ckpt_path", "x.ckpt"],
    "one process": ["--trainer.devices", "2", "--trainer.strategy", "ddp"],
    "several": ["--data.label_columns.several", "all"],
}


@pytest.mark.parametrize("word", REFUSED)
def test_refusals(word: str, words: list[str], tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["fit", *words, *REFUSED[word]]) == 1
    (line,) = (line for line in capsys.readouterr().err.splitlines() if "error:" in line)
    assert word in line
    assert not (tmp_path / "runs").exists()


def test_other_tasks_and_commands_refuse(finished: Path, tmp_path: Path, class_folders: Path) -> None:
    config = write_config(tmp_path, class_folders)
    refusal(lambda: dl.choose_start(config), "no section choose")
    none = ["--data.root", str(class_folders), "--choose", "null"]
    refusal(lambda: dl.choose_start("folder_auto.yaml", overrides=none), "no section choose")
    refusal(lambda: dl.choose_start(config, [dl.Start(weights="surface")]), "SmallCNNTask")
    best = str(finished / "checkpoints" / "best.ckpt")
    assert main(["test", "--config", "folder_auto.yaml", "--data.root", str(class_folders), "--ckpt_path", best]) == 1
    assert main(["resume", str(finished), *from_these(SURFACE), "--trainer.max_epochs", "2"]) == 1


# The folds and the curve


def test_folds_keep_groups_together_and_bear_rare_classes() -> None:
    labels = np.array([0] * 10 + [1] * 9 + [2])
    groups = np.array([0, 0, 1, 1, 2, 2, 3, 3, 4, 4, *range(5, 15)])
    folds = inner_folds(labels, groups, 5, seed=0)
    assert len(folds) == 10
    for train, test in folds:
        assert not set(groups[train]) & set(groups[test])
    tested = np.concatenate([test for _, test in folds])
    assert (np.bincount(tested) == 2).all()
    features = np.eye(3, dtype=np.float32)[labels]
    for share in SHARES:
        right = out_of_fold_hits(features, labels, groups, folds, share)
        assert right[:19].tolist() == [1.0] * 19
        assert right[19] == 0.0, "the only image of its class is never trained on where it is tested"
    refusal(lambda: inner_folds(labels, np.zeros(20, dtype=np.int64), 5, 0), "two groups")


def test_weights_are_balanced_and_the_curve_follows_a_power_law() -> None:
    labels = np.repeat([0, 1], [640, 64])
    weights = resampled_weights(labels, np.arange(704))
    assert weights.sum(axis=1) == pytest.approx(1)
    assert weights[0] @ (labels == 1) == pytest.approx(0.5)
    right = np.ones((3, 704))
    for row, wrong in zip(right, (0.4, 0.2, 0.1), strict=True):  # each halved by twice the labels
        for label, count in ((0, 640), (1, 64)):
            row[np.flatnonzero(labels == label)[: round(wrong * count)]] = 0
    found = learning_curve(right, weights)
    assert found[0] == pytest.approx([0.6, 0.8, 0.9, 0.95, 0.05], abs=0.01)
    assert learning_curve(np.ones((3, 704)), weights)[0].tolist() == [1, 1, 1, 1, 0]
    assert learning_curve(right[::-1], weights)[0, 4] == 0, "more labels are not said to harm"
