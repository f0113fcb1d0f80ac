"""Datamodules: what comes out of folders, arrays, IDX files and the generator, and what is refused."""

import gzip
import hashlib
import json
import logging
import shutil
from pathlib import Path
from typing import Any, Literal

import jsonargparse
import lightning.pytorch as pl
import numpy as np
import pytest
import torch
from helpers import Server, refusal
from PIL import Image
from torch import Tensor
from torchvision import datasets
from torchvision.transforms import v2

from defectlab.data import (
    Augmentation,
    FashionMNISTDataModule,
    ImageDataModule,
    ImageFolderDataModule,
    MNISTDataModule,
    NEUDataModule,
)
from defectlab.data.pipeline.loader import EvalLoader
from defectlab.data.pipeline.statistics import channel_statistics
from defectlab.data.sources.images import ImageSet, read_listing
from defectlab.data.sources.layouts import NEU_CLASSES, list_folders
from defectlab.utils.image_format import ImageFormat

PARTS: tuple[Literal["train", "val", "test"], ...] = ("train", "val", "test")


def folder(root: Path, image_size: int = 24, **arguments: Any) -> ImageFolderDataModule:
    """Set up."""
    module = ImageFolderDataModule(str(root), image_size=image_size, **arguments)
    module.setup()
    return module


def everything(loader: Any) -> tuple[Tensor, Tensor]:
    images, labels = zip(*loader, strict=True)
    return torch.cat(images), torch.cat(labels)


# Folders


def test_a_folder_becomes_three_loaders(class_folders: Path) -> None:
    data = folder(class_folders, batch_size=5, channels=1)
    assert data.num_classes == 3
    assert list(data.class_names) == ["good", "hole", "scratch"]
    sizes = {"train": 24, "val": 5, "test": 7}
    loaders: dict[str, EvalLoader] = {
        "train": data.train_eval_dataloader(),
        "val": data.val_dataloader(),
        "test": data.test_dataloader(),
    }
    for part in PARTS:
        images, labels = everything(loaders[part])
        assert images.shape == (sizes[part], 1, 24, 24)
        assert images.dtype == torch.float32
        assert labels.dtype == torch.int64
        named = [Path(file).parent.name for file in data.files(part)]
        assert [data.class_names[label] for label in labels] == named
        assert data.class_counts(part) == torch.bincount(labels, minlength=3).tolist()
    files = [file for part in PARTS for file in data.files(part)]
    assert len(set(files)) == len(files) == 36
    trained, _ = everything(data.train_dataloader())
    assert [len(labels) for _, labels in data.train_dataloader()] == [5, 5, 5, 5, 4]
    torch.testing.assert_close(trained.mean(), torch.zeros(()), atol=1e-4, rtol=0)
    torch.testing.assert_close(trained.std(correction=0), torch.ones(()), atol=1e-4, rtol=0)
    assert torch.equal(everything(data.predict_dataloader())[0], everything(data.test_dataloader())[0])


def test_the_same_seed_gives_the_same_everything(class_folders: Path) -> None:
    augmentation = Augmentation(rotation=20, noise=0.1)
    first, again, other = (folder(class_folders, seed=seed, augmentation=augmentation) for seed in (0, 0, 1))
    assert first.describe() == again.describe()
    assert first.describe()["split_hash"] != other.describe()["split_hash"]
    for (images, labels), (same, same_labels) in zip(first.train_dataloader(), again.train_dataloader(), strict=True):
        assert torch.equal(images, same)
        assert torch.equal(labels, same_labels)


def test_the_description_is_plain_and_complete(class_folders: Path) -> None:
    (class_folders / "good" / "bad.png").write_bytes(b"no image")
    described = folder(class_folders, on_bad_image="skip").describe()
    assert json.loads(json.dumps(described)) == described
    assert described["source"] == "real"
    assert described["root"] == str(class_folders)
    assert list(described["counts"]) == ["train", "val", "test"]
    assert sum(described["counts"]["test"].values()) == 7
    assert sum(sum(counts.values()) for counts in described["counts"].values()) == 36
    assert (described["image_size"], described["channels"]) == (24, 3)
    assert len(described["mean"]) == len(described["std"]) == 3
    assert len(described["skipped"]) == 1
    assert described["skipped"][0].startswith("good/bad.png")


