"""Sets that are mapped or streamed: the batches, statistics and errors of one that is held in memory."""

import os
import time
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest
import torch
from conftest import striped, write_class_folders
from helpers import read, refusal, write_config
from PIL import Image
from torch import Tensor

from defectlab.cli.main import main
from defectlab.data import Augmentation, ImageFolderDataModule
from defectlab.data.sources import lazy
from defectlab.data.sources.backing import Backing, check_batch, choose_backing
from defectlab.data.sources.cache import default_cache
from defectlab.data.sources.lazy import LazyImages
from defectlab.tasks.checkpoint import read_checkpoint
from defectlab.utils import memory

TURNED = Augmentation(horizontal_flip=0.5, rotation=20, noise=0.1)


@pytest.fixture(autouse=True)
def own_cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    return default_cache()


def module(root: Path, backing: Backing, **settings: object) -> ImageFolderDataModule:
    given = {"image_size": 16, "batch_size": 5, "augmentation": TURNED, **settings}
    data = ImageFolderDataModule(str(root), backing=backing, **given)  # type: ignore[arg-type]
    data.setup()
    return data


def coloured(root: Path) -> Path:
    """Turn one image of the last class red."""
    pixels = np.stack([striped(2, 5), striped(2, 6), striped(2, 7)], axis=2)
    Image.fromarray(pixels).save(root / "scratch" / "5.png")
    return root


@pytest.mark.parametrize("colour", [False, True])
@pytest.mark.parametrize("backing", ["mapped", "streamed"])
def test_batches_do_not_depend_on_where_the_pixels_live(backing: Backing, colour: bool, class_folders: Path) -> None:
    root = coloured(class_folders) if colour else class_folders
    held, other = (module(root, one) for one in ("memory", backing))
    assert held.card == other.card
    assert held.split_table().hash == other.split_table().hash
    assert held.data.images.shape == other.data.images.shape
    assert held.data.images.shape[1] == (3 if colour else 1), "grey images cost one channel"
    loaders = [(data.train_dataloader(), data.val_dataloader(), data.test_dataloader()) for data in (held, other)]
    for first, second in zip(*loaders, strict=True):
        for _ in range(2):
            for (images, labels), (others, other_labels) in zip(first, second, strict=True):
                assert torch.equal(images, others)
                assert torch.equal(labels, other_labels)
    assert torch.equal(held.pixels("test", [2, 0]), other.pixels("test", [2, 0]))
    assert torch.equal(held.pixel_statistics()[0], other.pixel_statistics()[0])


