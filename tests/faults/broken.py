"""Broken inputs of a seeded generator, each handed in as a user would, and what came of it.

    DEFECTLAB_FAULTS=3000 pytest -n 0 tests/faults
    python tests/faults/broken.py --count 3000 --seed 0 [--kinds images zip] [--output broken.json]

A case is told by its kind and number alone. `refused` is one line and nothing written; `same` was taken, and gives what the
sound part gives; `changed` was taken and gives something else; the others are faults of their own.
"""

import argparse
import contextlib
import hashlib
import io
import json
import os
import resource
import select
import shutil
import signal
import struct
import sys
import tempfile
import time
import traceback
import warnings
import zipfile
from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from PIL import Image

from defectlab.cli.main import main
from defectlab.data import ImageFolderDataModule, MNISTDataModule
from defectlab.errors import InputError

GOOD = ("refused", "same")
LIMIT = 20.0  # seconds
MEMORY = 16 * 2**30  # bytes of addresses
NAMES = ("crack", "dent", "ok")
CONFIG = """
seed_everything: 0
model:
  class_path: SmallCNNTask
  init_args:
    network: {{class_path: CompactCNN}}
    optimizer: {{name: adamw, lr: 0.003, weight_decay: 0.01}}
    scheduler: {{name: onecycle, warmup: 0.25}}
    label_smoothing: 0.0
data:
  class_path: ImageFolderDataModule
  init_args:
    root: {root}
    image_size: 16
    channels: 1
    batch_size: 8
    val_size: 6
    test_size: 6
    augmentation: {{rotation: 10, mixup: 0.2}}
trainer:
  max_epochs: 1
  accelerator: cpu
  callbacks:
    - class_path: lightning.pytorch.callbacks.ModelCheckpoint
      init_args: {{monitor: val/loss, mode: min, filename: best}}
    - class_path: lightning.pytorch.callbacks.EarlyStopping
      init_args: {{monitor: val/loss, mode: min, patience: 5}}
"""
ODD: tuple[Any, ...] = (
    -1, 0, 1, 2, 3.5, 1e-9, 1e300, float("nan"), float("inf"), "", "abc", " ", None, True, [], {}, [1, 2], {"a": 1}, "-1", "0.5",
    "../x", "/dev/null", "a\nb", "é中", "x" * 5000, [None], [[1]], {"class_path": "os.system"}, "${HOME}", "!!int 3", "null",
)  # fmt: skip

Rng = np.random.Generator


@dataclass
class Outcome:
    """What came of a case."""

    kind: str
    number: int
    what: str
    outcome: str
    detail: str = ""
    seconds: float = 0.0


@dataclass
class Sound:
    """What is broken: a folder of images, arrays, a zip, a config, a finished run."""

    folder: Path

    def __post_init__(self) -> None:
        self.images = self.folder / "images"
        self.config = self.folder / "tiny.yaml"
        self.run = self.folder / "runs" / "tiny"

    def make(self) -> None:
        """Write it all."""
        for label, name in enumerate(NAMES):
            (self.images / name).mkdir(parents=True)
            for index in range(12):
                Image.fromarray(texture(label, index)).save(self.images / name / f"{index}.png")
        self.config.write_text(CONFIG.format(root=self.images))
        words = ["fit", "--config", str(self.config), "--output", str(self.run)]
        with contextlib.redirect_stdout(io.StringIO()):
            assert main(words) == 0


def texture(label: int, index: int, side: int = 16) -> np.ndarray[Any, np.dtype[np.uint8]]:
    """Draw image `index` of a class."""
    rng = np.random.default_rng((label, index))
    wave = np.sin((np.arange(side) + rng.integers(side)) * (label + 1) * 2 * np.pi / side)
    return np.asarray((128 + 80 * wave[:, None] + rng.normal(0, 20, (side, side))).clip(0, 255), dtype=np.uint8)


# A case writes into its folder and returns what it is, what to call and, where the result of the sound part is known, that.
Case = tuple[str, Callable[[], Any], Any]