def test_folders_named_after_the_parts_are_kept(split_folders: Path) -> None:
    data = folder(split_folders)
    assert [data.class_counts(part) for part in PARTS] == [[6] * 3, [2] * 3, [3] * 3]
    for part in PARTS:
        assert all(file.startswith(f"{part}/") for file in data.files(part))
    anew = folder(split_folders, split="random", val_size=3, test_size=6)
    assert [anew.class_counts(part) for part in PARTS] == [[8] * 3, [1] * 3, [2] * 3]
    shutil.rmtree(split_folders / "val")
    without = folder(split_folders, val_size=0.5)
    assert [without.class_counts(part) for part in PARTS] == [[3] * 3, [3] * 3, [3] * 3]
    assert without.files("test") == data.files("test")


def test_folders_without_a_test_part(split_folders: Path, caplog: pytest.LogCaptureFixture) -> None:
    shutil.rmtree(split_folders / "test")
    data = folder(split_folders)
    assert [data.class_counts(part) for part in PARTS] == [[6] * 3, [2] * 3, [0] * 3]
    refusal(data.test_dataloader, "no test images", "data.test_size", "validate")
    taken = folder(split_folders, test_size=3)
    assert [taken.class_counts(part) for part in PARTS] == [[5] * 3, [2] * 3, [1] * 3]
    assert taken.files("test") != folder(split_folders, test_size=3, seed=1).files("test")
    assert sum(folder(split_folders, split="random").class_counts("test")) == 5
    assert not caplog.records


def test_a_test_part_that_is_given_is_not_changed_in_silence(
    split_folders: Path, caplog: pytest.LogCaptureFixture
) -> None:
    assert folder(split_folders, test_size=0.5).class_counts("test") == [3] * 3
    assert "data.test_size is 0.5" in caplog.text
    assert "9 test images: they stay whole" in caplog.text
    assert folder(split_folders, test_size=0).class_counts("test") == [0] * 3
    assert "they are left out" in caplog.text


def test_the_default_is_a_fifth_where_nothing_is_given(class_folders: Path) -> None:
    assert folder(class_folders).describe() == folder(class_folders, test_size=0.2).describe()
    assert folder(class_folders, test_size=0).class_counts("test") == [0] * 3


def test_arrays_will_do(tmp_path: Path) -> None:
    pixels = np.random.default_rng(0).integers(0, 256, (40, 8, 8, 3), dtype=np.uint8)
    np.save(tmp_path / "images.npy", pixels)
    np.save(tmp_path / "labels.npy", np.arange(40) % 2)
    data = folder(tmp_path, image_size=8)
    images, _ = everything(data.test_dataloader())
    mean, std = (torch.tensor(data.describe()[name]).view(1, 3, 1, 1) for name in ("mean", "std"))
    expected = torch.from_numpy(pixels[data.parts.test]).permute(0, 3, 1, 2)
    torch.testing.assert_close(images * std + mean, expected / 255, atol=1e-5, rtol=0)


def test_grey_pictures_are_kept_once_and_given_thrice(class_folders: Path) -> None:
    grey, rgb = folder(class_folders, channels=1), folder(class_folders, channels=3)
    assert grey.data.images.shape == rgb.data.images.shape == (36, 1, 24, 24)
    assert rgb.describe()["mean"] == grey.describe()["mean"] * 3
    for one, three in zip(grey.train_dataloader(), rgb.train_dataloader(), strict=True):
        assert three[0].shape[1:] == (3, 24, 24)
        torch.testing.assert_close(three[0], one[0].expand(-1, 3, -1, -1))
    Image.new("RGB", (24, 24), (255, 0, 0)).save(class_folders / "hole" / "red.png")
    coloured = folder(class_folders, channels=3)
    assert coloured.data.images.shape == (37, 3, 24, 24)


