"""`predict` and `load` as functions: files, arrays and lists; thresholds, sets and a table."""

import csv
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
from helpers import refusal, write_config
from PIL import Image

from defectlab.cli.main import main
from defectlab.inference.network import InferenceNetwork
from defectlab.inference.predict import predict
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
