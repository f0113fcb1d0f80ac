"""Run folders: found, refused, written in one step and read back."""

import csv
import hashlib
import json
import math
import subprocess
import sys
from contextlib import suppress
from pathlib import Path

import numpy as np
import pytest
from torch.utils.tensorboard import SummaryWriter

from defectlab import runs
from defectlab.errors import InputError
from defectlab.runs import (
    RunFolder,
    find_runs,
    log_test_evaluation,
    read_prediction_table,
    read_scalars,
    write_prediction_table,
)
from defectlab.runs.state import read_state, write_state
from defectlab.utils.files import atomic


def make(folder: Path) -> Path:
    folder.mkdir(parents=True)
    (folder / "config.yaml").write_text("seed: 0\n")
    return folder


def test_opens_a_run_folder_and_names_its_files(tmp_path: Path) -> None:
    run = RunFolder.open(str(make(tmp_path / "run")))
    assert run.path == tmp_path / "run"
    assert run.best == tmp_path / "run/checkpoints/best.ckpt"
    assert run.last == tmp_path / "run/checkpoints/last.ckpt"


def test_a_folder_of_runs_stands_for_its_newest(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    make(tmp_path / "runs/a/20260102-090000")
    newest = make(tmp_path / "runs/a/20260301-090000")
    make(tmp_path / "runs/b/20260201-090000")
    assert find_runs(tmp_path / "runs")[-1] == newest
    make(newest / "test-20260401-090000")
    for folder in ("runs", "runs/a", "runs/latest", "runs/a/latest"):
        assert RunFolder.open(tmp_path / folder).path == newest, "another test of a run is no run"
    with pytest.raises(InputError, match=r"no config\.yaml.*20260301-090000") as caught:
        RunFolder.open(tmp_path / "runs/a", newest=False)
    assert "\n" not in str(caught.value)
    with pytest.raises(InputError, match=r"does not exist.*20260301-090000"):
        RunFolder.open(tmp_path / "runs/a/20260301-09000")
    assert RunFolder.open(tmp_path / "runs/a").path == newest, "a folder of runs means its newest"
    (newest / "checkpoints").mkdir()
    with pytest.raises(InputError, match=r"mean .*20260301-090000\?"):
        RunFolder.open(newest / "checkpoints")
    monkeypatch.chdir(tmp_path)
    assert RunFolder.open("latest") == RunFolder(newest.relative_to(tmp_path))
    (tmp_path / "runs/b/crossval.json").touch()
    with pytest.raises(InputError, match=r"mean .*20260201-090000\?"):
        RunFolder.open("runs/b")


def test_refuses_what_is_no_run_folder(tmp_path: Path) -> None:
    (tmp_path / "model.onnx").touch()
    with pytest.raises(InputError, match="is a file"):
        RunFolder.open(tmp_path / "model.onnx")
    (tmp_path / "empty").mkdir()
    with pytest.raises(InputError, match=r"no config\.yaml.*defectlab fit"):
        RunFolder.open(tmp_path / "empty")


def test_metrics_round_trip_in_order_with_nan_as_null(tmp_path: Path) -> None:
    run = RunFolder(tmp_path)
    test = {"accuracy": 0.1 + 0.2, "ece": math.nan, "rows": [1, (math.inf, 2.5)]}
    about = {"seed": 0, "note": "Müller"}
    run.write_metrics({"run": about, "test": test, "data": {"source": "real"}, "extra": 1})
    assert list(run.read_metrics()) == ["data", "test", "run", "extra"]
    assert run.read_metrics()["test"] == {"accuracy": 0.1 + 0.2, "ece": None, "rows": [1, [None, 2.5]]}
    assert "NaN" not in run.metrics_json.read_text()
    assert "Müller" in run.metrics_json.read_text(encoding="utf-8")
    assert [file.name for file in tmp_path.iterdir()] == ["metrics.json"]  # no drafts


def test_tables_carry_the_fingerprint_of_the_best_checkpoint_whatever_its_name(tmp_path: Path) -> None:
    run = RunFolder(make(tmp_path / "run"))
    assert RunFolder(run.path).fingerprint is None
    run.write_predictions(["1.png"], [0], [[0.75, 0.25]], ["a", "b"])
    assert run.read_predictions().checkpoint is None
    for place, content in (("run/checkpoints/top-epoch=1.ckpt", b"1"), ("elsewhere/best.ckpt", b"2")):
        best = tmp_path / place
        best.parent.mkdir()
        best.write_bytes(content)
        write_state(run.path, "finished", best)
        assert run.best == best
        assert run.fingerprint == hashlib.sha256(content).hexdigest()[:16]
        state = read_state(run.path)
        assert state is not None
        assert (state.phase, state.sha256) == ("finished", hashlib.sha256(content).hexdigest())
        run.write_predictions(["1.png"], [0], [[0.75, 0.25]], ["a", "b"])
        assert run.read_predictions().checkpoint == run.fingerprint
        assert run.predictions_csv.read_text().splitlines()[1] == f"1.png,a,a,0.75,0.75,0.25,{run.fingerprint}"
    write_state(run.path, "training", tmp_path / "run/checkpoints/top-epoch=1.ckpt")
    moved = run.path.rename(tmp_path / "moved")
    assert RunFolder(moved).best == moved / "checkpoints/top-epoch=1.ckpt"
    for text in ("{", "[]", '{"state": "ready", "best": null}', '{"state": "training", "best": {"file": 1}}'):
        (moved / "state.json").write_text(text)
        with pytest.raises(InputError, match=r"state\.json"):
            print(RunFolder(moved).fingerprint)


def test_a_failed_write_leaves_the_old_metrics(tmp_path: Path) -> None:
    run = RunFolder(tmp_path)
    run.write_metrics({"run": {"seed": 0}})
    with pytest.raises(TypeError):
        run.write_metrics({"run": object()})
    assert run.read_metrics() == {"run": {"seed": 0}}


def test_unreadable_metrics_are_named(tmp_path: Path) -> None:
    run = RunFolder(tmp_path)
    with pytest.raises(InputError, match="missing: the run was not finished"):
        run.read_metrics()
    for text, said in (('{"test": ', "not valid JSON"), ("[]", "no JSON object")):
        run.metrics_json.write_text(text)
        with pytest.raises(InputError, match=said):
            run.read_metrics()


def test_predictions_round_trip(tmp_path: Path) -> None:
    names = ["rolled-in, scale", 'a "b"', "ü"]
    files = ["x/1.png", "comma, file.png", "odd\udcff.png"]  # the last is a name that is not UTF-8
    shares = np.array([[0.7, 0.2, 0.1], [1 / 3, 1 / 3, 1 / 3], [0, 0.0000004, 0.9999996]])
    run = RunFolder(tmp_path)
    run.write_predictions(files, np.array([0, 1, 2]), shares, names)
    table = run.read_predictions()
    assert table.files == files
    assert table.class_names == names
    assert table.labels is not None
    assert table.labels.tolist() == [0, 1, 2]
    assert table.predicted.tolist() == [0, 0, 2]
    np.testing.assert_allclose(table.probabilities, shares, atol=5e-7)


def test_the_columns_of_predictions(tmp_path: Path) -> None:
    path = tmp_path / "new folder/out.csv"
    write_prediction_table(path, ["1.png"], [1], [[0.25, 0.75]], ["a", "b"])
    assert path.read_text() == "file,label,predicted,confidence,p_a,p_b\n1.png,b,b,0.75,0.25,0.75\n"
    write_prediction_table(path, ["1.png"], None, [[0.25, 0.75]], ["a", "b"])
    with path.open(newline="") as file:
        assert next(csv.reader(file)) == ["file", "predicted", "confidence", "p_a", "p_b"]
    table = read_prediction_table(path)
    assert table.labels is None
    assert table.predicted.tolist() == [1]


def test_predictions_for_no_images(tmp_path: Path) -> None:
    path = tmp_path / "out.csv"
    write_prediction_table(path, [], None, np.zeros((0, 2)), ["a", "b"])
    assert read_prediction_table(path).probabilities.shape == (0, 2)


def test_predictions_that_do_not_fit_are_refused(tmp_path: Path) -> None:
    path = tmp_path / "out.csv"
    with pytest.raises(InputError, match=r"expected \(1, 2\)"):
        write_prediction_table(path, ["1.png"], None, [[0.2, 0.3, 0.5]], ["a", "b"])
    with pytest.raises(InputError, match="from -1 to 1: expected 0 to 1"):
        write_prediction_table(path, ["1.png", "2.png"], [-1, 1], [[0.2, 0.8], [0.2, 0.8]], ["a", "b"])
    (tmp_path / "file").touch()
    with pytest.raises(InputError, match="cannot be written"):
        write_prediction_table(tmp_path / "file/out.csv", [], None, np.zeros((0, 2)), ["a", "b"])
    with pytest.raises(InputError, match="cannot be read"):
        read_prediction_table(path)
    for text, said in (
        ("", "header"),
        ("name,p_a\n", "header"),
        ("file,predicted,confidence,p_a\nx,other,1,1\n", "row 2"),
        ("file,predicted,confidence,p_a\nx,a,1\n", "row 2"),
        ("file,predicted,confidence,p_a\nx,a,1,many\n", "row 2"),
    ):
        path.write_text(text)
        with pytest.raises(InputError, match=said):
            read_prediction_table(path)


def test_environment_is_plain_and_knows_the_commit(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    found = runs.environment()
    assert json.loads(json.dumps(found)) == found
    assert found["python"] == ".".join(map(str, sys.version_info[:3]))
    assert found["torch"]
    assert found["cores"] >= 1
    assert found["working_commit"] is None
    git = ["git", "-c", "user.name=a", "-c", "user.email=a@b.c"]
    (tmp_path / "file").write_text("1")
    for command in (["init", "-q"], ["add", "file"], ["commit", "-q", "-m", "first"]):
        subprocess.run([*git, *command], check=True, capture_output=True)
    said = subprocess.run(["git", "rev-parse", "HEAD"], check=True, capture_output=True, text=True).stdout.strip()
    monitor = tmp_path / "monitor"
    monitor.write_text("#!/bin/sh\ntouch ran\n")
    monitor.chmod(0o755)
    subprocess.run(["git", "config", "core.fsmonitor", str(monitor)], check=True)
    (tmp_path / "below").mkdir()
    monkeypatch.chdir(tmp_path / "below")
    assert runs.environment()["working_commit"] == said
    assert runs.environment()["commit"] == found["commit"], "defectlab's own, wherever one works"
    subprocess.run(["git", "-c", "core.fsmonitor=false", "pack-refs", "--all"], check=True)
    assert runs.environment()["working_commit"] == said
    subprocess.run(["git", "-c", "core.fsmonitor=false", "worktree", "add", "-q", "../tree"], check=True)
    monkeypatch.chdir(tmp_path / "tree")
    assert runs.environment()["working_commit"] == said
    (tmp_path / "ran").unlink(missing_ok=True)
    assert runs.environment()["working_commit"] == said
    assert not (tmp_path / "ran").exists()
    for head in ("ref: refs/../../../secret", "secret", "ref: refs/heads/none"):
        (tmp_path / ".git/HEAD").write_text(head)
        monkeypatch.chdir(tmp_path)
        assert runs.environment()["working_commit"] is None


def test_imports_neither_torch_nor_lightning() -> None:
    code = (
        "import sys, defectlab.runs, defectlab.report; "
        "print([m for m in ('torch', 'lightning', 'torchmetrics', 'matplotlib.pyplot') if m in sys.modules])"
    )
    answer = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert answer.stdout.strip() == "[]"


def test_readings_of_a_test_split_are_counted(tmp_path: Path) -> None:
    assert [log_test_evaluation(tmp_path, name, "run", 0.5) for name in ("abc", "abc", "def", "abc")] == [1, 2, 1, 3]
    assert (tmp_path / "test_reads.csv").read_text().count("split_hash") == 1


def test_scalars_of_a_resumed_run_are_one_curve(tmp_path: Path) -> None:
    for start, offset in ((0, 0.0), (3, 100.0)):
        writer = SummaryWriter(str(tmp_path), filename_suffix=f".{start}")
        for step in range(start, start + 5):
            writer.add_scalar("train/loss_step", step + offset, step)
        writer.close()
    assert read_scalars(tmp_path, "train/loss_step") == {
        0: 0.0, 1: 1.0, 2: 2.0, 3: 103.0, 4: 104.0, 5: 105.0, 6: 106.0, 7: 107.0,
    }  # fmt: skip
    assert read_scalars(tmp_path, "another") == {}
    (tmp_path / "events.out.tfevents.broken").write_bytes(b"no events")
    assert len(read_scalars(tmp_path, "train/loss_step")) == 8


def test_an_atomic_write_leaves_the_old_file_or_the_new_one(tmp_path: Path) -> None:
    path = tmp_path / "new" / "file.txt"
    with atomic(path) as draft:
        draft.write_text("first")
        with atomic(path, sync=True) as other:  # another process: the names of the drafts differ
            other.write_text("second")
    assert path.read_text() == "first"
    with (
        pytest.raises(InputError, match=r"file.txt cannot be written \(disk full\); make room"),
        atomic(path, "make room"),
    ):
        raise OSError("disk full")
    with suppress(KeyboardInterrupt), atomic(path) as draft:
        draft.write_text("half")
        raise KeyboardInterrupt
    assert path.read_text() == "first"
    assert list(path.parent.iterdir()) == [path]


def test_undefined_figures_are_nan_in_memory_and_null_in_the_file(tmp_path: Path) -> None:
    run = RunFolder(tmp_path)
    run.write_metrics(
        {"test": {"accuracy": 0.5, "per_class": {"a": {"precision": float("nan")}}}, "run": {"seed": None}}
    )
    assert run.read_metrics()["test"]["per_class"]["a"]["precision"] is None
    precision = run.metrics["test"]["per_class"]["a"]["precision"]
    assert precision != precision
    assert run.metrics["run"].get("seed") is None