def test_a_set_in_a_mapped_file_behaves_the_same(class_folders: Path, tmp_path: Path) -> None:
    class Mapped(ImageFolderDataModule):
        def load(self) -> ImageSet:
            listing = list_folders(Path(self.root))
            return read_listing(
                listing,
                ImageFormat(image_size=self.image_size, channels=self.channels),
                cache_folder=tmp_path,
                backing="mapped",
            )

    augmentation = Augmentation(rotation=20, noise=0.1)
    mapped = Mapped(str(class_folders), image_size=24, channels=1, augmentation=augmentation)
    mapped.setup()
    in_memory = folder(class_folders, channels=1, augmentation=augmentation)
    assert list(tmp_path.glob("*.uint8"))
    assert mapped.describe() == in_memory.describe()
    for name in ("train_dataloader", "val_dataloader", "test_dataloader"):
        one, other = everything(getattr(mapped, name)()), everything(getattr(in_memory, name)())
        assert torch.equal(one[0], other[0])
        assert torch.equal(one[1], other[1])


# Sizes and statistics


@pytest.mark.parametrize("channels", [1, 3])
def test_statistics_are_those_of_numpy(channels: int) -> None:
    images = torch.randint(0, 256, (50, channels, 30, 20), dtype=torch.uint8)
    images[:, 0] //= 3
    chosen = np.arange(0, 50, 3)
    mean, std = channel_statistics(images, torch.from_numpy(chosen))
    pixels = images.numpy()[chosen].astype(np.float64) / 255
    np.testing.assert_allclose(mean, pixels.mean(axis=(0, 2, 3)), rtol=1e-12)
    np.testing.assert_allclose(std, pixels.std(axis=(0, 2, 3)), rtol=1e-12)


def test_statistics_are_of_the_training_part(class_folders: Path) -> None:
    data = folder(class_folders, channels=1)
    pixels = data.data.images.numpy()[data.parts.train] / 255
    assert data.describe()["mean"] == pytest.approx([pixels.mean()])
    assert data.describe()["std"] == pytest.approx([pixels.std()])


def test_statistics_that_are_given_are_used(class_folders: Path) -> None:
    data = folder(class_folders, mean=[0.485, 0.456, 0.406], std=[0.229, 0.224, 0.225])
    images, _ = everything(data.test_dataloader())
    raw = data.data.images[data.parts.test] / 255
    for channel, (mean, std) in enumerate(((0.485, 0.229), (0.456, 0.224), (0.406, 0.225))):
        torch.testing.assert_close(images[:, channel : channel + 1], (raw - mean) / std)


def test_constant_pictures_give_numbers(tmp_path: Path) -> None:
    np.save(tmp_path / "images.npy", np.full((30, 8, 8), 90, np.uint8))
    np.save(tmp_path / "labels.npy", np.arange(30) % 2)
    data = folder(tmp_path, image_size=8, channels=1, augmentation=Augmentation(brightness=0.1, contrast=0.5))
    assert data.card.std == (1.0,)
    images, _ = everything(data.train_dataloader())
    assert images.abs().max() <= 0.11


@pytest.mark.parametrize("image_size", [1, 2, 33])
def test_any_side_will_do(class_folders: Path, image_size: int) -> None:
    augmentation = Augmentation(rotation=20, crop=0.5, erasing=1, noise=0.1, cutmix=1)
    data = folder(class_folders, image_size, channels=1, augmentation=augmentation, eval_batch_size=1000)
    images, labels = everything(data.train_dataloader())
    assert images.shape == (24, 1, image_size, image_size)
    assert labels.shape == (24, 3)
    assert images.isfinite().all()
    assert len(list(data.test_dataloader())) == 1