def damaged(content: bytes, rng: Rng) -> tuple[str, bytes]:
    """Damage bytes in one of the ways that disks and downloads have."""
    data = bytearray(content)
    way = rng.choice(["flip", "flips", "cut", "zeros", "noise", "empty", "doubled", "text", "inserted"])
    place = int(rng.integers(len(data)))
    if way in ("flip", "flips"):
        for _ in range(1 if way == "flip" else 20):
            data[int(rng.integers(len(data)))] ^= 1 << int(rng.integers(8))
    elif way == "cut":
        del data[place:]
    elif way == "zeros":
        data[place : place + 64] = bytes(len(data[place : place + 64]))
    elif way == "noise":
        data[place : place + 64] = rng.bytes(len(data[place : place + 64]))
    elif way == "empty":
        data.clear()
    elif way == "doubled":
        data += bytes(data)
    elif way == "text":
        data = bytearray(b"<html>404 not found</html>\n")
    else:
        data[place:place] = rng.bytes(7)
    return str(way), bytes(data)


def loaded(root: Path, **more: Any) -> dict[str, tuple[str, str]]:
    """Read a folder or zip as `fit` does: class and hash of the pixels by file."""
    data = ImageFolderDataModule(str(root), image_size=16, channels=1, val_size=3, test_size=3, **more)
    data.prepare_data()
    data.setup("fit")
    return summary(data)


def summary(data: Any) -> dict[str, tuple[str, str]]:
    pairs = zip(data.data.files, data.data.labels.tolist(), data.data.images, strict=True)
    return {
        file: (str(data.class_names[label]), hashlib.sha1(image.numpy().tobytes()).hexdigest())
        for file, label, image in pairs
    }


def by_command(*words: str) -> int:
    """Run a command; a status other than 0 with one line is a refusal."""
    error = io.StringIO()
    with contextlib.redirect_stderr(error):
        try:
            status = main(list(words))
        except SystemExit as end:
            status = end.code if isinstance(end.code, int) else 1
    said = error.getvalue()
    if status != 0:
        lines = [line for line in said.splitlines() if line.strip()]
        if len(lines) != 1 and not (status == 2 and "usage" in said):
            raise Unclear(" | ".join(lines)[:600] or "no word")
        raise InputError(lines[-1])
    if "Traceback" in said:
        raise RuntimeError(said[-600:])
    return status


class Unclear(Exception):
    """A refusal of none or of several lines."""


def few(sound: Sound, folder: Path, count: int = 4) -> Path:
    """Copy some images of each class."""
    root = folder / "set"
    for name in NAMES:
        (root / name).mkdir(parents=True)
        for index in range(count):
            shutil.copy(sound.images / name / f"{index}.png", root / name)
    return root


def images(sound: Sound, folder: Path, rng: Rng) -> Case:
    """Damage one image file of a set: what is not damaged is read as before."""
    root = few(sound, folder)
    kind = str(rng.choice(["png", "png", "jpg", "bmp", "tif", "webp", "gif", "pgm"]))
    victim = root / "dent" / f"0.{kind}"
    (root / "dent" / "0.png").unlink()
    picture = Image.fromarray(texture(1, 0))
    options: dict[str, Any] = (
        {"compression": str(rng.choice(["raw", "tiff_lzw", "tiff_deflate"]))} if kind == "tif" else {}
    )
    picture.save(victim, format={"jpg": "JPEG", "pgm": "PPM", "tif": "TIFF"}.get(kind, kind.upper()), **options)
    before = loaded(root)
    way, content = damaged(victim.read_bytes(), rng)
    victim.write_bytes(content)
    # Only these know by themselves that their pixels have changed.
    guarded = kind == "png" or way in ("cut", "empty", "text")
    name = f"dent/{victim.name}"
    if rng.random() < 0.3:
        picture_file, out = victim, folder / "out.csv"
        return (
            f"predict {kind} {way}",
            lambda: by_command("predict", str(sound.run), str(picture_file), "--output", str(out)), None,
        )  # fmt: skip

    def call() -> Any:
        found = loaded(root, **({"on_bad_image": "skip"} if way == "noise" else {}))
        return {key: value for key, value in found.items() if guarded or key != name}

    expected = before if guarded else {key: value for key, value in before.items() if key != name}
    return f"{kind} {way}", call, [expected, {key: value for key, value in before.items() if key != name}]


