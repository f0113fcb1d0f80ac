"""What streaming costs: a set of many small JPEGs, trained from the files beside the same from its mapped pixels.

    python benchmarks/backings.py FOLDER [--images 200000] [--side 200] [--batches 40] [--repeats 5]

Draws the set into FOLDER/set if there is none: a few hundred images under many names. Prints images a second of training
(MobileNetV3-small, 128 px, batch 32, augmented) and of the bare loader, in turns, and how memory grew.
"""

import argparse
import functools
import io
import os
import sys
import time
from collections.abc import Iterator, Sequence
from itertools import islice
from pathlib import Path

import numpy as np
import torch
from measure import Measurement, Side, header, load, take_turns
from PIL import Image
from torch import Tensor
from torch.nn import functional

from defectlab.data import Augmentation, ImageFolderDataModule
from defectlab.data.sources.backing import Backing
from defectlab.networks import PretrainedNetwork
from defectlab.utils.cpu import CPUSettings

__all__ = ["draw_set", "main", "measure_backings"]

AUGMENTATION = Augmentation(horizontal_flip=0.5, vertical_flip=0.5, rotation=5, brightness=0.1, contrast=0.2)
CLASSES = ("crazing", "hole", "patches", "scratch")
DISTINCT = 100  # images a class that are drawn
BAR = 0.8
_STREAM, _MAP = "streamed", "mapped"


def draw_set(root: Path, images: int, side: int) -> None:
    """Write class folders of JPEGs of waves with noise, about 9 kB each at 200 px; nothing if the folder is there."""
    if root.exists():
        return
    rng, y, x = np.random.default_rng(0), *np.mgrid[:side, :side]
    for label, name in enumerate(CLASSES):
        contents = []
        for _ in range(min(DISTINCT, images // len(CLASSES))):
            wave = np.sin((x * np.cos(label) + y * np.sin(label) + rng.integers(side)) * (label + 2) * 2 * np.pi / side)
            pixels = (128 + 50 * wave + rng.normal(0, 16, (side, side))).clip(0, 255).astype(np.uint8)
            buffer = io.BytesIO()
            Image.fromarray(pixels).save(buffer, "JPEG", quality=75)
            contents.append(buffer.getvalue())
        (root / name).mkdir(parents=True)
        for index in range(images // len(CLASSES)):
            (root / name / f"{index:07}.jpg").write_bytes(contents[index % len(contents)])


def measure_backings(root: Path, batches: int, repeats: int, threads: int, image_size: int = 128) -> list[Measurement]:
    """Images a second of training and of the loader alone, streamed and mapped; the first pass is not counted."""
    CPUSettings(threads=threads).apply()
    before = load()
    sets, remarks = {}, {}
    for backing in (_STREAM, _MAP):
        began = time.perf_counter()
        sets[backing] = _module(root, backing, image_size)  # type: ignore[arg-type]
        remarks[backing] = [f"ready after {time.perf_counter() - began:.1f} s"]
    results = []
    for what, step in (("training", _Step(image_size)), ("the loader alone", None)):
        count = batches if step is not None else 10 * batches
        runs = {name: functools.partial(_rate, data, count, step) for name, data in sets.items()}
        for run in runs.values():
            run()
        anonymous = _anonymous()
        values = take_turns(runs, repeats)
        seen = repeats * count * 32
        grown = (_anonymous() - anonymous) / seen * 10_000
        ours, theirs = (
            Side(name, f"batch 32, {threads} threads", values[name], remarks=remarks[name]) for name in sets
        )
        ours.remarks = [
            *ours.remarks,
            f"{_anonymous():.0f} MiB resident beside files, {grown:+.2f} MiB per 10,000 images",
        ]
        title = f"{what}, {len(sets[_MAP].data.files):,} images at {image_size} px"
        results.append(
            Measurement(title, "images/s", ours, [theirs], "ours / theirs", BAR, "at least", [before, load()])
        )
    return results


def _module(root: Path, backing: Backing, image_size: int) -> ImageFolderDataModule:
    data = ImageFolderDataModule(
        str(root), image_size=image_size, val_size=0.005, test_size=0.005, augmentation=AUGMENTATION, backing=backing
    )
    data.setup()
    return data


class _Step:
    """A training step of MobileNetV3-small."""

    def __init__(self, image_size: int) -> None:
        self.network = PretrainedNetwork(len(CLASSES), 3, image_size).to(memory_format=torch.channels_last)
        self.optimizer = torch.optim.AdamW(self.network.parameters(), lr=1e-3, fused=True)

    def __call__(self, images: Tensor, labels: Tensor) -> None:
        logits = self.network(images.contiguous(memory_format=torch.channels_last))
        self.optimizer.zero_grad()
        torch.autograd.backward(functional.cross_entropy(logits, labels))
        self.optimizer.step()


def _rate(data: ImageFolderDataModule, batches: int, step: _Step | None) -> float:
    """Return images a second from the second batch on."""
    found: Iterator[tuple[Tensor, Tensor]] = iter(data.train_dataloader())
    next(found)
    began, count = time.perf_counter(), 0
    for images, labels in islice(found, batches):
        if step is not None:
            step(images, labels)
        count += len(images)
    seconds = time.perf_counter() - began
    found.close()  # type: ignore[attr-defined]
    return count / seconds


def _anonymous() -> float:
    """Return MiB of resident memory that are no pages of files; 0 where the system does not tell."""
    path = Path("/proc/self/status")
    lines = path.read_text(encoding="ascii", errors="replace").splitlines() if path.is_file() else []
    return next((int(line.split()[1]) / 1024 for line in lines if line.startswith("RssAnon:")), 0.0)


def main(arguments: Sequence[str] | None = None) -> int:
    """Draw, measure, print."""
    p = argparse.ArgumentParser("backings.py", description="Measure streaming beside a mapped file, in turns.")
    p.add_argument("folder", type=Path)
    p.add_argument("--images", type=int, default=200_000)
    p.add_argument("--side", type=int, default=200)
    p.add_argument(
        "--batches", type=int, default=40, help="of training a turn; the bare loader gives ten times as many"
    )
    p.add_argument("--repeats", type=int, default=5)
    p.add_argument("--threads", type=int, default=torch.get_num_threads())
    given = p.parse_args(arguments)
    os.environ.setdefault("XDG_CACHE_HOME", str(given.folder / "cache"))
    draw_set(given.folder / "set", given.images, given.side)
    results = measure_backings(given.folder / "set", given.batches, given.repeats, given.threads)
    print(header())
    print("\n".join(result.markdown() for result in results))
    return 0


if __name__ == "__main__":
    sys.exit(main())
