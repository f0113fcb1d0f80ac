"""Loaders: every image once, equal steps on every rank, the same batches for the same seed."""

import itertools
from collections.abc import Callable, Sequence
from pathlib import Path

import lightning.pytorch as pl
import pytest
import torch
from torch import Tensor

from defectlab.data.pipeline.augment import Augmentation
from defectlab.data.pipeline.loader import EvalLoader, TrainLoader
from defectlab.utils.card import DataCard

CPU = torch.device("cpu")
Batch = tuple[Tensor, Tensor]
TURNED = Augmentation(horizontal_flip=0.5, rotation=20, crop=0.8, brightness=0.2, noise=0.05, erasing=0.5)


def numbered(count: int, channels: int = 1, side: int = 4) -> Tensor:
    """Image i is noise, but its first pixel is i."""
    generator = torch.Generator().manual_seed(0)
    images = torch.randint(0, 256, (count, channels, side, side), dtype=torch.uint8, generator=generator)
    images[:, :, 0, 0] = torch.arange(count, dtype=torch.uint8)[:, None]
    return images


def normaliser(mean: Sequence[float], std: Sequence[float]) -> Callable[[Tensor], Tensor]:
    card = DataCard(
        class_names=("a", "b"), mean=tuple(mean), std=tuple(std), image_size=4, channels=len(mean)
    )  # fmt: skip
    return card.normalise


def eval_loader(
    count: int, batch_size: int, rank: int = 0, world_size: int = 1, indices: Tensor | None = None
) -> EvalLoader:
    where = torch.arange(count) if indices is None else indices
    as_they_are = normaliser((0.0,), (1 / 255,))
    return EvalLoader(
        images=numbered(count), labels=torch.arange(count), indices=where, batch_size=batch_size, normalise=as_they_are,
        device=CPU, rank=rank, world_size=world_size,
    )  # fmt: skip


def train_loader(
    count: int,
    batch_size: int,
    rank: int = 0,
    world_size: int = 1,
    augmentation: Augmentation | None = None,
    seed: int = 0,
    images: Tensor | None = None,
    mean: Sequence[float] = (0.0,),
    std: Sequence[float] = (1.0,),
) -> TrainLoader:
    """Label i belongs to image i."""
    if images is None:
        images = numbered(count)
    return TrainLoader(
        images=images, labels=torch.arange(count), indices=torch.arange(count), batch_size=batch_size,
        normalise=normaliser(mean, std), device=CPU, rank=rank, world_size=world_size, seed=seed, num_classes=count,
        augmentation=augmentation,
    )  # fmt: skip


def own_loader(
    images: Tensor, labels: Tensor, where: Tensor, batch_size: int, mean: Sequence[float], std: Sequence[float]
) -> EvalLoader:
    """Of one process."""
    return EvalLoader(
        images=images, labels=labels, indices=where, batch_size=batch_size, normalise=normaliser(mean, std), device=CPU,
        rank=0, world_size=1,
    )  # fmt: skip


def orders(loader: TrainLoader) -> list[list[int]]:
    return [labels.tolist() for _, labels in loader]


# Evaluation


@pytest.mark.parametrize(("count", "batch_size"), [(10, 4), (12, 4), (3, 100), (1, 1), (7, 1)])
def test_evaluation_gives_every_image_once_in_order(count: int, batch_size: int) -> None:
    loader = eval_loader(count, batch_size)
    batches = list(loader)
    assert len(batches) == len(loader)
    assert torch.cat([labels for _, labels in batches]).tolist() == list(range(count))
    assert torch.cat([images[:, 0, 0, 0] for images, _ in batches]).round().tolist() == list(range(count))
    assert all(len(labels) == batch_size for _, labels in batches[:-1])


