"""Tiles: small defects in large images."""

import csv
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

import defectlab as dl
from defectlab.cli.main import main
from defectlab.errors import InputError
from defectlab.explain.attribution import attribute
from defectlab.networks import PretrainedNetwork
from defectlab.networks.tiling import Pooling, TilePooling
from defectlab.tasks.checkpoint import load_task
from defectlab.utils.image_format import Tiles

POOLINGS: tuple[Pooling, ...] = ("mean_max", "max", "mean", "attention")


def test_statistics_are_those_of_each_tile() -> None:
    maps = torch.randn(2, 3, 8, 20)
    pooling = TilePooling(Tiles(32, 16), (64, 160), 6, "max")  # 4 of 8 and of 20 map pixels, by steps of 2
    found = pooling.statistics(maps, deviation=True)
    assert found.shape == (2, 3, 9, 6)
    for row in range(3):
        for column in range(9):
            window = maps[:, :, 2 * row : 2 * row + 4, 2 * column : 2 * column + 4].flatten(2)
            expected = torch.cat([window.mean(2), (window.var(2, unbiased=False) + 1e-6).sqrt()], dim=1)
            torch.testing.assert_close(found[:, row, column], expected, atol=1e-4, rtol=1e-4)
    assert pooling.box(2, 8) == (32, 128, 32, 32)


def test_what_is_left_at_the_edge_is_a_tile_of_its_own() -> None:
    pooling = TilePooling(Tiles(8, 0), (8, 12), 1, "mean")
    assert pooling.statistics(torch.arange(12.0).expand(1, 1, 8, 12), deviation=False).flatten().tolist() == [3.5, 9.5]
    assert pooling.box(0, 1) == (0, 8, 8, 4)


@pytest.mark.parametrize("pooling", POOLINGS)
def test_cached_embeddings_give_the_logits_of_images(pooling: Pooling) -> None:
    network = PretrainedNetwork(3, 1, (48, 96), stages="middle", tiles=Tiles(32, 16), pooling=pooling).eval()
    images = torch.randn(2, 1, 48, 96)
    with torch.no_grad():
        torch.testing.assert_close(network.classify(network.embed(images)), network(images))


@pytest.mark.parametrize("pooling", ["max", "mean_max"])
def test_contributions_add_up_to_what_the_largest_tiles_add_to_the_logit(pooling: Pooling) -> None:
    network = PretrainedNetwork(3, 1, (48, 96), stages="middle", tiles=Tiles(32, 16), pooling=pooling).eval()
    images, classes = torch.randn(2, 1, 48, 96), torch.tensor([2, 0])
    with torch.no_grad():
        tiles = network.embed_tiles(images)
        flat = tiles.mean(dim=(1, 2), keepdim=True).expand_as(tiles)
        assert network.tiling is not None
        logits = [network.classify(network.tiling(one)).gather(1, classes[:, None])[:, 0] for one in (tiles, flat)]
    added = network.tile_contributions(tiles, classes)
    assert added.shape == tiles.shape[:3]
    torch.testing.assert_close(added.sum(dim=(1, 2)), logits[0] - logits[1], atol=1e-4, rtol=1e-4)


@pytest.mark.parametrize("hidden", [0, 8])
@pytest.mark.parametrize("pooling", POOLINGS)
def test_contributions_are_gradient_times_difference(pooling: Pooling, hidden: int) -> None:
    network = PretrainedNetwork(3, 1, (48, 96), tiles=Tiles(32, 16), pooling=pooling, hidden=hidden)
    for _ in range(3):  # statistics that differ from 0 and 1
        network(torch.rand(8, 1, 48, 96))
    network.eval()
    classes = torch.tensor([2, 0, 1, 1])
    tiles = network.embed_tiles(torch.randn(4, 1, 48, 96)).detach()
    tiles = (tiles + tiles.std() * torch.randn_like(tiles)).requires_grad_()
    assert network.tiling is not None
    (gradient,) = torch.autograd.grad(network.classify(network.tiling(tiles)).gather(1, classes[:, None]).sum(), tiles)
    expected = (gradient * (tiles - tiles.mean(dim=(1, 2), keepdim=True))).sum(dim=3)
    torch.testing.assert_close(network.tile_contributions(tiles, classes), expected, atol=1e-6, rtol=1e-4)