@pytest.mark.parametrize(
    ("name", "value"),
    [
        ("image_size", 0), ("image_size", -5), ("batch_size", 0), ("eval_batch_size", -1), ("channels", 2),
        ("seed", -1), ("seed", 2**32), ("split", "fixed"), ("val_size", 0), ("test_size", -1),
        ("val_size", -0.1), ("test_size", -3), ("val_size", 1.5), ("test_size", 1), ("val_size", 36),
        ("test_size", 1.0), ("val_size", 0.99), ("test_size", 0.99),
    ],
)  # fmt: skip
def test_an_argument_out_of_range_is_named(class_folders: Path, name: str, value: Any) -> None:
    refusal(lambda: folder(class_folders, **{name: value}), f"data.{name}", str(value), "expected")


@pytest.mark.parametrize(
    ("mean", "std", "words"),
    [
        ([0.5], [0.2], ["data.mean has 1 values", "3 channels"]),
        ([0.5] * 3, [0.2] * 2, ["data.std has 2 values"]),
        ([0.5] * 3, None, ["give both"]),
        (None, [0.2] * 3, ["give both"]),
        ([0.5] * 3, [0.2, 0.0, 0.2], ["data.std", "above 0"]),
        ([0.5, float("nan"), 0.5], [0.2] * 3, ["data.mean"]),
    ],
)
def test_statistics_of_no_use_are_refused(
    class_folders: Path, mean: list[float] | None, std: list[float] | None, words: list[str]
) -> None:
    refusal(lambda: folder(class_folders, mean=mean, std=std), *words)


def test_a_set_too_small_to_divide_is_refused(class_folders: Path) -> None:
    for index in range(1, 12):
        (class_folders / "hole" / f"{index}.png").unlink()
    refusal(lambda: folder(class_folders), "data.val_size", "data.test_size", "smallest class has 1", "add images")


def test_three_pictures_a_class_are_enough(class_folders: Path) -> None:
    for index in range(3, 12):
        (class_folders / "hole" / f"{index}.png").unlink()
    data = folder(class_folders)
    assert [data.class_counts(part)[1] for part in PARTS] == [1, 1, 1]


def test_nothing_is_there_before_setup(class_folders: Path) -> None:
    data = ImageFolderDataModule(str(class_folders))
    for call in (data.train_dataloader, data.test_dataloader, data.describe, lambda: data.files("test")):
        refusal(call, "setup()")
    assert data.num_classes == 3  # known without reading an image


@pytest.mark.parametrize(
    ("text", "expected"), [("300", 300), ("0.2", 0.2), ("1", 1), ("0", 0), ("1.0", 1), ("0.15", 0.15)]
)
def test_sizes_keep_their_kind_in_yaml(text: str, expected: int | float) -> None:
    parser = jsonargparse.ArgumentParser(exit_on_error=False)
    parser.add_subclass_arguments(ImageDataModule, "data")
    config = parser.parse_string(f"data: {{class_path: NEUDataModule, init_args: {{val_size: {text}}}}}")
    assert config.data.init_args.val_size == expected
    again = parser.parse_string(parser.dump(config))  # what a run folder's config.yaml goes through
    assert repr(again.data.init_args.val_size) == repr(config.data.init_args.val_size)


# Checkpoints


class Probe(pl.LightningModule):
    """One weight; keeps what it was given."""

    def __init__(self) -> None:
        super().__init__()
        self.weight = torch.nn.Parameter(torch.zeros(()))
        self.trained: list[Tensor] = []
        self.tested: list[Tensor] = []

    def training_step(self, batch: tuple[Tensor, Tensor], batch_idx: int) -> Tensor:
        self.trained.append(batch[0])
        return self.weight * batch[0].mean()

    def validation_step(self, batch: tuple[Tensor, Tensor], batch_idx: int) -> None:
        self.log("val/loss", batch[0].mean())

    def test_step(self, batch: tuple[Tensor, Tensor], batch_idx: int) -> None:
        self.tested.append(batch[0])

    def configure_optimizers(self) -> torch.optim.Optimizer:
        return torch.optim.SGD(self.parameters(), lr=0.1)


def trainer(where: Path) -> pl.Trainer:
    return pl.Trainer(
        default_root_dir=where, max_epochs=1, accelerator="cpu", logger=False, num_sanity_val_steps=0,
        enable_progress_bar=False, enable_model_summary=False, enable_checkpointing=False,
    )  # fmt: skip