def arrays(sound: Sound, folder: Path, rng: Rng) -> Case:
    """Write arrays in other forms, some of which are the same and some of which are wrong."""
    root = folder / "arrays"
    root.mkdir()
    pixels = np.stack([texture(label, index) for label in range(3) for index in range(6)])
    labels = np.repeat(np.arange(3), 6)
    np.save(root / "images.npy", pixels)
    np.save(root / "labels.npy", labels)
    before = loaded(root)
    ways: dict[str, tuple[Any, Any, bool]] = {
        "big-endian labels": (pixels, labels.astype(">i8"), True),
        "fortran order": (np.asfortranarray(pixels), labels, True),
        "a channel": (pixels[..., None], labels, True),
        "unsigned labels": (pixels, labels.astype(np.uint8), True),
        "16 bits": (pixels.astype(np.uint16), labels, False),
        "floats": (pixels / np.float32(255), labels, False),
        "nan": (np.where(pixels > 250, np.nan, pixels / 255), labels, False),
        "negative": (pixels.astype(np.int16) - 300, labels, False),
        "objects": (pixels, np.array([{"a": 1}] * len(labels), dtype=object), False),
        "object images": (np.array([None] * len(labels), dtype=object), labels, False),
        "complex": (pixels * 1j, labels, False),
        "too few labels": (pixels, labels[:-1], False),
        "no images": (pixels[:0], labels[:0], False),
        "half labels": (pixels, labels + 0.5, False),
        "nan labels": (pixels, np.where(labels == 1, np.nan, labels), False),
        "negative labels": (pixels, labels - 1, False),
        "one class": (pixels, labels * 0, False),
        "1 dimension": (pixels.ravel(), labels, False),
        "5 dimensions": (pixels[None, ..., None], labels, False),
        "2 channels": (np.stack([pixels, pixels], axis=-1), labels, False),
        "labels of two columns": (pixels, np.stack([labels, labels], axis=1), False),
        "times": (pixels.astype("M8[s]"), labels, False),
        "texts with control characters": (pixels, np.array(["a\nb", "c\rd", "\x1b[31m"])[labels], False),
        "empty texts": (pixels, np.array(["", "b", "c"])[labels], False),
        "records": (pixels, np.array([(1, 2)] * len(labels), dtype=[("a", int), ("b", int)]), False),
        "damaged": (pixels, labels, False),
    }
    way = str(rng.choice([*ways, *["damaged"] * 20]))
    given_images, given_labels, same = ways[way]
    np.save(root / "images.npy", given_images)
    np.save(root / "labels.npy", given_labels)
    note = way
    if way == "damaged":
        victim = root / str(rng.choice(["images.npy", "labels.npy"]))
        content = victim.read_bytes()
        if rng.random() < 0.5:  # the header is where a bit tells most
            head, rest = bytearray(content[:128]), content[128:]
            head[int(rng.integers(128))] ^= 1 << int(rng.integers(8))
            note, content = "header flipped", bytes(head) + rest
        else:
            note, content = damaged(content, rng)
        victim.write_bytes(content)
    return note, (lambda: loaded(root)), ([before] if same else None)


def idx(sound: Sound, folder: Path, rng: Rng) -> Case:
    """Damage one of MNIST's four files."""
    root = folder / "idx"
    root.mkdir()
    for part, per_class in (("train", 6), ("t10k", 2)):
        labels = np.tile(np.arange(10, dtype=np.uint8), per_class)
        pixels = np.stack([texture(int(label) % 3, number, 28) for number, label in enumerate(labels)])
        for kind, array in (("images-idx3", pixels), ("labels-idx1", labels)):
            head = struct.pack(f">BBBB{array.ndim}I", 0, 0, 8, array.ndim, *array.shape)
            (root / f"{part}-{kind}-ubyte").write_bytes(head + array.tobytes())
    victim = sorted(root.iterdir())[int(rng.integers(4))]
    content = victim.read_bytes()
    if rng.random() < 0.5:
        changed = bytearray(content)
        changed[int(rng.integers(16 if "images" in victim.name else 8))] = int(rng.integers(256))
        way, content = "header", bytes(changed)
    else:
        way, content = damaged(content, rng)
    victim.write_bytes(content)

    def call() -> Any:
        data = MNISTDataModule(str(root), val_size=10)
        data.prepare_data()
        data.setup("fit")
        return len(summary(data))

    return f"{victim.name} {way}", call, [80] if way in ("cut", "doubled", "empty", "text", "inserted") else None