def test_evaluation_normalises_each_channel() -> None:
    images = numbered(5, 3)
    mean, std = (0.1, 0.5, 0.9), (0.2, 0.3, 0.4)
    loader = own_loader(images, torch.zeros(5).long(), torch.tensor([3, 1]), 8, mean, std)
    ((batch, _),) = loader
    shift, scale = (torch.tensor(values).view(1, 3, 1, 1) for values in (mean, std))
    torch.testing.assert_close(batch, (images[[3, 1]].float() / 255 - shift) / scale)
    assert batch.dtype == torch.float32


@pytest.mark.parametrize("world_size", [2, 3, 4])
@pytest.mark.parametrize(("count", "batch_size"), [(10, 4), (25, 4), (1, 4), (24, 4), (100, 7)])
def test_evaluation_deals_the_batches_of_one_process_out(world_size: int, count: int, batch_size: int) -> None:
    single = [labels.tolist() for _, labels in eval_loader(count, batch_size)]
    ranks = [list(eval_loader(count, batch_size, rank, world_size)) for rank in range(world_size)]
    assert {len(batches) for batches in ranks} == {len(eval_loader(count, batch_size, 1, world_size))}
    turns = [labels.tolist() for step in zip(*ranks, strict=True) for _, labels in step]
    assert turns[: len(single)] == single
    assert all(labels == [] for labels in turns[len(single) :])
    for images, labels in itertools.chain(*ranks):
        assert images.shape == (len(labels), 1, 4, 4)  # an empty batch has its shape too


def test_one_channel_goes_out_as_many_times_as_there_are_means() -> None:
    grey = numbered(6)
    rgb = grey.expand(-1, 3, -1, -1).contiguous()
    mean, std = (0.4, 0.5, 0.6), (0.2, 0.3, 0.4)
    from_grey, from_rgb = (own_loader(images, torch.arange(6), torch.arange(6), 4, mean, std) for images in (grey, rgb))
    for (got, _), (expected, _) in zip(from_grey, from_rgb, strict=True):
        torch.testing.assert_close(got, expected)
    quiet = Augmentation(horizontal_flip=0.5, rotation=20, brightness=0.2, contrast=0.2)
    for augmentation in (None, quiet):
        trained, expected_trained = (
            train_loader(6, 4, images=images, mean=mean, std=std, augmentation=augmentation) for images in (grey, rgb)
        )
        for (got, _), (expected, _) in zip(trained, expected_trained, strict=True):
            torch.testing.assert_close(got, expected)


def test_features_go_out_as_they_are() -> None:
    features = torch.randn(9, 5)
    where = torch.tensor([8, 0, 4])
    loader = own_loader(features, torch.arange(9), where, 2, (0.5,), (0.2,))
    assert torch.equal(torch.cat([batch for batch, _ in loader]), features[where])
    mixed = Augmentation(rotation=10, mixup=1.0)
    for batch, labels in train_loader(9, 4, images=features, augmentation=mixed):
        assert torch.equal(batch, features[labels])


# Training


def test_an_epoch_has_every_image_once_in_a_new_order() -> None:
    loader = train_loader(50, 8)
    first, second = orders(loader), orders(loader)
    for epoch in (first, second):
        assert sorted(itertools.chain(*epoch)) == list(range(50))
        assert [len(batch) for batch in epoch] == [8] * 6 + [2]
    assert first != second
    assert first != orders(train_loader(50, 8, seed=1))


def test_images_keep_their_labels() -> None:
    for images, labels in train_loader(50, 8):
        assert torch.equal((images[:, 0, 0, 0] * 255).round().long(), labels)


def test_set_epoch_names_the_order_and_the_draws() -> None:
    loader = train_loader(30, 8, augmentation=TURNED)
    epochs = [list(loader) for _ in range(3)]
    again = train_loader(30, 8, augmentation=TURNED)
    again.sampler.set_epoch(2)
    for (images, labels), (expected, expected_labels) in zip(again, epochs[2], strict=True):
        assert torch.equal(labels, expected_labels)
        assert torch.equal(images, expected)
    assert not torch.equal(epochs[0][0][0], epochs[1][0][0])