def test_a_checkpoint_brings_its_normalisation(class_folders: Path, tmp_path: Path) -> None:
    first = ImageFolderDataModule(str(class_folders), image_size=24, channels=1, mean=[0.25], std=[0.125])
    fitted = trainer(tmp_path)
    fitted.fit(Probe(), datamodule=first)
    fitted.save_checkpoint(tmp_path / "one.ckpt")
    second = ImageFolderDataModule(str(class_folders), image_size=24, channels=1)
    probe = Probe()
    trainer(tmp_path).test(probe, datamodule=second, ckpt_path=tmp_path / "one.ckpt", verbose=False, weights_only=True)
    assert second.describe() == first.describe()
    expected = (second.data.images[second.parts.test] / 255 - 0.25) / 0.125
    torch.testing.assert_close(torch.cat(probe.tested), expected)


def test_a_checkpoint_of_other_classes_or_channels_is_refused(class_folders: Path, neu_folder: Path) -> None:
    state = folder(class_folders).state_dict()
    neu = NEUDataModule(str(neu_folder), image_size=24)
    refusal(lambda: neu.load_state_dict(state), "good, hole, scratch", "crazing")
    refusal(lambda: folder(class_folders, channels=1).load_state_dict(state), "data.channels is 1", "3")


def test_a_checkpoint_of_another_split_is_warned_of(class_folders: Path, caplog: pytest.LogCaptureFixture) -> None:
    state = folder(class_folders).state_dict()
    folder(class_folders).load_state_dict(state)
    assert not caplog.records
    folder(class_folders, seed=1).load_state_dict(state)
    assert "another split" in caplog.text
    assert state["split_hash"] in caplog.text


# Features


def test_cached_features_stand_for_train_and_val_images(class_folders: Path) -> None:
    data = folder(class_folders, batch_size=5, eval_batch_size=7, augmentation=Augmentation(rotation=20, mixup=1))
    calls = 0

    def encode(images: Tensor) -> Tensor:
        nonlocal calls
        calls += 1
        return images.mean(dim=1).flatten(1)[:, :10].half()

    images = {name: everything(getattr(data, f"{name}_dataloader")()) for name in ("val", "test", "train_eval")}
    data.cache_features(encode)
    assert calls == 6  # 36 images in batches of 7
    for _ in range(2):
        seen, labels = everything(data.train_dataloader())
        assert labels.dtype == torch.int64
        expected = {tuple(row) for row in encode(images["train_eval"][0]).float().tolist()}
        assert {tuple(row) for row in seen.tolist()} == expected
    assert torch.equal(everything(data.val_dataloader())[0], encode(images["val"][0]).float())
    # The final figure never comes from a cache.
    assert torch.equal(everything(data.test_dataloader())[0], images["test"][0])
    assert torch.equal(everything(data.train_eval_dataloader())[0], images["train_eval"][0])
    data.clear_features()
    assert torch.equal(everything(data.val_dataloader())[0], images["val"][0])
    assert next(iter(data.train_dataloader()))[0].shape == (5, 3, 24, 24)


# NEU-CLS