def archives(sound: Sound, folder: Path, rng: Rng) -> Case:
    """Damage a zip of class folders, or put what does not belong there into it."""
    path = folder / "set.zip"
    root = few(sound, folder)
    before = loaded(root)
    ways = (
        "climbs",
        "absolute",
        "twice",
        "link",
        "encrypted",
        "bomb",
        "nested",
        "backslash",
        "case",
        "long name",
        "no images",
    )
    way = str(rng.choice([*ways, *["damaged"] * 12]))
    with zipfile.ZipFile(path, "w", zipfile.ZIP_DEFLATED) as archive:
        files = [] if way == "no images" else sorted(root.rglob("*.png"))
        for file in files:
            archive.write(file, str(file.relative_to(root)))
        content = (root / "ok" / "0.png").read_bytes()
        names = {
            "climbs": "../../escaped.png", "absolute": "/tmp/escaped.png", "backslash": "ok\\..\\..\\escaped.png",
            "case": "OK/0.png", "long name": f"ok/{'x' * 300}.png",
        }  # fmt: skip
        if way in names:
            archive.writestr(names[way], content)
        elif way == "twice":
            with warnings.catch_warnings():
                warnings.simplefilter("ignore")
                archive.writestr("ok/0.png", (root / "dent" / "0.png").read_bytes())
        elif way == "link":
            info = zipfile.ZipInfo("ok/link.png")
            info.external_attr = 0o120777 << 16
            archive.writestr(info, "/etc/passwd")
        elif way == "bomb":
            archive.writestr("ok/zeros.png", bytes(50_000_000))
        elif way == "nested":
            archive.writestr("ok/inner.zip", content)
    raw = path.read_bytes()
    if way == "damaged":
        way, raw = damaged(raw, rng)
    elif way == "encrypted":
        raw = raw.replace(b"PK\x01\x02\x14\x03\x14\x00\x00\x00", b"PK\x01\x02\x14\x03\x14\x00\x01\x00")
    path.write_bytes(raw)
    shutil.rmtree(root)

    def call() -> Any:
        escaped = folder.parent / "escaped.png", Path("/tmp/escaped.png"), folder / "escaped.png"
        found = {key: value for key, value in loaded(path).items() if key in before}
        if any(file.exists() for file in escaped):
            raise RuntimeError("a file was written outside")
        return found

    return way, call, [before]


def configs(sound: Sound, folder: Path, rng: Rng) -> Case:
    """Break a YAML: lines, values, structure, types."""
    text = sound.config.read_text()
    lines = text.splitlines()
    spots = [number for number, line in enumerate(lines) if ":" in line]
    spot = int(rng.choice(spots))
    way = str(
        rng.choice(
            ["value", "value", "value", "inline", "removed", "twice", "indent", "tag", "alias", "bytes", "section"]
        )
    )
    line = lines[spot]
    odd = json.dumps(ODD[int(rng.integers(len(ODD)))])
    if way == "value":
        lines[spot] = f"{line.partition(':')[0]}: {odd}"
    elif way == "inline":
        start = line.find("{")
        inside = [place for place in range(start, len(line)) if line[place] == ":"] if start > 0 else [line.index(":")]
        place = int(rng.choice(inside))
        end = min([line.find(mark, place) for mark in ",}" if line.find(mark, place) > 0] or [len(line)])
        lines[spot] = f"{line[: place + 1]} {odd}{line[end:]}"
    elif way == "removed":
        del lines[spot]
    elif way == "twice":
        lines.insert(spot, line)
    elif way == "indent":
        lines[spot] = " " * int(rng.integers(1, 4)) + line
    elif way == "tag":
        key = line.partition(":")[0]
        lines[spot] = (
            f"{key}: {rng.choice(['!!python/object:os.system x', '!!binary aGk=', '!x 3', '2024-01-01', '1:30', '!!set {a}'])}"
        )
    elif way == "alias":
        lines[spot] = f"{line.partition(':')[0]}: {rng.choice(['*a', '&a [*a]', '&a {b: *a}', '<<: *x', '? [1, 2]'])}"
    elif way == "section":
        lines.append(f"{rng.choice(['model', 'trainer', 'data', 'x', '3', 'null', '[a]'])}: {odd}")
    content = "\n".join(lines).encode()
    if way == "bytes":
        way, content = damaged(content, rng)
    path = folder / "broken.yaml"
    path.write_bytes(content)
    words = [
        "--trainer.fast_dev_run=true",
        "--trainer.accelerator=cpu",
        f"--trainer.default_root_dir={folder / 'runs'}",
    ]
    return (
        f"{way}: {lines[min(spot, len(lines) - 1)].strip()[:80]}",
        (lambda: by_command("fit", "--config", str(path), *words)),
        None,
    )