def test_a_pass_that_is_broken_off_counts_as_one() -> None:
    loader = train_loader(30, 8)
    first = next(iter(loader))[1]
    assert loader.epoch == 1
    assert not torch.equal(next(iter(loader))[1], first)


@pytest.mark.parametrize(
    ("count", "batch_size", "sizes"),
    [
        (9, 4, [4, 5]),
        (10, 4, [4, 4, 2]),
        (8, 4, [4, 4]),
        (5, 4, [5]),
        (3, 4, [3]),
        (1, 4, [1]),
        (3, 1, [1, 1, 1]),
    ],
)
def test_a_last_batch_of_one_joins_the_one_before(count: int, batch_size: int, sizes: list[int]) -> None:
    loader = train_loader(count, batch_size)
    assert [len(labels) for labels in orders(loader)] == sizes
    assert len(loader) == len(sizes)


@pytest.mark.parametrize("world_size", [2, 3, 8])
@pytest.mark.parametrize(("count", "batch_size"), [(48, 4), (50, 4), (2, 4), (33, 8), (1, 2)])
def test_every_rank_makes_equal_steps(world_size: int, count: int, batch_size: int) -> None:
    ranks = [orders(train_loader(count, batch_size, rank, world_size)) for rank in range(world_size)]
    sizes = [[len(batch) for batch in rank] for rank in ranks]
    assert sizes == [sizes[0]] * world_size
    seen = sorted(itertools.chain(*itertools.chain(*ranks)))
    assert set(seen) == set(range(count))
    counts = [seen.count(image) for image in range(count)]
    assert sum(counts) - count < world_size  # no more is repeated than has to be
    assert max(counts) - min(counts) <= 1


def test_ranks_share_the_batch_of_one_process() -> None:
    whole = orders(train_loader(48, 8))
    halves = [orders(train_loader(48, 4, rank, 2)) for rank in range(2)]
    for step, batch in enumerate(whole):
        assert sorted(batch) == sorted(halves[0][step] + halves[1][step])


def test_augmentation_of_an_image_hangs_on_seed_epoch_and_index() -> None:
    images = numbered(24, side=16)
    results: list[dict[int, Tensor]] = []
    for batch_size, world_size in ((24, 1), (5, 1), (4, 2), (3, 3)):
        seen: dict[int, Tensor] = {}
        for rank in range(world_size):
            loader = train_loader(24, batch_size, rank, world_size, TURNED, images=images)
            loader.set_epoch(7)
            for batch, labels in loader:
                seen.update(zip(labels.tolist(), batch, strict=True))
        results.append(seen)
    for index in range(24):
        for other in results[1:]:
            torch.testing.assert_close(other[index], results[0][index], rtol=0, atol=1e-6)
    other_seed = train_loader(24, 24, augmentation=TURNED, seed=1, images=images)
    other_seed.set_epoch(7)
    ((batch, labels),) = other_seed
    assert not any(torch.allclose(image, results[0][i]) for i, image in zip(labels.tolist(), batch, strict=True))


def test_no_two_copies_of_an_image_look_the_same() -> None:
    images = numbered(1, side=16).expand(64, -1, -1, -1)
    for augmentation in (Augmentation(rotation=20), Augmentation(brightness=0.2), Augmentation(noise=0.1)):
        ((batch, _),) = train_loader(64, 64, images=images, augmentation=augmentation)
        assert len(torch.unique(batch.flatten(1), dim=0)) == 64


@pytest.mark.parametrize("augmentation", [Augmentation(mixup=0.5), Augmentation(cutmix=1.0)])
def test_mixed_batches_have_soft_labels_and_other_mixes_each_time(augmentation: Augmentation) -> None:
    loader = train_loader(40, 10, augmentation=augmentation)
    shares = []
    for images, labels in itertools.chain(loader, loader):
        assert labels.shape == (10, 40)
        assert labels.dtype == torch.float32
        torch.testing.assert_close(labels.sum(dim=1), torch.ones(10))
        assert images.shape == (10, 1, 4, 4)
        shares.append(round(labels.max(dim=1).values.min().item(), 4))
    assert len(set(shares)) > 3
    loader.set_epoch(0)
    again = [labels for _, labels in loader]
    loader.set_epoch(0)
    assert all(torch.equal(a, b) for a, (_, b) in zip(again, loader, strict=True))


