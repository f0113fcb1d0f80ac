from collections.abc import Iterator
from pathlib import Path

import pytest
import torch
from PIL import Image
from sklearn.linear_model import RidgeClassifier
from torch import Tensor

from defectlab.data.synthesis.strip import CLASS_NAMES, strip_images, synthesize
from defectlab.errors import InputError


@pytest.fixture
def _threads() -> Iterator[None]:
    threads = torch.get_num_threads()
    yield
    torch.set_num_threads(threads)


def _share_upright(images: Tensor) -> float:
    """The share of images whose strokes run from top to bottom rather than from side to side."""
    coarse = torch.nn.functional.avg_pool2d(images, 4)
    across, along = (coarse.diff(dim=dim).square().mean((1, 2, 3)) for dim in (3, 2))
    return float((across > along).float().mean())


def _files(directory: Path) -> dict[str, bytes]:
    return {str(path.relative_to(directory)): path.read_bytes() for path in sorted(directory.rglob("*.png"))}


@pytest.mark.parametrize("name", CLASS_NAMES)
def test_images_hang_on_class_seed_and_place_alone(name: str) -> None:
    longer = strip_images(name, 12, seed=0)
    assert longer.shape == (12, 1, 200, 200)
    assert longer.dtype == torch.uint8
    assert torch.equal(strip_images(name, 3, seed=0), longer[:3])
    assert not torch.equal(strip_images(name, 3, seed=1), longer[:3])
    assert len({image.numpy().tobytes() for image in longer}) == 12


@pytest.mark.usefixtures("_threads")
def test_threads_do_not_change_a_byte_and_are_left_as_they_were() -> None:
    torch.set_num_threads(1)
    alone = strip_images("patches", 21, seed=5)
    torch.set_num_threads(3)
    assert torch.equal(strip_images("patches", 21, seed=5), alone)
    assert torch.get_num_threads() == 3


def test_the_global_generator_is_left_alone() -> None:
    before = torch.get_rng_state()
    strip_images("crazing", 1, seed=0)
    assert torch.equal(torch.get_rng_state(), before)


@pytest.mark.parametrize("size", [32, 64, 224])
def test_another_size_shows_the_same_scene(size: int) -> None:
    small, full = strip_images("patches", 4, seed=3, size=size), strip_images("patches", 4, seed=3)
    assert small.shape == (4, 1, size, size)
    pooled = [torch.nn.functional.adaptive_avg_pool2d(images.float(), 8).flatten() for images in (small, full)]
    assert torch.corrcoef(torch.stack(pooled))[0, 1] > 0.98


def test_classes_look_like_what_they_are_called() -> None:
    images = {name: strip_images(name, 40, seed=1).float() / 255 for name in CLASS_NAMES}
    mean = {name: float(batch.mean()) for name, batch in images.items()}
    contrast = {name: float(batch.std((1, 2, 3)).median()) for name, batch in images.items()}
    assert max(mean, key=mean.__getitem__) == "pitted_surface"
    assert min(mean, key=mean.__getitem__) == "scratches"
    assert max(contrast, key=contrast.__getitem__) == "patches"
    skew = ((images["scratches"] - images["scratches"].mean((2, 3), keepdim=True)) ** 3).mean((1, 2, 3))
    assert (skew > 0).float().mean() > 0.85, "scratches are bright lines on a darker strip"
    assert _share_upright(images["inclusion"]) > 0.85
    assert 0.5 < _share_upright(images["scratches"]) < 0.9
    assert _share_upright(images["rolled-in_scale"]) < 0.3


def test_pixels_alone_do_not_give_the_class_away() -> None:
    """Grey levels overlap between classes: a linear rule on pixels is far from solving the task."""
    parts = []
    for seed in (10, 11):
        batch = torch.cat([strip_images(name, 40, seed, size=32) for name in CLASS_NAMES])
        parts.append(batch.flatten(1).float().div(255).numpy())
    labels = torch.arange(len(CLASS_NAMES)).repeat_interleave(40).numpy()
    model = RidgeClassifier(alpha=100.0).fit(parts[0], labels)
    assert 1.3 / 6 < model.score(parts[1], labels) < 0.65


def test_folder_holds_the_images_and_the_same_seed_the_same_bytes(tmp_path: Path) -> None:
    (tmp_path / "empty").mkdir()
    assert synthesize(tmp_path / "deep" / "first", per_class=11, seed=0, size=40) == 66
    assert synthesize(tmp_path / "empty", per_class=11, seed=0, size=40) == 66
    assert synthesize(tmp_path / "other", per_class=11, seed=1, size=40) == 66
    first = _files(tmp_path / "deep" / "first")
    assert sorted(first) == sorted(f"{name}/{name}_{i}.png" for name in CLASS_NAMES for i in range(1, 12))
    assert _files(tmp_path / "empty") == first
    assert all(_files(tmp_path / "other")[name] != content for name, content in first.items())
    assert sorted(path.name for path in tmp_path.iterdir()) == ["deep", "empty", "other"]
    with Image.open(tmp_path / "other" / "scratches" / "scratches_11.png") as image:
        assert (image.mode, image.size) == ("L", (40, 40))
        expected = strip_images("scratches", 11, seed=1, size=40)[10].flatten()
        assert list(image.tobytes()) == expected.tolist()


def test_nothing_half_written_stays_behind(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def full(self: Image.Image, path: Path, **how: object) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(Image.Image, "save", full)
    with pytest.raises(InputError, match="No space left"):
        synthesize(tmp_path / "strip", per_class=2, seed=0, size=32)
    assert list(tmp_path.iterdir()) == []


def test_a_folder_in_use_is_refused_and_kept(tmp_path: Path) -> None:
    (tmp_path / "keep.txt").write_text("mine")
    with pytest.raises(InputError, match="is not empty"):
        synthesize(tmp_path, per_class=1, seed=0)
    with pytest.raises(InputError, match=r"keep.txt is a file"):
        synthesize(tmp_path / "keep.txt", per_class=1, seed=0)
    with pytest.raises(InputError, match="cannot be written"):
        synthesize(tmp_path / "keep.txt" / "below", per_class=1, seed=0)
    assert [path.name for path in tmp_path.iterdir()] == ["keep.txt"]


@pytest.mark.parametrize(
    ("name", "count", "seed", "size", "message"),
    [
        ("scratch", 1, 0, 200, "class_name is 'scratch'"),
        ("scratches", 0, 0, 200, "count is 0: expected 1 or more"),
        ("scratches", 1, -1, 200, "seed is -1: expected 0 or more"),
        ("scratches", 1, 0, 31, "size is 31: expected 32 or more"),
    ],
)
def test_bad_arguments_are_named(name: str, count: int, seed: int, size: int, message: str) -> None:
    with pytest.raises(InputError, match=message):
        strip_images(name, count, seed, size)