def copied_run(sound: Sound, folder: Path) -> Path:
    """Copy the finished run."""
    return Path(shutil.copytree(sound.run, folder / "runs" / "tiny"))


def probabilities(run: Path, sound: Sound, folder: Path) -> str:
    """Predict two images; the table but for the network's name."""
    out = folder / "out.csv"
    by_command(
        "predict", str(run), str(sound.images / "ok" / "0.png"), str(sound.images / "dent"), "--output", str(out)
    )
    return out.read_text()


def checkpoints(sound: Sound, folder: Path, rng: Rng) -> Case:
    """Damage best.ckpt, or write other values into it."""
    run = copied_run(sound, folder)
    path = run / "checkpoints" / "best.ckpt"
    before = probabilities(sound.run, sound, folder)
    (folder / "out.csv").unlink()
    way = str(rng.choice(["damaged", "value", "weight", "key"]))
    if way == "damaged":
        way, content = damaged(path.read_bytes(), rng)
        path.write_bytes(content)
    else:
        saved = torch.load(path, weights_only=True)
        if way == "weight":
            names = [name for name, tensor in saved["state_dict"].items() if tensor.is_floating_point()]
            name = str(rng.choice(names))
            tensor = saved["state_dict"][name].clone()
            spoilt = str(rng.choice(["nan", "inf", "shape", "type", "missing"]))
            if spoilt in ("nan", "inf"):
                tensor = torch.where(torch.arange(tensor.numel()).view(tensor.shape) == 0, float(spoilt), tensor)
            saved["state_dict"][name] = {"shape": tensor[:0], "type": "abc", "missing": None}.get(spoilt, tensor)
            if spoilt == "missing":
                del saved["state_dict"][name]
            way = f"{spoilt} in {name}"
        else:
            holders = [
                saved,
                saved["hyper_parameters"],
                *[v for v in saved.values() if isinstance(v, dict) and "mean" in v],
            ]
            holder = holders[int(rng.integers(len(holders)))]
            key = str(rng.choice([key for key in holder if key != "state_dict"]))
            if way == "key":
                del holder[key]
            else:
                value = ODD[int(rng.integers(len(ODD)))]
                holder[key] = value
                key = f"{key} = {str(value)[:30]!r}"
            way = f"{way} {key}"
        torch.save(saved, path)
    if rng.random() < 0.3:  # by itself, without the run that knows its hash
        alone = folder / "alone.ckpt"
        shutil.copy(path, alone)
        return f"alone: {way}", (lambda: probabilities(alone, sound, folder)), [before]
    return way, (lambda: probabilities(run, sound, folder)), [before]


def spoilt_json(content: Any, rng: Rng) -> tuple[str, Any]:
    """Replace or remove one value anywhere in it."""
    places: list[tuple[Any, Any]] = []

    def walk(holder: Any) -> None:
        for key in holder if isinstance(holder, dict) else range(len(holder)):
            places.append((holder, key))
            if isinstance(holder[key], dict | list):
                walk(holder[key])

    walk(content)
    holder, key = places[int(rng.integers(len(places)))]
    if rng.random() < 0.3:
        del holder[key]
        return f"without {key}", content
    value = ODD[int(rng.integers(len(ODD)))]
    holder[key] = value
    return f"{key} = {str(value)[:30]!r}", content


READERS = (
    ("report", "RUN"), ("compare", "RUN", "OTHER"), ("predict", "RUN", "IMAGE"), ("predict", "RUN", "IMAGE", "--max-error", "0.4"),
    ("predict", "RUN", "IMAGE", "--sets", "0.8"), ("ensemble", "RUN", "OTHER", "--output", "NEW"), ("summary", "RUN"),
    ("validate", "RUN"), ("test", "RUN"), ("resume", "RUN"),
)  # fmt: skip