def test_no_augmentation_is_an_augmentation_without_effect() -> None:
    plain, empty = train_loader(20, 6), train_loader(20, 6, augmentation=Augmentation())
    for (images, labels), (other, other_labels) in zip(plain, empty, strict=True):
        assert torch.equal(labels, other_labels)
        torch.testing.assert_close(images, other)


def test_a_memory_mapped_file_gives_the_same_batches(tmp_path: Path) -> None:
    images = numbered(20, side=8)
    (tmp_path / "pixels").write_bytes(images.numpy().tobytes())
    mapped = torch.from_file(str(tmp_path / "pixels"), shared=True, size=images.numel(), dtype=torch.uint8).view(
        images.shape
    )
    for augmentation in (None, TURNED):
        pairs = zip(
            train_loader(20, 6, images=mapped, augmentation=augmentation),
            train_loader(20, 6, images=images, augmentation=augmentation),
            strict=True,
        )
        assert all(torch.equal(a, b) for (a, _), (b, _) in pairs)
    assert torch.equal(mapped, images)  # nothing was written into the file


def test_iterating_leaves_the_images_and_the_global_generator_alone() -> None:
    images = numbered(20)
    before, state = images.clone(), torch.get_rng_state()
    list(train_loader(20, 6, images=images, augmentation=TURNED))
    assert torch.equal(images, before)
    assert torch.equal(torch.get_rng_state(), state)


# Lightning


class Recorder(pl.LightningModule):
    """Keeps the labels of each training batch, a list an epoch."""

    def __init__(self) -> None:
        super().__init__()
        self.weight = torch.nn.Parameter(torch.zeros(()))
        self.epochs: list[list[list[int]]] = []

    def on_train_start(self) -> None:
        """Look at a batch, as a callback that shows one does."""
        loader = self.trainer.train_dataloader
        assert isinstance(loader, TrainLoader)
        next(iter(loader))

    def on_train_epoch_start(self) -> None:
        self.epochs.append([])

    def training_step(self, batch: Batch, batch_idx: int) -> Tensor:
        self.epochs[-1].append(batch[1].tolist())
        return self.weight * batch[0].mean()

    def configure_optimizers(self) -> torch.optim.Optimizer:
        return torch.optim.SGD(self.parameters(), lr=0.1)


def trainer(folder: Path, epochs: int, limit: int | float = 1.0) -> pl.Trainer:
    return pl.Trainer(
        default_root_dir=folder, max_epochs=epochs, accelerator="cpu", logger=False,
        limit_train_batches=limit, enable_progress_bar=False, enable_model_summary=False,
        enable_checkpointing=False,
    )  # fmt: skip


def test_lightning_counts_the_epochs_and_a_resumed_run_goes_on(tmp_path: Path) -> None:
    expected = train_loader(20, 6)
    epochs = [orders(expected) for _ in range(4)]
    model = Recorder()
    first = trainer(tmp_path, 2)
    first.fit(model, train_loader(20, 6))
    assert model.epochs == epochs[:2]
    first.save_checkpoint(tmp_path / "two.ckpt")
    model = Recorder()
    trainer(tmp_path, 4).fit(model, train_loader(20, 6), ckpt_path=tmp_path / "two.ckpt")
    assert model.epochs == epochs[2:]


def test_lightning_may_stop_an_epoch_early(tmp_path: Path) -> None:
    expected = train_loader(20, 6)
    model = Recorder()
    trainer(tmp_path, 3, limit=2).fit(model, train_loader(20, 6))
    assert model.epochs == [orders(expected)[:2] for _ in range(3)]
