"""`defectlab adapt`: weights from images without labels, and the networks that take them."""

import re
import shutil
from pathlib import Path

import numpy as np
import pytest
import torch
from conftest import write_class_folders
from PIL import Image
from sklearn.linear_model import Ridge

import defectlab as dl
from defectlab.cli.main import main
from defectlab.engine.adapt import fit_projection
from defectlab.errors import InputError
from defectlab.networks import PretrainedNetwork
from defectlab.networks.weights import load_backbone_weights, save_backbone_weights
from defectlab.utils.tensors import read_tensors

SIDE = "32"


@pytest.fixture(scope="module")
def teacher(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A file of random weights, in place of ImageNet's."""
    torch.manual_seed(0)
    path = tmp_path_factory.mktemp("teacher") / "teacher.safetensors"
    save_backbone_weights(PretrainedNetwork(2, 3, 32, "mobilenet_v2", stages="middle"), path, half=True)
    return path


@pytest.fixture(scope="module")
def unlabelled(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """120 images in one flat folder."""
    made = write_class_folders(tmp_path_factory.mktemp("made") / "images", 40)
    flat = tmp_path_factory.mktemp("flat")
    for number, file in enumerate(sorted(made.rglob("*.png"))):
        shutil.copy(file, flat / f"{number}.png")
    return flat


@pytest.fixture(scope="module")
def adapted(teacher: Path, unlabelled: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Weights adapted at the prompt."""
    path = tmp_path_factory.mktemp("adapted") / "new" / "own.safetensors"
    words = ["adapt", str(unlabelled), "--output", str(path), "--teacher", str(teacher), "--image-size", SIDE]
    assert main(words) == 0
    return path


def test_inner_products_become_those_of_the_ridge_prediction() -> None:
    rng = np.random.default_rng(0)
    known, noise = rng.normal(size=(200, 3)), rng.normal(size=(200, 5))
    found = np.hstack([known, noise]) @ rng.normal(size=(8, 8)) * 3 + 1
    wanted = known @ rng.normal(size=(3, 6))
    mapped = fit_projection(found[None], wanted)(torch.from_numpy(found).float()).double().numpy()
    own, other = ((values - values.mean(0)) / values.std(0) for values in (found, wanted))
    predicted = Ridge(alpha=0.015 * 200, fit_intercept=False).fit(own, other).predict(own)
    products, expected = mapped @ mapped.T, predicted @ predicted.T
    assert np.allclose(products / np.linalg.norm(products), expected / np.linalg.norm(expected), atol=1e-6)
    assert np.allclose((mapped**2).mean(), 1, atol=1e-3)
    assert np.linalg.norm(np.linalg.lstsq(mapped, noise, rcond=0.05)[0]) < 1, "what the teacher does not know is small"


def test_the_prompt_and_python_write_the_same_file(
    adapted: Path, teacher: Path, unlabelled: Path, tmp_path: Path
) -> None:
    before = torch.get_rng_state()
    again = dl.adapt_weights([unlabelled], tmp_path / "again.safetensors", teacher=str(teacher), image_size=32)
    ours, theirs = (read_tensors(path, "") for path in (again, adapted))
    assert all(torch.equal(ours[key], theirs[key]) for key in theirs)
    assert torch.equal(torch.get_rng_state(), before)
    few = dl.adapt_weights(unlabelled, tmp_path / "f.safetensors", teacher=str(teacher), image_size=32, most=110)
    assert not torch.equal(read_tensors(few, "")["projection.weight"], theirs["projection.weight"])


def test_grey_and_colour_networks_embed_grey_images_alike(adapted: Path) -> None:
    images = torch.rand(4, 1, 32, 32)
    found = []
    for channels in (1, 3):
        network = PretrainedNetwork(2, channels, 32, stages="middle", projection=True).eval()
        load_backbone_weights(network, str(adapted))
        found.append(network.embed(images.expand(-1, channels, -1, -1)))
    assert torch.allclose(found[0], found[1], rtol=0.01, atol=0.02)
    plain = PretrainedNetwork(2, 1, 32, stages="middle").eval()
    load_backbone_weights(plain, "surface-distilled")
    projection = read_tensors(adapted, "")
    expected = plain.embed(images) @ projection["projection.weight"].T + projection["projection.bias"]
    assert torch.allclose(found[0], expected, rtol=0.01, atol=0.02)


def test_a_run_with_adapted_weights_can_all_that_others_can(adapted: Path, class_folders: Path, tmp_path: Path) -> None:
    words = [
        "--data.root",
        str(class_folders),
        "--data.image_size",
        SIDE,
        "--data.fit",
        "stretch",
        "--trainer.max_epochs",
        "1",
    ]
    words += [
        "--model.symmetric",
        "false",
        "--model.cache_features",
        "true",
        "--trainer.default_root_dir",
        str(tmp_path / "runs"),
    ]
    fit = ["fit", "--config", "folder_mobilenet.yaml", *words]
    assert main([*fit, "--output", str(tmp_path / "plain")]) == 0, (
        "its features must not be taken for those of the next"
    )
    run = tmp_path / "run"
    assert main([*fit, "--output", str(run), "--model.weights", str(adapted), "--model.projection", "true"]) == 0
    before = dl.open_run(run).metrics["test"]
    assert before["loss"] != dl.open_run(tmp_path / "plain").metrics["test"]["loss"]
    assert main(["test", str(run)]) == 0
    assert dl.open_run(run).metrics["test"]["loss"] == pytest.approx(before["loss"], rel=1e-4)
    kept = dl.export(run, tmp_path / "kept.safetensors")
    ours, theirs = (read_tensors(path, "")["projection.weight"] for path in (kept, adapted))  # type: ignore[arg-type]
    assert torch.equal(ours, theirs), "it is frozen"
    assert len(dl.predict(run, class_folders)) == 36


def blank(folder: Path) -> Path:
    """100 images of one grey."""
    folder.mkdir()
    for number in range(100):
        Image.new("L", (32, 32), 90).save(folder / f"{number}.png")
    return folder


@pytest.mark.parametrize(
    ("changed", "named"),
    [
        ({"images": "three"}, "3 images.*100"),
        ({"images": "empty"}, "empty"),
        ({"images": "absent"}, "absent"),
        ({"images": "blank"}, "alike"),
        ({"output": "own.pth"}, "safetensors"),
        ({"--teacher": "none.pth"}, "teacher: .*none.pth"),
        ({"--teacher-backbone": "resnet18"}, "resnet18"),
        ({"--teacher-backbone": "resnet19"}, "resnet19"),
        ({"--weights": "surfaces"}, "surfaces"),
        ({"--width": "0.5"}, "width"),
        ({"--channels": "2"}, "channels"),
        ({"--image-size": "0"}, "image_size"),
        ({"--most": "3"}, "most"),
        ({"--most": "all"}, "most"),
    ],
)
def test_unusable_input_is_one_line_and_writes_nothing(
    changed: dict[str, str],
    named: str,
    teacher: Path,
    unlabelled: Path,
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
) -> None:
    (tmp_path / "empty").mkdir()
    (tmp_path / "three").mkdir()
    for number in range(3):
        shutil.copy(unlabelled / f"{number}.png", tmp_path / "three")
    if changed.get("images") == "blank":
        blank(tmp_path / "blank")
    images = tmp_path / changed["images"] if "images" in changed else unlabelled
    out = tmp_path / "out"
    options = {"--teacher": str(teacher), "--image-size": SIDE} | {k: v for k, v in changed.items() if k[0] == "-"}
    words = [word for pair in options.items() for word in pair]
    assert main(["adapt", str(images), "--output", str(out / changed.get("output", "own.safetensors")), *words]) in (
        1,
        2,
    )
    said = capsys.readouterr().err.strip().splitlines()
    assert re.search(named, said[-1]), said
    assert not any("Traceback" in line for line in said)
    assert not out.exists() or not any(out.iterdir())


def test_files_and_networks_with_and_without_a_projection_are_told_apart(adapted: Path, tmp_path: Path) -> None:
    for weights, projection in ((str(adapted), False), ("surface-distilled", True)):
        with pytest.raises(InputError, match="set projection to"):
            dl.PretrainedTask(2, 1, 32, weights=weights, projection=projection)
    with pytest.raises(InputError, match="projection"):
        dl.PretrainedTask(2, 1, 32, weights=str(adapted), projection=True, stages=[3, 6])
    with pytest.raises(InputError, match="stretch"):
        dl.PretrainedTask(2, 1, 64, weights=str(adapted), projection=True, tiles={"size": 32, "overlap": 16})