def strips(root: Path, count: int = 12) -> None:
    """Write strips of noise with a bright or a dark spot at some place."""
    for label, sign in (("bright", 1), ("dark", -1)):
        (root / label).mkdir(parents=True)
        for index in range(count):
            rng = np.random.default_rng([index, sign + 1])
            pixels = rng.normal(128, 6, (64, 320))
            y, x = rng.integers(8, 56), rng.integers(8, 312)
            pixels[y - 4 : y + 4, x - 4 : x + 4] += sign * 70
            Image.fromarray(pixels.clip(0, 255).astype(np.uint8)).save(root / label / f"{x}_{y}_{index}.png")


def test_strips_are_tiled_by_default_and_the_tile_that_decides_is_told(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    strips(tmp_path / "set")
    words = ["--data.root", str(tmp_path / "set"), "--output", str(tmp_path / "run"), "--trainer.max_epochs", "5"]
    assert main(["fit", "--config", "folder_mobilenet.yaml", *words, "--data.channels", "1"]) == 0
    task, card = load_task(tmp_path / "run" / "checkpoints" / "best.ckpt")
    assert card.image_size == (64, 320)
    assert card.fit == "pad"
    assert isinstance(task.network, PretrainedNetwork)
    assert task.network.tiling is not None
    assert task.network.tiling.tiles == Tiles(64, 32)
    assert dl.RunFolder(tmp_path / "run").metrics["test"]["accuracy"] == 1

    capsys.readouterr()
    assert main(["predict", str(tmp_path / "run"), str(tmp_path / "set"), "--output", str(tmp_path / "out.csv")]) == 0
    with open(tmp_path / "out.csv", encoding="utf-8") as file:
        rows = list(csv.DictReader(file))
    inside = 0
    for row in rows:
        spot = [int(number) for number in Path(row["file"]).name.split("_")[:2]]
        corner, size = (list(map(int, row["tile"].split()))[part] for part in (slice(0, 2), slice(2, 4)))
        inside += all(low <= at < low + long for at, low, long in zip(spot, corner, size, strict=True))
    assert inside >= 0.7 * len(rows)  # by chance two tiles of nine

    assert main(["explain", str(tmp_path / "run")]) == 0
    predictor = dl.load(str(tmp_path / "run"))
    assert len(predictor([str(tmp_path / "set")]).tiles or ()) == len(rows)


def test_a_map_of_tiles_is_brightest_at_the_spot(tmp_path: Path) -> None:
    network = PretrainedNetwork(2, 1, (64, 128), stages="middle", tiles=Tiles(32, 16), pooling="max").eval()
    with pytest.raises(InputError, match="tiles"):
        attribute(torch.nn.Flatten(), torch.zeros(1, 1, 2, 1), torch.tensor([0]), "tiles")
    found = attribute(network, torch.randn(1, 1, 64, 128), torch.tensor([1]), "tiles")
    assert found.shape == (1, 64, 128)
    assert found.min() >= 0


def test_attention_learns_end_to_end_and_on_cached_tiles(tmp_path: Path) -> None:
    strips(tmp_path / "set", 8)
    for cached in ("true", "false"):
        run = tmp_path / cached
        words = ["--data.root", str(tmp_path / "set"), "--output", str(run), "--trainer.max_epochs", "2"]
        words += ["--model.pooling", "attention", "--model.cache_features", cached, "--data.channels", "1"]
        assert main(["fit", "--config", "folder_mobilenet.yaml", *words]) == 0
        table = dl.predict(str(run), str(tmp_path / "set"))
        assert np.isfinite(table.probabilities).all()


@pytest.mark.parametrize(
    ("words", "named"),
    [
        (["--data.tiles", "{size: 0, overlap: 0}"], "tiles.size"),
        (["--data.tiles", "{size: 32, overlap: 32}"], "tiles.overlap"),
        (["--data.tiles", "{size: 100, overlap: 0}"], "100"),
        (["--model.pooling", "median"], "median"),
        (["--data.fit", "stretch", "--data.tiles", "{size: 32, overlap: 0}"], "data.tiles"),
    ],
)
def test_what_tiles_cannot_be(words: list[str], named: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    strips(tmp_path / "set", 4)
    output = tmp_path / "run"
    start = ["fit", "--config", "folder_mobilenet.yaml", "--data.root", str(tmp_path / "set"), "--output", str(output)]
    assert main([*start, *words]) != 0
    said = capsys.readouterr().err.strip()
    assert named in said
    assert len(said.splitlines()) == 1
    assert not output.exists()