def records(sound: Sound, folder: Path, rng: Rng) -> Case:
    """Edit what a run folder holds, and read it."""
    run = copied_run(sound, folder)
    names = ["metrics.json", "metrics.json", "state.json", "predictions.csv", "val_predictions.csv", "metrics.csv", "config.yaml",
             "split.csv"]  # fmt: skip
    victim = run / str(rng.choice([name for name in names if (run / name).is_file()]))
    text = victim.read_text()
    if victim.suffix == ".json" and rng.random() < 0.8:
        way, content = spoilt_json(json.loads(text), rng)
        victim.write_text(json.dumps(content))
    elif victim.suffix == ".csv" and rng.random() < 0.7:
        rows = [line.split(",") for line in text.splitlines()]
        row, way = int(rng.integers(len(rows))), str(rng.choice(["cell", "row", "column", "twice", "none", "wide"]))
        if way == "cell":
            rows[row][int(rng.integers(len(rows[row])))] = str(ODD[int(rng.integers(len(ODD)))])
        elif way == "row":
            rows[row] = rows[row][:-1]
        elif way == "column":
            place = int(rng.integers(len(rows[0])))
            rows = [cells[:place] + cells[place + 1 :] for cells in rows]
        elif way == "twice":
            rows.insert(row, rows[row])
        elif way == "none":
            rows = rows[:1]
        else:
            rows[row][-1] = "9" * 140_000
        victim.write_text("\n".join(map(",".join, rows)) + "\n")
    else:
        way, damage = damaged(victim.read_bytes(), rng)
        victim.write_bytes(damage)
    reader = READERS[int(rng.integers(len(READERS)))]
    places = {"RUN": run, "OTHER": sound.run, "IMAGE": sound.images / "ok" / "0.png", "NEW": folder / "new"}
    words = [str(places.get(word, word)) for word in reader]
    return f"{victim.name} {way}: {' '.join(reader)}", (lambda: by_command(*words)), None


OPTIONS = (
    ("predict", "RUN", "IMAGE", "--max-error"), ("predict", "RUN", "IMAGE", "--sets"), ("predict", "RUN", "IMAGE", "--output"),
    ("predict", "RUN", "IMAGE", "--costs"), ("predict", "RUN", "IMAGE", "--figure"), ("predict", "RUN", "IMAGE", "--device"),
    ("predict", "RUN"), ("predict",), ("report",), ("compare", "RUN"), ("test", "RUN", "--data.root"), ("summary",),
    ("validate", "RUN", "--model.tta"), ("resume", "RUN", "--trainer.max_epochs"), ("resume", "RUN", "--model.optimizer.lr"),
    ("resume", "RUN", "--data.batch_size"), ("resume", "RUN", "--trainer.callbacks.patience"), ("ensemble", "RUN"),
    ("crossval", "--config", "CONFIG", "--folds"), ("crossval", "--config", "CONFIG", "--repeats"), ("crossval",),
    ("budget", "--config", "CONFIG", "--per-class"), ("course", "run"), ("configs",), ("data", "inspect"),
    ("data", "synthesize", "NEW", "--per-class"), ("data", "augment", "--config", "CONFIG", "--output", "NEW", "--copies"),
    ("data", "preview", "--config", "CONFIG", "--output"), ("robustness",), ("explain",), ("export", "RUN", "--output"), ("",),
    ("fit", "--config"), ("fit", "--config", "CONFIG", "--seed_everything"), ("fit", "--config", "CONFIG", "--cpu.threads"),
)  # fmt: skip


def options(sound: Sound, folder: Path, rng: Rng) -> Case:
    """Give a command an odd value."""
    run = copied_run(sound, folder)
    chosen = OPTIONS[int(rng.integers(len(OPTIONS)))]
    odd = [value for value in ODD if value not in (1, 2, 3.5, True)]
    value = str(odd[int(rng.integers(len(odd)))]).replace("\0", "")
    places = {"RUN": run, "IMAGE": sound.images / "ok" / "0.png", "NEW": folder / "new", "CONFIG": sound.config}
    words = [str(places.get(word, word)) for word in chosen] + [value]
    if chosen[0] == "fit":
        words += ["--trainer.fast_dev_run=true"]
    return f"{' '.join(chosen)} {value[:40]!r}", (lambda: by_command(*words)), None


