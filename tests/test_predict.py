"""`predict` and `load` as functions: files, arrays and lists; thresholds, sets and a table."""

import csv
import shutil
import subprocess
import sys
from collections.abc import Sequence
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from helpers import refusal, write_config
from PIL import Image

from defectlab.cli.main import main
from defectlab.data.sources.reading import read_images
from defectlab.inference import predictor as predictor_module
from defectlab.inference.network import InferenceNetwork
from defectlab.inference.predict import predict
from defectlab.inference.predictions import BadImages
from defectlab.inference.predictor import Predictor, load
from defectlab.runs import RunFolder, read_prediction_table, write_prediction_table
from defectlab.tasks.checkpoint import load_task


@pytest.fixture
def run(tmp_path: Path, class_folders: Path) -> RunFolder:
    assert main(["fit", "--config", str(write_config(tmp_path, class_folders))]) == 0
    return RunFolder(next((tmp_path / "runs" / "tiny").iterdir()))


def test_files_and_arrays_are_the_same_images(run: RunFolder, class_folders: Path, tmp_path: Path) -> None:
    model = load(run, "cpu")
    assert isinstance(model, Predictor)
    paths = [class_folders / "good" / f"{index}.png" for index in range(3)]
    expected = model(paths)
    tested = run.read_predictions()
    known = dict(zip(tested.files, tested.probabilities, strict=True))
    for file, row in zip(expected.files, expected.probabilities, strict=True):
        name = Path(file).relative_to(class_folders).as_posix()
        if name in known:
            np.testing.assert_allclose(row, known[name], atol=2e-6)
    arrays = [np.asarray(Image.open(path)) for path in paths]
    for given in (arrays, np.stack(arrays), np.stack(arrays)[..., None], np.stack(arrays)[..., None].repeat(3, 3)):
        np.testing.assert_allclose(model(given).probabilities, expected.probabilities, atol=1e-6)
    for one in (str(paths[0]), paths[0], arrays[0], arrays[0][..., None]):
        found = model(one)
        assert len(found) == 1
        np.testing.assert_allclose(found.probabilities[0], expected.probabilities[0], atol=1e-6)
    assert predict(str(run.best), class_folders).class_names == ("good", "hole", "scratch")
    assert len(predict(model, [class_folders / "good", class_folders / "hole"])) == 24
    refusal(lambda: model(arrays[0].astype(np.float32)), "float32", "expected uint8")
    refusal(lambda: model(np.zeros((2, 5, 5, 2), np.uint8)), "(5, 5, 2)")
    refusal(lambda: load(run, "nowhere"), "device nowhere", "use cpu")


def test_a_table_with_decisions(run: RunFolder, class_folders: Path, tmp_path: Path) -> None:
    names = ["good", "hole", "scratch"]
    top = np.linspace(1.0, 0.34, 40)
    shares = np.stack([top, (1 - top) / 2, (1 - top) / 2], axis=1)
    labels = np.where(np.arange(40) < 20, 0, np.arange(40) % 3)
    write_prediction_table(run.val_predictions_csv, [f"{i}.png" for i in range(40)], labels, shares, names)
    (class_folders / "good" / "bad.png").write_bytes(b"no image")
    refusal(lambda: predict(run, class_folders), "bad.png", "not an image")
    found = predict(run, class_folders, max_error=0.2, sets=0.8, on_bad_image="skip", device="cpu")
    assert [Path(left.file).name for left in found.skipped] == ["bad.png"]
    assert found.threshold is not None
    assert found.threshold.total == 40
    assert found.decision is not None
    sure = found.confidence.astype(np.float32) >= np.float32(found.threshold.confidence)
    assert [decision != "review" for decision in found.decision] == sure.tolist()
    assert len(found.rows) == len(found) == 36
    assert list(found.rows[0]) == [
        "file",
        "predicted",
        "confidence",
        "p_good",
        "p_hole",
        "p_scratch",
        "decision",
        "set",
    ]
    assert found.rows[0]["p_good"] == found.probabilities[0, 0]
    found.write_csv(str(tmp_path / "out.csv"))
    assert read_prediction_table(tmp_path / "out.csv").files == list(found.files)
    with (tmp_path / "out.csv").open(newline="") as file:
        assert list(next(csv.DictReader(file))) == list(found.rows[0])
    assert repr(found).splitlines()[0].startswith("Predictions of 36 images: ")
    assert "decision" in repr(found)
    refusal(lambda: predict(run, class_folders, max_error=0.2, costs="costs.csv"), "both decide")
    refusal(lambda: predict(run.best, class_folders, sets=0.8), "sets needs a run folder")