def test_a_second_start_indexes_nothing(class_folders: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    first = module(class_folders, "streamed")
    with monkeypatch.context() as patch:
        patch.setattr("defectlab.data.sources.index.content_hash", lambda _: pytest.fail("indexed anew"))
        patch.setattr("defectlab.data.sources.index.bytes_of", lambda path: pytest.fail(f"{path} is read"))
        again = module(class_folders, "streamed")
        assert again.card == first.card
    # What has changed alone is read again.
    Image.fromarray(striped(1, 50)).save(class_folders / "hole" / "3.png")
    Image.fromarray(striped(1, 51)).save(class_folders / "hole" / "12.png")
    changed = module(class_folders, "streamed")
    assert len(changed.data.files) == 37
    assert changed.card == module(class_folders, "memory").card != first.card


def test_memory_is_bounded_by_a_few_batches() -> None:
    started, most = 0, 0

    def read_row(row: int, out: "np.ndarray[tuple[int, ...], np.dtype[np.uint8]]") -> None:
        nonlocal started
        started += 1
        out[...] = row % 256

    images = LazyImages((1, 4, 4), read_row, torch.arange(1000))
    for step, batch in enumerate(images.ahead(torch.split(torch.arange(1000), 10))):
        time.sleep(0.001)
        most = max(most, started - 10 * step)
        assert batch[:, 0, 0, 0].tolist() == [row % 256 for row in range(10 * step, 10 * step + 10)]
    assert started == 1000
    assert most <= 10 * (lazy.AHEAD + 1)


def test_a_stream_that_is_left_early_ends(class_folders: Path) -> None:
    data = module(class_folders, "streamed")
    batches: Iterator[tuple[Tensor, Tensor]] = iter(data.train_dataloader())
    next(batches)
    batches.close()  # type: ignore[attr-defined]
    assert len(list(data.val_dataloader()))


def test_bad_files_of_a_stream(class_folders: Path) -> None:
    bad = class_folders / "hole" / "3.png"
    bad.write_bytes(bad.read_bytes()[:60])
    refusal(lambda: module(class_folders, "streamed"), "3.png", "on_bad_image")
    data = module(class_folders, "streamed", on_bad_image="skip")
    assert [left.file for left in data.data.skipped] == ["hole/3.png"]
    assert len(data.data.files) == 35
    Image.fromarray(striped(1, 3)).save(bad)
    assert len(module(class_folders, "streamed", on_bad_image="skip").data.files) == 36, "tried again"


@pytest.mark.parametrize("change", ["removed", "replaced"])
def test_a_file_that_changes_while_it_is_streamed(change: str, class_folders: Path) -> None:
    data = module(class_folders, "streamed")
    file = class_folders / data.files("train")[7]
    if change == "removed":
        file.unlink()
    else:
        Image.fromarray(striped(0, 99)).save(file)
    refusal(lambda: list(data.train_dataloader()), str(file), "resume")


def test_what_needs_all_images_says_so(class_folders: Path) -> None:
    data = module(class_folders, "streamed")
    refusal(lambda: data.data.images.float(), "data.backing")
    duplicates = [module(class_folders, one, group_duplicates=True).split_table() for one in ("memory", "streamed")]
    assert duplicates[0].hash == duplicates[1].hash, "in blocks"
    np.save(class_folders / "images.npy", np.zeros((4, 8, 8), np.uint8))
    np.save(class_folders / "labels.npy", np.array([0, 0, 1, 1]))
    refusal(lambda: module(class_folders, "streamed"), "data.backing", "arrays")
    refusal(lambda: module(class_folders, "disk"), "data.backing is 'disk'")  # type: ignore[arg-type]


def test_the_backing_follows_memory_and_disk(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    backing = "defectlab.data.sources.backing"

    def chosen(asked: Backing = "auto", free: float = 2**34, disk: float = 2**40, addresses: int | None = None) -> str:
        monkeypatch.setattr(f"{backing}.free_memory", lambda: int(free))
        monkeypatch.setattr(f"{backing}.free_addresses", lambda: addresses)
        monkeypatch.setattr("shutil.disk_usage", lambda _: type("Usage", (), {"free": int(disk)})())
        return choose_backing(asked, "NEU", 1000, (1, 1024, 1024), tmp_path / "new" / "set")  # a GiB

    assert chosen() == "memory"
    assert chosen(free=2**30) == "mapped"
    assert chosen(free=2**30, disk=2**30) == "streamed"
    assert chosen(free=2**30, addresses=2**30) == "streamed"
    assert chosen("streamed") == "streamed"
    refusal(lambda: chosen("memory", free=2**29), "1,000 images", "512 MiB", "data.backing")
    refusal(lambda: chosen("mapped", disk=2**20), "1 MiB", "data.backing")
    refusal(lambda: chosen("mapped", addresses=2**20), "ulimit", "data.backing")
    refusal(lambda: check_batch(128, 32, 128**2), "ulimit -v leaves 1 MiB")
    assert chosen() == "memory"
    refusal(lambda: check_batch(16384, 32, 3 * 16384**2), "data.image_size is 16384", "192 GiB", "16 GiB")


def test_an_image_size_beyond_the_memory_is_told_before_anything_is_read(
    class_folders: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr("defectlab.data.sources.backing.free_memory", lambda: 2**20)
    config = write_config(tmp_path, class_folders)
    assert main(["fit", "--config", str(config), "--data.image_size=512"]) == 1
    assert "data.image_size is 512" in capfd.readouterr().err
    assert not (tmp_path / "runs").exists()


def test_the_limits_of_a_control_group_count(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    group = tmp_path / "jobs"
    group.mkdir()
    (group / "memory.max").write_text("1000000\n")
    (group / "memory.current").write_text("700000\n")
    (group / "memory.stat").write_text("anon 1\ninactive_file 100000\n")
    cgroup = tmp_path / "cgroup"
    cgroup.write_text("0::/jobs/none\n")
    real = Path.read_text
    monkeypatch.setattr(memory, "_CGROUPS", tmp_path)
    monkeypatch.setattr(
        Path, "read_text", lambda path, **more: real(cgroup if str(path) == "/proc/self/cgroup" else path, **more)
    )
    assert memory.free_memory() == 400_000


def test_a_streamed_run_goes_all_the_way(class_folders: Path, tmp_path: Path) -> None:
    config = write_config(tmp_path, class_folders)
    runs = [tmp_path / backing for backing in ("memory", "streamed")]
    for run in runs:
        assert main(["fit", "--config", str(config), f"--data.backing={run.name}", "--output", str(run)]) == 0
    held, streamed = (read_checkpoint(run / "checkpoints" / "last.ckpt")["state_dict"] for run in runs)
    assert all(torch.equal(tensor, streamed[name]) for name, tensor in held.items())
    assert read(runs[0])["test"] == read(runs[1])["test"]
    for command in (["test"], ["explain"], ["robustness"], ["report"]):
        assert main([*command, str(runs[1])]) == 0
    (class_folders / "hole" / "1.png").unlink()
    assert main(["test", str(runs[1])]) == 1


def test_a_large_folder_is_listed_in_linear_time(tmp_path: Path) -> None:
    root = write_class_folders(tmp_path / "many", 1)
    for name in ("good", "hole"):
        for index in range(1, 4000):
            os.link(root / name / "0.png", root / name / f"{index}.png")
    from defectlab.data.sources.layouts import list_folders

    began = time.process_time()
    assert len(list_folders(root).files) == 8001
    assert time.process_time() - began < 5