def folders(sound: Sound, folder: Path, rng: Rng) -> Case:
    """Put a set into an odd folder."""
    root = few(sound, folder)
    ways = (
        "loop", "link to a class", "file for a class", "empty class", "one class", "not UTF-8", "empty", "missing", "a file", "fifo",
        "locked", "control characters", "masks", "one image a class", "folder named like an image", "dangling link", "nothing sound",
        "train and test", "dash",
    )  # fmt: skip
    way, ok = str(rng.choice(ways)), root / "ok"
    given: Path = root
    if way == "loop":
        (ok / "again").symlink_to(root)
    elif way == "link to a class":
        (ok / "more").symlink_to(root / "crack")
    elif way == "file for a class":
        (root / "notes").write_text("x")
    elif way == "empty class":
        (root / "scratch").mkdir()
    elif way == "one class":
        shutil.rmtree(root / "crack")
        shutil.rmtree(root / "dent")
    elif way == "not UTF-8":
        os.rename(os.fsencode(ok), os.fsencode(root) + b"/o\xff\xfe")
    elif way == "empty":
        given = folder / "nothing"
        given.mkdir()
    elif way == "missing":
        given = folder / "missing"
    elif way == "a file":
        given = ok / "0.png"
    elif way == "fifo":
        (ok / "0.png").unlink()
        os.mkfifo(ok / "0.png")
    elif way == "locked":
        (ok / "0.png").chmod(0)
    elif way == "control characters":
        ok.rename(root / "o\nk\x1b[31m")
    elif way == "masks":
        for index in range(4):
            shutil.copy(ok / f"{index}.png", ok / f"{index}_mask.png")
    elif way == "one image a class":
        for file in root.glob("*/[123].png"):
            file.unlink()
    elif way == "folder named like an image":
        (ok / "9.png").mkdir()
    elif way == "dangling link":
        (ok / "9.png").symlink_to(folder / "nowhere.png")
    elif way == "nothing sound":
        for file in root.rglob("*.png"):
            file.write_bytes(b"")
    elif way == "train and test":
        for part in ("training", "testing"):
            shutil.copytree(root, folder / "parts" / part, ignore_dangling_symlinks=True)
        given = folder / "parts"
    else:
        given = folder / "-set"
        root.rename(given)
    if rng.random() < 0.5:
        output = folder / "inspection"
        return f"inspect: {way}", (lambda: by_command("data", "inspect", str(given), "--output", str(output))), None
    return way, (lambda: loaded(given) and None), None


KINDS: dict[str, tuple[Callable[[Sound, Path, Rng], Case], int]] = {
    "images": (images, 8), "arrays": (arrays, 4), "idx": (idx, 3), "archives": (archives, 4), "configs": (configs, 6),
    "checkpoints": (checkpoints, 4), "records": (records, 6), "options": (options, 4), "folders": (folders, 2),
}  # fmt: skip


def tree(folder: Path) -> dict[str, str]:
    """Return the hash of every file below a folder."""
    found = {}
    for path in folder.rglob("*"):
        with contextlib.suppress(OSError):
            if path.is_file() and not path.is_symlink():
                found[str(path.relative_to(folder))] = hashlib.sha1(path.read_bytes()).hexdigest()
            else:
                found[str(path.relative_to(folder))] = ""
    return found


