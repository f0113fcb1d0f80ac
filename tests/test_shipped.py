"""The files in checkpoints/: each has a card that knows it, and each does what it is shipped for, offline."""

import csv
import hashlib
from pathlib import Path

import pytest
import torch
from safetensors import safe_open

from defectlab.cli.main import main
from defectlab.data.synthesis.strip import CLASS_NAMES, synthesize
from defectlab.networks import PretrainedNetwork
from defectlab.networks.weights import load_backbone_weights
from defectlab.tasks.checkpoint import read_checkpoint
from defectlab.utils.resources import SHIPPED

FOLDER = next(folder for folder in SHIPPED if folder.is_dir())
WEIGHTS = [("surface", 1.0), ("surface-distilled", 1.0), ("surface-distilled", 1.5)]
FILES = sorted(path for path in FOLDER.iterdir() if path.suffix in (".safetensors", ".ckpt"))


def test_what_is_shipped() -> None:
    assert [path.name for path in FILES] == [
        "mobilenet_v3_small-surface-distilled.safetensors", "mobilenet_v3_small-surface.safetensors",
        "mobilenet_v3_small_1.5-surface-distilled.safetensors", "neu_mobilenet.ckpt",
    ]  # fmt: skip
    assert sum(path.stat().st_size for path in FILES) < 12e6, "they ride in the wheel"


@pytest.mark.parametrize("path", FILES, ids=lambda path: path.name)
def test_the_card_is_of_this_file(path: Path) -> None:
    card = (path.parent / f"{path.stem.replace('_1.5', '')}.md").read_text(encoding="utf-8")  # one for both widths
    assert hashlib.sha256(path.read_bytes()).hexdigest() in card
    for fact in ("config", "seed", "commit", "images", "hardware", "hours"):
        assert fact in card, f"the card does not tell the {fact}"


@pytest.mark.parametrize(("weights", "width"), WEIGHTS)
def test_surface_weights_tell_textures_apart(weights: str, width: float) -> None:
    """Untrained features see no difference that these do not: same-texture pairs are nearest neighbours."""
    network = PretrainedNetwork(6, 1, 96, width=width, stages="middle").eval()
    load_backbone_weights(network, weights)
    generator = torch.Generator().manual_seed(0)
    noise = torch.randn(8, 1, 96, 96, generator=generator)
    fine, coarse = noise, torch.nn.functional.interpolate(noise[..., ::6, ::6], 96, mode="bilinear")
    images = torch.cat([fine, coarse / coarse.std()])
    with torch.no_grad():
        embedded = network.embed(images)
    embedded = (embedded - embedded.mean(dim=0)) / (embedded.std(dim=0) + 1e-6)
    distances = torch.cdist(embedded, embedded).fill_diagonal_(torch.inf)
    assert ((distances.argmin(dim=1) < 8) == (torch.arange(16) < 8)).all()


@pytest.mark.parametrize(("weights", "width"), WEIGHTS)
def test_surface_weights_are_small_and_plain(weights: str, width: float) -> None:
    name = f"mobilenet_v3_small{'' if width == 1 else '_1.5'}-{weights}.safetensors"
    with safe_open(FOLDER / name, framework="pt") as file:
        assert file.metadata() == {"backbone": "mobilenet_v3_small", "width": str(width)}
        names = list(file.keys())
        assert all(file.get_tensor(name).isfinite().all() for name in names)
    assert names
    assert all(name.startswith("features.") for name in names)


def test_the_classifier_sorts_strip(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Drawn strip, which it has never been trained on, in place of the real images that are not here."""
    monkeypatch.chdir(tmp_path)
    synthesize(tmp_path / "strip", 10, seed=3)
    assert main(["predict", "checkpoints/neu_mobilenet.ckpt", "strip", "--output", "out.csv"]) == 0
    with (tmp_path / "out.csv").open(newline="") as file:
        rows = list(csv.DictReader(file))
    assert len(rows) == 60
    right = sum(Path(row["file"]).parent.name == row["predicted"] for row in rows)
    assert right >= 45
    assert {row["predicted"] for row in rows} == set(CLASS_NAMES)


def test_the_classifier_knows_nothing_of_the_machine_it_was_made_on() -> None:
    checkpoint = read_checkpoint(FILES[-1])
    cards = [value for value in checkpoint.values() if isinstance(value, dict) and "root" in value]
    assert [card["source"] for card in cards] == ["real"]
    assert not Path(cards[0]["root"]).is_absolute()
    assert "optimizer_states" not in checkpoint