def test_one_image_needs_no_lightning(run: RunFolder, class_folders: Path) -> None:
    code = (
        "import sys; from defectlab.cli.main import main; status = main(sys.argv[1:]); "
        "print(status, sorted({'lightning', 'matplotlib', 'scipy', 'torchvision'} & set(sys.modules)))"
    )
    words = ["predict", str(run.path), str(class_folders / "good" / "0.png")]
    result = subprocess.run([sys.executable, "-c", code, *words], capture_output=True, text=True, check=True)
    assert result.stdout.splitlines()[-1] == "0 []"
    task, card = load_task(run.best)
    quick = load(run, "cpu")
    slow = Predictor("task", (task,), (card,))
    assert isinstance(quick.tasks[0], InferenceNetwork)
    np.testing.assert_array_equal(quick(class_folders).probabilities, slow(class_folders).probabilities)


def test_a_broken_image_costs_no_other(
    run: RunFolder, class_folders: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    whole = predict(run, class_folders, device="cpu")
    (class_folders / "good" / "5.png").write_bytes(b"no image")
    out = tmp_path / "out.csv"
    with pytest.raises(BadImages) as caught:
        predict(run, class_folders, device="cpu", output=out)
    assert "5.png" in str(caught.value)
    assert len(caught.value.predictions) == 35
    assert main(["predict", str(run.path), str(class_folders), "--output", str(out)]) == 1
    said = capsys.readouterr()
    assert "35 images" in said.out
    assert "5.png" in said.err
    table = read_prediction_table(out)
    place = {file: index for index, file in enumerate(whole.files)}
    kept = whole.probabilities[[place[file] for file in table.files]]
    np.testing.assert_array_equal(table.probabilities, kept.astype(np.float32))
    assert main(["predict", str(run.path), str(class_folders), "--output", str(out), "--on_bad_image", "skip"]) == 0


def test_a_stopped_call_is_gone_on_with(
    run: RunFolder, class_folders: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    whole = predict(run, class_folders, device="cpu")
    calls = []

    def stop(files: Sequence[Path], *rest: Any, **more: Any) -> Any:
        calls.append(len(files))
        if len(calls) == 3:
            raise KeyboardInterrupt
        return read_images(files, *rest, **more)

    monkeypatch.setattr(predictor_module, "_BLOCK", 10)
    monkeypatch.setattr(predictor_module, "read_images", stop)
    out = tmp_path / "out.csv"
    words = ["predict", str(run.path), str(class_folders), "--output", str(out)]
    assert main(words) == 130
    assert not out.exists()
    assert len(read_prediction_table(tmp_path / "out.csv.part").files) == 20
    changed = next(class_folders.rglob("1.png"))
    changed.touch()  # was written to since: it is predicted again
    assert main(words) == 0
    assert sum(calls[3:]) == 17
    table = read_prediction_table(out)
    assert table.files == list(whole.files)
    np.testing.assert_array_equal(table.probabilities, whole.probabilities.astype(np.float32))
    assert not (tmp_path / "out.csv.part").exists()


def test_promises_stand_on_the_tables_of_this_network(run: RunFolder, class_folders: Path) -> None:
    assert len(predict(run, class_folders, sets=0.8, device="cpu")) == 36
    text = run.val_predictions_csv.read_text(encoding="utf-8")
    assert run.fingerprint is not None
    run.val_predictions_csv.write_text(text.replace(run.fingerprint, "0" * 16), encoding="utf-8")
    for promise in ({"sets": 0.8}, {"max_error": 0.5}):
        refusal(partial(predict, run, class_folders, device="cpu", **promise), "another network", "resume")  # type: ignore[arg-type]
    run.val_predictions_csv.unlink()
    refusal(lambda: predict(run, class_folders, sets=0.8), "val_predictions.csv is gone", "fit anew")


def test_figures_of_a_run_are_no_images(run: RunFolder, class_folders: Path, tmp_path: Path) -> None:
    again = tmp_path / "runs" / "tiny" / "again"
    shutil.copytree(run.path, again)
    one = class_folders / "good" / "0.png"
    for second in (again, again.parent, again / "confusion_matrix.png"):
        refusal(partial(predict, run, [second, one], device="cpu"), "run folder", "no images")
    assert len(predict(tmp_path / "runs" / "tiny" / "latest", one, device="cpu")) == 1


def test_outputs_that_are_no_numbers(run: RunFolder, class_folders: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    model = load(run, "cpu")
    network = model.tasks[0]
    with torch.no_grad():
        next(network.parameters()).fill_(float("inf"))  # after it was loaded
    refusal(lambda: model(class_folders), "not finite")
