"""Tiny data sets, made anew for each test; a class is told by its stripes."""

import os

# Before torch is loaded: sums come out the same on every machine, and in the processes that tests start; and two threads
# for images of 16 px wait for each other longer than they work.
os.environ["OMP_NUM_THREADS"] = "1"

import struct
import threading
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import numpy.typing as npt
import pytest
from helpers import Server, write_config
from PIL import Image
from scipy.io import savemat

from defectlab.cli.main import main
from defectlab.data.sources.layouts import NEU_CLASSES

SIDE = 24


def striped(label: int, index: int, side: int = SIDE) -> npt.NDArray[np.uint8]:
    """Image `index` of class `label`: grey stripes of the class's width, shifted, with noise."""
    rng = np.random.default_rng((label, index))
    wave = np.sin((np.arange(side) + rng.integers(side)) * (label + 1) * 2 * np.pi / side)
    pixels = 128 + 80 * wave[:, None] + rng.normal(0, 10, (side, side))
    return pixels.clip(0, 255).astype(np.uint8)


def write_class_folders(root: Path, per_class: int, names: tuple[str, ...] = ("good", "hole", "scratch")) -> Path:
    """`root/<class>/<i>.png`, i from 0."""
    for label, name in enumerate(names):
        (root / name).mkdir(parents=True)
        for index in range(per_class):
            Image.fromarray(striped(label, index)).save(root / name / f"{index}.png")
    return root


@pytest.fixture(autouse=True, scope="session")
def own_cache(tmp_path_factory: pytest.TempPathFactory) -> None:
    """A cache of the tests' own."""
    os.environ["XDG_CACHE_HOME"] = str(tmp_path_factory.mktemp("cache"))


@pytest.fixture
def class_folders(tmp_path: Path) -> Path:
    """Three classes of 12 grey images."""
    return write_class_folders(tmp_path / "images", 12)


@pytest.fixture(scope="session")
def finished(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A finished run of one epoch on images like those of `class_folders`, which lie in `parents[2] / "images"`.

    For tests of all files that change nothing in it.
    """
    folder = tmp_path_factory.mktemp("finished")
    config = write_config(folder, write_class_folders(folder / "images", 12))
    assert main(["fit", "--config", str(config), "--trainer.max_epochs=1"]) == 0
    (run,) = (folder / "runs" / "tiny").iterdir()
    return run


@pytest.fixture
def split_folders(tmp_path: Path) -> Path:
    """train, val and test folders with 6, 2 and 3 images of each of three classes."""
    root = tmp_path / "divided"
    for part, per_class in (("train", 6), ("val", 2), ("test", 3)):
        write_class_folders(root / part, per_class)
    return root


@pytest.fixture
def neu_folder(tmp_path: Path) -> Path:
    """Flat `crazing_1.png`, 10 images of each of the six classes."""
    root = tmp_path / "neu"
    root.mkdir()
    for label, name in enumerate(NEU_CLASSES):
        for index in range(1, 11):
            Image.fromarray(striped(label, index)).save(root / f"{name}_{index}.png")
    return root


@pytest.fixture
def idx_folder(tmp_path: Path) -> Path:
    """The four IDX files: 20 training and 5 test images of 28 px for each of ten classes, well mixed."""
    root = tmp_path / "idx"
    root.mkdir()
    for part, per_class, first in (("train", 20, 0), ("t10k", 5, 20)):
        labels = np.tile(np.arange(10, dtype=np.uint8), per_class)
        images = np.stack([striped(int(label), first + i // 10, 28) for i, label in enumerate(labels)])
        for kind, array in (("images-idx3", images), ("labels-idx1", labels)):
            head = struct.pack(f">BBBB{array.ndim}I", 0, 0, 8, array.ndim, *array.shape)
            (root / f"{part}-{kind}-ubyte").write_bytes(head + array.tobytes())
    return root


@pytest.fixture
def flowers_folder(tmp_path: Path) -> Path:
    """Oxford 102 Flowers in small: a training, a validation and two test images a class, their numbers mixed.

    The red of an image is its class's number from 0; it is 20 px wide and 14 px high.
    """
    root = tmp_path / "flowers-102"
    (root / "jpg").mkdir(parents=True)
    kinds = np.repeat(np.arange(102), 4)
    numbers = np.random.default_rng(0).permutation(len(kinds)) + 1
    labels = np.zeros(len(kinds), dtype=np.uint8)
    labels[numbers - 1] = kinds + 1
    for kind, number in zip(kinds.tolist(), numbers.tolist(), strict=True):
        picture = Image.new("RGB", (20, 14), (2 * kind, 100, 100))
        picture.save(root / "jpg" / f"image_{number:05d}.jpg", quality=95)
    savemat(root / "imagelabels.mat", {"labels": labels[None]})
    by_part = numbers.reshape(102, 4)
    parts = {"trnid": by_part[:, 0], "valid": by_part[:, 1], "tstid": by_part[:, 2:].ravel()}
    savemat(root / "setid.mat", {key: value[None].astype(np.uint16) for key, value in parts.items()})
    return root


@pytest.fixture
def server() -> Iterator[Server]:
    server = Server()
    thread = threading.Thread(target=server.http.serve_forever, args=(0.01,))
    thread.start()
    yield server
    server.http.shutdown()
    thread.join()
    server.http.server_close()


@pytest.fixture
def real_data() -> Path:
    """The folder of real data sets, for tests marked `realdata`; the test is skipped where there is none."""
    beside = Path(__file__).resolve().parents[2] / "shared" / "data"
    root = Path(os.environ.get("DEFECTLAB_REALDATA", beside))
    if not root.is_dir():
        pytest.skip(f"no real data in {root}")
    return root