@pytest.fixture
def elsewhere(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """An empty working folder."""
    (tmp_path / "work").mkdir()
    monkeypatch.chdir(tmp_path / "work")
    return tmp_path / "work"


def neu(**arguments: Any) -> NEUDataModule:
    return NEUDataModule(image_size=24, synthetic_per_class=10, **arguments)


@pytest.mark.parametrize("source", ["auto", "real"])
def test_a_root_that_is_given_is_read(neu_folder: Path, source: Any, caplog: pytest.LogCaptureFixture) -> None:
    data = neu(root=str(neu_folder), source=source, url="nowhere")
    data.prepare_data()
    data.setup()
    assert data.describe()["source"] == "real"
    assert data.describe()["root"] == str(neu_folder)
    assert list(data.class_names) == list(NEU_CLASSES)
    assert [sum(data.class_counts(part)) for part in PARTS] == [39, 9, 12]
    assert all(Path(file).name.startswith("crazing") for file in data.files("test")[:2])
    assert not caplog.records


@pytest.mark.parametrize("source", ["auto", "real"])
def test_a_root_that_does_not_work_is_an_error(tmp_path: Path, source: Any) -> None:
    missing = neu(root=str(tmp_path / "missing"), source=source, url="nowhere")
    missing.prepare_data()
    refusal(missing.setup, str(tmp_path / "missing"))
    (tmp_path / "empty").mkdir()
    refusal(neu(root=str(tmp_path / "empty"), source=source).setup, str(tmp_path / "empty"))


def test_auto_without_files_falls_back_and_says_so(
    elsewhere: Path, server: Server, caplog: pytest.LogCaptureFixture
) -> None:
    data = neu(url=f"{server.url}/neu.zip")
    for _ in range(3):
        data.prepare_data()
    data.setup()
    neu(url=f"{server.url}/neu.zip").prepare_data()
    assert server.asked == ["/neu.zip"]  # one try a process
    assert data.describe()["source"] == "synthetic"
    assert data.describe()["root"] == "generator, 10 a class, seed 0"
    messages = [record.getMessage() for record in caplog.records if record.levelno == logging.WARNING]
    assert len(messages) == 3  # the download once for either module, the stand-in once
    assert sum("could not be downloaded" in message and "404" in message for message in messages) == 2
    assert sum("SYNTHETIC" in message for message in messages) == 1
    # Files that come later do not make the loaded images real.
    (elsewhere / "data" / "neu-cls").mkdir(parents=True)
    (elsewhere / "data" / "neu-cls" / "crazing_1.png").write_bytes(b"")
    assert data.describe()["source"] == "synthetic"


def test_real_without_files_is_an_error_each_time(elsewhere: Path, server: Server) -> None:
    data = neu(source="real", url=f"{server.url}/neu.zip")
    for _ in range(2):
        refusal(data.prepare_data, "404", str(elsewhere / "data" / "neu-cls"))
    assert server.asked == ["/neu.zip"]
    refusal(data.setup, "data/neu-cls")


@pytest.mark.parametrize("empty", [True, False])
def test_the_usual_folder_is_found(elsewhere: Path, neu_folder: Path, server: Server, empty: bool) -> None:
    (elsewhere / "data").mkdir()
    if empty:
        (elsewhere / "data" / "neu-cls").mkdir()
    else:
        shutil.move(neu_folder, elsewhere / "data" / "neu-cls")
    data = neu(url=f"{server.url}/neu.zip")
    data.prepare_data()
    data.setup()
    assert data.describe()["source"] == ("synthetic" if empty else "real")
    assert server.asked == (["/neu.zip"] if empty else [])


def test_synthetic_asks_nobody(elsewhere: Path, server: Server) -> None:
    data = neu(source="synthetic", url=f"{server.url}/neu.zip", channels=3, seed=3)
    data.prepare_data()
    data.setup()
    assert server.asked == []
    assert data.describe()["counts"]["test"] == dict.fromkeys(NEU_CLASSES, 2)
    images, _ = everything(data.test_dataloader())
    assert images.shape == (12, 3, 24, 24)
    again = neu(source="synthetic", seed=3)
    again.setup()
    assert torch.equal(again.data.images, data.data.images)
    other = neu(source="synthetic", seed=4)
    other.setup()
    assert not torch.equal(other.data.images, data.data.images)
    refusal(lambda: NEUDataModule(synthetic_per_class=0), "data.synthetic_per_class is 0")


# MNIST


def mnist(root: Path, **arguments: Any) -> MNISTDataModule:
    """Set up."""
    module = MNISTDataModule(str(root), **arguments)
    module.setup()
    return module


def test_the_official_test_images_stay_whole(idx_folder: Path) -> None:
    data = mnist(idx_folder, val_size=50)
    assert [data.class_counts(part) for part in PARTS] == [[15] * 10, [5] * 10, [5] * 10]
    assert data.files("test") == [f"t10k[{i}]" for i in range(50)]
    assert all(file.startswith("train[") for file in [*data.files("train"), *data.files("val")])
    assert mnist(idx_folder, val_size=50, seed=1).files("test") == data.files("test")
    assert mnist(idx_folder, val_size=0.25).describe() == data.describe()
    assert data.describe()["root"] == str(idx_folder)
    images, labels = everything(data.test_dataloader())
    assert images.shape == (50, 1, 28, 28)
    assert labels[:10].tolist() == list(range(10))


def test_subsets_are_drawn_by_class_and_seed(idx_folder: Path) -> None:
    data, again, other = (mnist(idx_folder, train_size=60, val_size=30, test_size=20, seed=seed) for seed in (0, 0, 1))
    assert [data.class_counts(part) for part in PARTS] == [[6] * 10, [3] * 10, [2] * 10]
    assert all(file.startswith("t10k[") for file in data.files("test"))
    assert [data.files(part) for part in PARTS] == [again.files(part) for part in PARTS]
    assert data.files("train") != other.files("train")
    assert data.files("test") != other.files("test")
    assert len(data.data.images) == 110  # no more is kept than is used


def test_mnist_in_other_shapes(idx_folder: Path) -> None:
    plain = mnist(idx_folder, val_size=50)
    data = mnist(idx_folder, val_size=50, image_size=32, channels=3)
    images, _ = everything(data.test_dataloader())
    assert images.shape == (50, 3, 32, 32)
    assert torch.equal(images[:, 0], images[:, 2])
    assert data.describe()["mean"] == pytest.approx(plain.describe()["mean"] * 3, abs=0.01)
    for file in list(idx_folder.iterdir()):
        (idx_folder / f"{file.name}.gz").write_bytes(gzip.compress(file.read_bytes()))
        file.unlink()
    assert mnist(idx_folder, val_size=50).describe() == plain.describe()


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        ({"val_size": 0}, ["data.val_size is 0"]),
        ({"val_size": 5}, ["data.val_size is 5"]),
        ({"val_size": 5000}, ["data.val_size is 5000"]),
        ({"train_size": 100, "val_size": 0.1}, ["data.val_size", "number"]),
        ({"train_size": 180, "val_size": 50}, ["data.train_size + data.val_size is 180 + 50", "200"]),
        ({"train_size": 0, "val_size": 50}, ["data.train_size"]),
        ({"val_size": 50, "test_size": 100}, ["data.test_size is 100"]),
        ({"val_size": 50, "test_size": -1}, ["data.test_size is -1"]),
    ],
)
def test_mnist_sizes_that_cannot_be_are_named(idx_folder: Path, arguments: dict[str, Any], words: list[str]) -> None:
    refusal(lambda: mnist(idx_folder, **arguments), *words)


