"""The same images for both sides: train and test folders of class folders, and plain IDX files."""

import gzip
import shutil
from pathlib import Path

import numpy as np
from PIL import Image

from defectlab.data import MNISTDataModule, NEUDataModule
from defectlab.data.sources.layouts import NEU_CLASSES

__all__ = ["lay_out_mnist", "lay_out_neu"]


def lay_out_neu(root: str | None, target: Path, test_size: float = 0.2, seed: int = 0) -> str:
    """Fill `target` with `train/<class>/` and `test/<class>/`; the synthetic set if `root` is None.

    Files are copied as they are; images that are no files of their own (arrays, the synthetic set) are
    written as PNG. Returns a few words on what they are.
    """
    data = NEUDataModule(
        root=root,
        source="real" if root else "synthetic",
        seed=seed,
        val_size=len(NEU_CLASSES),
        test_size=test_size,
        split="random",
    )
    data.prepare_data()
    data.setup()
    images = data.data
    train = np.concatenate((data.parts.train, data.parts.val))
    for part, indices in (("train", train), ("test", data.parts.test)):
        for name in data.class_names:
            (target / part / name).mkdir(parents=True, exist_ok=True)
        for index in indices:
            folder = target / part / images.class_names[images.labels[index]]
            original = Path(root or "", images.files[index])
            if root and original.is_file():
                shutil.copyfile(original, folder / f"{index}{original.suffix.lower()}")
            else:
                Image.fromarray(images.images[index, 0].numpy()).save(folder / f"{index}.png")
    kind = "NEU-CLS" if root else "the SYNTHETIC stand-in for NEU-CLS"
    return f"{kind}, {len(train)} training and {len(data.parts.test)} test images"


def lay_out_mnist(root: str, target: Path) -> None:
    """Unpack the four IDX files into `target/MNIST/raw`, where torchvision's class looks for them."""
    data = MNISTDataModule(root=root)
    data.prepare_data()
    folder, raw = Path(data.location), target / "MNIST" / "raw"
    raw.mkdir(parents=True)
    for part in ("train-images-idx3", "train-labels-idx1", "t10k-images-idx3", "t10k-labels-idx1"):
        name = f"{part}-ubyte"
        if (folder / name).is_file():
            shutil.copyfile(folder / name, raw / name)
        else:
            with gzip.open(folder / f"{name}.gz") as packed, (raw / name).open("wb") as plain:
                shutil.copyfileobj(packed, plain)