def attempt(kind: str, number: int, seed: int, sound: Sound, folder: Path) -> Outcome:
    """Make a case and hand it in."""
    make, _ = KINDS[kind]
    rng = np.random.default_rng((seed, sorted(KINDS).index(kind), number))
    folder.mkdir(parents=True)
    os.environ["XDG_CACHE_HOME"] = str(folder.parent / "cache")
    began = time.monotonic()
    what, detail = "not made", ""
    try:
        with contextlib.redirect_stdout(io.StringIO()), contextlib.redirect_stderr(io.StringIO()):
            what, call, expected = make(sound, folder, rng)
            before = tree(folder)
            try:
                found = call()
            except InputError as error:
                outcome, detail = ("refused", "") if "\n" not in str(error) else ("unclear", str(error))
                detail = detail or str(error)[:300]
                more = {name for name, value in tree(folder).items() if before.get(name) != value}
                gone = before.keys() - tree(folder).keys()
                if more or gone:
                    outcome, detail = "left", f"{sorted(more | gone)[:4]}: {detail}"
            else:
                outcome = "same" if expected is None or found in expected else "changed"
                left = [name for name in tree(folder).keys() - before.keys() if name.endswith((".tmp", ".part"))]
                if left:
                    outcome, detail = "left", str(left[:3])
    except Unclear as error:
        outcome, detail = "unclear", str(error)
    except BaseException:
        outcome, detail = "traceback", " ".join(traceback.format_exc().strip().splitlines()[-3:])[:500]
    seconds = time.monotonic() - began
    return Outcome(kind, number, what, outcome, detail, round(seconds, 3))


def apart(kind: str, number: int, seed: int, sound: Sound, folder: Path) -> Outcome:
    """Hand a case in from a fork, which is killed where it does not end."""
    reader, writer = os.pipe()
    child = os.fork()
    if not child:
        os.close(reader)
        null = os.open(os.devnull, os.O_WRONLY)
        os.dup2(null, 2)  # what C libraries say
        room = resource.getrlimit(resource.RLIMIT_AS)[1]
        resource.setrlimit(resource.RLIMIT_AS, (MEMORY, room))
        try:
            os.write(writer, json.dumps(vars(attempt(kind, number, seed, sound, folder))).encode())
        finally:
            os._exit(0)
    os.close(writer)
    text, deadline = b"", time.monotonic() + LIMIT
    while select.select([reader], [], [], max(0.0, deadline - time.monotonic()))[0]:
        block = os.read(reader, 1 << 16)
        if not block:
            break
        text += block
    os.close(reader)
    hung = time.monotonic() >= deadline
    with contextlib.suppress(ProcessLookupError):
        os.kill(child, signal.SIGKILL)
    _, status = os.waitpid(child, 0)
    if not text:
        return Outcome(kind, number, "", "hang" if hung else "crash", f"status {status}")
    return Outcome(**json.loads(text))


def outcomes(
    count: int, seed: int, sound: Sound, folder: Path, kinds: Sequence[str] = tuple(KINDS)
) -> Iterator[Outcome]:
    """Hand in `count` cases, shared among the kinds."""
    total = sum(KINDS[kind][1] for kind in kinds)
    for kind in kinds:
        for number in range(-(-count * KINDS[kind][1] // total)):
            place = folder / f"{kind}{number}"
            yield apart(kind, number, seed, sound, place)
            for path in place.rglob("*"):
                if path.is_file() and not path.is_symlink() and not os.access(path, os.R_OK):
                    path.chmod(0o600)
            shutil.rmtree(place, ignore_errors=True)


def run(arguments: Sequence[str] | None = None) -> int:
    """Print counts by kind, and every fault."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").partition("\n")[0])
    parser.add_argument("--count", type=int, default=3000)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--kinds", nargs="+", default=list(KINDS), choices=list(KINDS))
    parser.add_argument("--output", type=Path)
    given = parser.parse_args(arguments)
    torch.set_num_threads(1)
    folder = Path(tempfile.mkdtemp(prefix="broken-"))
    os.chdir(folder)
    sound = Sound(folder / "sound")
    sound.make()
    found = []
    for outcome in outcomes(given.count, given.seed, sound, folder / "cases", given.kinds):
        found.append(outcome)
        if outcome.outcome not in GOOD or outcome.seconds > LIMIT:
            print(f"{outcome.outcome}: {outcome.kind} {outcome.number} {outcome.what}: {outcome.detail}", flush=True)
    if given.output is not None:
        given.output.write_text(json.dumps([vars(outcome) for outcome in found], indent=1) + "\n")
    for kind in given.kinds:
        counts = Counter(outcome.outcome for outcome in found if outcome.kind == kind)
        print(f"{kind:<12} {sum(counts.values()):>5}  " + ", ".join(f"{n} {name}" for name, n in counts.most_common()))
    shutil.rmtree(folder, ignore_errors=True)
    return 0 if all(outcome.outcome in GOOD for outcome in found) else 1


if __name__ == "__main__":
    sys.exit(run())