def test_mnist_is_downloaded_by_torchvision_once(
    idx_folder: Path, tmp_path: Path, server: Server, monkeypatch: pytest.MonkeyPatch
) -> None:
    resources = []
    for file in sorted(idx_folder.iterdir()):
        content = gzip.compress(file.read_bytes())
        server.files[f"/{file.name}.gz"] = content
        resources.append((f"{file.name}.gz", hashlib.md5(content).hexdigest()))
    monkeypatch.setattr(datasets.MNIST, "mirrors", [f"{server.url}/"])
    monkeypatch.setattr(datasets.MNIST, "resources", resources)
    data = MNISTDataModule(str(tmp_path / "new"), val_size=50)
    refusal(data.setup, "prepare_data()")
    data.prepare_data()
    assert set(server.asked) == set(server.files)
    count = len(server.asked)
    data.prepare_data()
    assert len(server.asked) == count
    data.setup()
    assert data.describe()["split_hash"] == mnist(idx_folder, val_size=50).describe()["split_hash"]
    assert data.describe()["root"] == str(tmp_path / "new" / "MNIST" / "raw")


def test_a_failed_download_is_one_line(tmp_path: Path, server: Server, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(datasets.MNIST, "mirrors", [f"{server.url}/"])
    data = MNISTDataModule(str(tmp_path / "new"))
    refusal(data.prepare_data, "MNIST", str(tmp_path / "new"), "data.root")


def test_files_of_another_set_are_refused(idx_folder: Path) -> None:
    for name in ("train-labels-idx1-ubyte", "t10k-labels-idx1-ubyte"):
        content = (idx_folder / name).read_bytes()
        (idx_folder / name).write_bytes(content[:8] + bytes(value + 20 for value in content[8:]))
    refusal(lambda: mnist(idx_folder, val_size=50), str(idx_folder), "10 classes")


def test_fashion_is_found_where_debian_puts_it(tmp_path: Path) -> None:
    installed = Path("/usr/share/datasets/fashion-mnist")
    if not installed.is_dir():
        pytest.skip("dataset-fashion-mnist is not installed")
    data = FashionMNISTDataModule(str(tmp_path), train_size=100, val_size=20, test_size=50)
    data.prepare_data()
    data.setup()
    assert data.describe()["root"] == str(installed)
    assert list(data.class_names)[-1] == "Ankle boot"
    assert [data.class_counts(part) for part in PARTS] == [[10] * 10, [2] * 10, [5] * 10]


# The real sets


@pytest.mark.realdata
def test_real_neu(real_data: Path) -> None:
    data = NEUDataModule(str(real_data / "neu-cls"), source="real", image_size=32)
    data.setup()
    totals = np.sum([data.class_counts(part) for part in PARTS], axis=0)
    assert totals.tolist() == [250] * 6
    assert data.describe()["source"] == "real"


@pytest.mark.realdata
def test_real_mnist(real_data: Path) -> None:
    data = mnist(real_data / "mnist")
    assert [sum(data.class_counts(part)) for part in PARTS] == [55_000, 5_000, 10_000]
    assert data.describe()["mean"] == pytest.approx([0.1307], abs=1e-3)
    assert data.describe()["std"] == pytest.approx([0.3081], abs=1e-3)


def test_a_loader_asked_for_again_is_a_new_epoch(class_folders: Path) -> None:
    data, once = (
        ImageFolderDataModule(str(class_folders), image_size=16, augmentation=Augmentation(rotation=20))
        for _ in range(2)
    )
    for module in (data, once):
        module.setup()
    loader = once.train_dataloader()
    epochs = [everything(data.train_dataloader()) for _ in range(3)]
    assert not torch.equal(epochs[0][1], epochs[1][1])
    for images, labels in epochs:
        same, same_labels = everything(loader)
        assert torch.equal(images, same)
        assert torch.equal(labels, same_labels)


def test_a_transform_of_the_batch(class_folders: Path) -> None:
    seen: list[torch.Tensor] = []

    def keep(images: torch.Tensor) -> torch.Tensor:
        seen.append(images)
        return images.flip(3) + 0 * torch.rand(1)

    data, plain = (
        ImageFolderDataModule(str(class_folders), image_size=16, mean=[0.5] * 3, std=[0.5] * 3, transform=transform)
        for transform in (keep, None)
    )
    for module in (data, plain):
        module.setup()
    state = torch.get_rng_state()
    changed, _ = everything(data.train_dataloader())
    assert torch.equal(state, torch.get_rng_state())
    torch.testing.assert_close(changed, everything(plain.train_dataloader())[0].flip(3))
    assert seen[0].shape[1:] == (3, 16, 16)
    assert 0 <= seen[0].min() <= seen[0].max() <= 1
    assert torch.equal(everything(data.val_dataloader())[0], everything(plain.val_dataloader())[0])
    flip = v2.RandomHorizontalFlip(1.0)
    data.transform = flip
    torch.testing.assert_close(everything(data.train_dataloader())[0].shape, changed.shape)
    data.transform = v2.CenterCrop(8)
    refusal(lambda: everything(data.train_dataloader()), "data.transform gives")
    refusal(lambda: ImageFolderDataModule(str(class_folders), augmentation=flip), "data.transform")
