"""Kill commands at random moments, let them go on, and compare what they leave with that of an unbroken run.

    python benchmarks/faults.py --trials 20 --seed 0 --output faults.json
    python benchmarks/faults.py --modes plain ema --trials 3

A trial starts the command, kills it by SIGKILL at a random moment (in every third trial its continuation, too), then lets
`resume RUN`, or the same command again where there is no run yet, come to its end. `same` are the trials whose
checkpoints (weights, optimiser, schedule), tables and metrics.json are those of an unbroken run but for times;
`different` those with any other value or file, `failed` those with a status other than 0, a traceback or no end.

Torch, Lightning and defectlab are imported once: each command runs in a fork, which is what makes a trial take a second
or two. The second process of the two-process mode is a real one.
"""

import argparse
import contextlib
import csv
import hashlib
import io
import json
import os
import random
import shutil
import signal
import sys
import tempfile
import time
import traceback
import zipfile
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field
from functools import partial
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

os.environ["OMP_NUM_THREADS"] = "1"  # before torch: a fork of one thread is a whole program

import numpy as np
import torch
from matplotlib.figure import Figure
from PIL import Image

from defectlab.cli.main import main

__all__ = ["MODES", "Mode", "Trial", "compare", "run_mode"]

LIMIT = 120.0  # seconds, after which a command is taken for hung
TINY = """
seed_everything: 0
model:
  class_path: SmallCNNTask
  init_args:
    network: {{class_path: CompactCNN}}
    optimizer: {{name: adamw, lr: 0.003}}
data:
  class_path: ImageFolderDataModule
  init_args: {{root: {images}, image_size: 16, channels: 1, batch_size: 8, val_size: 9, test_size: 9}}
trainer:
  max_epochs: 6
  accelerator: cpu
  callbacks:
    - class_path: lightning.pytorch.callbacks.ModelCheckpoint
      init_args: {{monitor: val/loss, mode: min, filename: best, enable_version_counter: false}}
"""
PRETRAINED = """
seed_everything: 0
model:
  class_path: PretrainedTask
  init_args:
    backbone: mobilenet_v3_small
    weights: surface
    optimizer: {{name: adamw, lr: 0.003}}
data:
  class_path: ImageFolderDataModule
  init_args: {{root: {images}, image_size: 32, channels: 1, batch_size: 16, val_size: 9, test_size: 9}}
trainer: {{max_epochs: 4, accelerator: cpu}}
"""
# Times, places and counts of reads differ between two runs that are the same.
_TIMES = {
    "train_seconds", "total_seconds", "seconds", "environment", "test_split_read", "mtime_ns", "time", "date", "commit",
    "started", "created", "pid", "host", "threads", "sha256", "checkpoint",  # a hash of a file that holds paths
}  # fmt: skip
_NOT_COMPARED = ("test_reads.csv", "fit.log", "report.html", "run.lock", "course.md")  # times are in them
_STATE = (
    "state_dict",
    "optimizer_states",
    "lr_schedulers",
    "hyper_parameters",
    "epoch",
    "global_step",
    "current_model_state",
)


@dataclass(frozen=True, kw_only=True)
class Mode:
    """A command; `words` and `again` are called with the folder of the trial and the sandbox."""

    name: str
    words: Callable[[Path, Path], list[str]]
    again: Callable[[Path, Path], list[str]] | None = None
    prepare: Callable[[Path, Path], None] | None = None
    call: Callable[[Path, Path], int] | None = None  # in place of `words`
    processes: int = 1


@dataclass
class Trial:
    """One kill: its moment in seconds, what came of it (`same`, `different`, `failed`), and what was found."""

    moment: float
    outcome: str
    found: list[str] = field(default_factory=list)
    left: list[str] = field(default_factory=list)  # hidden files that are there at the end
    inside: bool = False  # whether the kill met the command before its end


def _fit(name: str, *words: str, config: str = "tiny", processes: int = 1) -> Mode:
    """Return a mode of `fit` with these arguments, which `resume` takes up."""

    def fit(folder: Path, sandbox: Path) -> list[str]:
        return ["fit", "--config", str(sandbox / f"{config}.yaml"), "--output", str(folder / "run"), *words]

    def again(folder: Path, sandbox: Path) -> list[str]:
        there = (folder / "run" / "config.yaml").is_file()
        return ["resume", str(folder / "run")] if there else fit(folder, sandbox)

    return Mode(name=name, words=fit, again=again, processes=processes)


_CALLBACKS = "--trainer.callbacks+=lightning.pytorch.callbacks."


def _modes() -> dict[str, Mode]:
    def crossval(folder: Path, sandbox: Path) -> list[str]:
        words = ["--config", str(sandbox / "tiny.yaml"), "--folds", "3", "--repeats", "1"]
        return ["crossval", *words, "--output", str(folder / "cv"), "--trainer.max_epochs", "2"]

    def crossval_again(folder: Path, sandbox: Path) -> list[str]:
        there = (folder / "cv" / "crossval.json").is_file()
        return ["crossval", str(folder / "cv")] if there else crossval(folder, sandbox)

    def course(folder: Path, sandbox: Path) -> list[str]:
        words = ["--mnist", str(sandbox / "idx"), "--seeds", "2", "--data.val_size=50", "--trainer.max_epochs=2"]
        return ["course", "run", "mnist-cnn", *words, "--trainer.accelerator=cpu", "--output", str(folder / "course")]

    def budget(folder: Path, sandbox: Path) -> list[str]:
        words = ["--config", str(sandbox / "pretrained.yaml"), "--per-class", "1", "3", "--draws", "3"]
        return ["budget", *words, "--output", str(folder / "budget")]

    def ensemble(folder: Path, sandbox: Path) -> list[str]:
        members = [str(sandbox / "member" / name / "run") for name in "ab"]
        return ["ensemble", *members, "--output", str(folder / "ensemble")]

    def augment(folder: Path, sandbox: Path) -> list[str]:
        words = ["--config", str(sandbox / "tiny.yaml"), "--copies", "9", "--data.augmentation.rotation=20"]
        return ["data", "augment", *words, "--output", str(folder / "augmented")]

    def synthesize(folder: Path, sandbox: Path) -> list[str]:
        return ["data", "synthesize", str(folder / "drawn"), "--per-class", "4", "--seed", "1"]

    modes = [
        _fit("plain", "--model.scheduler.name=constant"),
        _fit("dropout, augmentation, MixUp", "--model.network.dropout=0.5", "--data.augmentation",
             '{"rotation": 10, "mixup": 0.2}'),
        _fit("one-cycle", "--model.scheduler.name=onecycle"),
        _fit("cosine", "--model.scheduler.name=cosine"),
        _fit("plateau", "--model.scheduler.name=plateau", "--model.scheduler.patience=0"),
        _fit("EMA", "--trainer.callbacks+=defectlab.callbacks.EMA"),
        _fit("SWA", "--trainer.callbacks+=defectlab.callbacks.SWA", "--trainer.callbacks.start=0.25"),
        _fit("early stopping", f"{_CALLBACKS}EarlyStopping", "--trainer.callbacks.monitor=val/loss",
             "--trainer.callbacks.patience=1", "--model.optimizer.lr=0.1", "--trainer.max_epochs=40"),
        _fit("head_then_all", "--model.trainable=head_then_all", "--model.unfreeze_epoch=2", config="pretrained"),
        _fit("cache_features", "--model.cache_features=true", "--trainer.max_epochs=8", config="pretrained"),
        _fit("accumulation", "--trainer.accumulate_grad_batches=3"),
        _fit("validation every 2 epochs", "--trainer.check_val_every_n_epoch=2"),
        _fit("validation every half epoch", "--trainer.val_check_interval=0.5"),
        _fit("max_steps", "--trainer.max_steps=22", "--trainer.max_epochs=-1"),
        _fit("rate finder", "--trainer.callbacks+=defectlab.callbacks.RateFinder", "--trainer.callbacks.steps=30"),
        # What these are made of, together.
        _fit("max_steps, validation every 5 batches", "--trainer.max_steps=22", "--trainer.max_epochs=-1",
             "--trainer.val_check_interval=5", "--trainer.check_val_every_n_epoch=null"),
        _fit("plateau, early stopping, validation every 2 epochs", "--trainer.check_val_every_n_epoch=2",
             "--model.scheduler.name=plateau", "--model.scheduler.patience=0", f"{_CALLBACKS}EarlyStopping",
             "--trainer.callbacks.monitor=val/loss", "--trainer.callbacks.patience=1", "--model.optimizer.lr=0.1",
             "--trainer.max_epochs=30"),
        _fit("EMA, early stopping, validation every half epoch", "--trainer.val_check_interval=0.5",
             "--trainer.callbacks+=defectlab.callbacks.EMA", "--trainer.callbacks.decay=0.9", f"{_CALLBACKS}EarlyStopping",
             "--trainer.callbacks.monitor=val/loss", "--trainer.callbacks.patience=2", "--model.optimizer.lr=0.05",
             "--trainer.max_epochs=30"),
        _fit("SWA, accumulation, validation every 2 epochs", "--trainer.callbacks+=defectlab.callbacks.SWA",
             "--trainer.callbacks.start=0.5", "--trainer.accumulate_grad_batches=2", "--trainer.check_val_every_n_epoch=2"),
        _fit("best by accuracy under another name, limited batches", f"{_CALLBACKS}ModelCheckpoint",
             "--trainer.callbacks.monitor=val/accuracy", "--trainer.callbacks.mode=max", "--trainer.limit_train_batches=0.7",
             "--trainer.callbacks.filename=top-{epoch}"),
        _fit("checkpoints every 3 steps", f"{_CALLBACKS}ModelCheckpoint", "--trainer.callbacks.monitor=val/loss",
             "--trainer.callbacks.every_n_train_steps=3", "--trainer.callbacks.filename=step",
             "--trainer.callbacks.enable_version_counter=false"),
        _fit("two processes", "--trainer.devices=2", "--trainer.strategy=ddp", processes=2),
        Mode(name="crossval", words=crossval, again=crossval_again),
        Mode(name="course run", words=course),
        Mode(name="budget", words=budget),
        Mode(name="ensemble", words=ensemble, prepare=_members),
        Mode(name="data fetch", words=lambda *_: [], call=_fetch),
        Mode(name="data augment", words=augment),
        Mode(name="data synthesize", words=synthesize),
        Mode(name="pixel cache", words=lambda *_: [], call=_cache),
    ]  # fmt: skip
    return {mode.name: mode for mode in modes}


def _members(folder: Path, sandbox: Path) -> None:
    """Make the two runs of an ensemble, once."""
    for seed, name in enumerate("ab"):
        place = sandbox / "member" / name
        if not (place / "run" / "metrics.json").is_file():
            words = MODES["plain"].words(place, sandbox)
            words.append(f"--seed_everything={seed}")
            _ended(_start(partial(main, words), place, sandbox))


def _fetch(folder: Path, sandbox: Path) -> int:
    from defectlab.data.sources.fetch import fetch

    manifest = json.loads((sandbox / "manifest.json").read_text())
    url = (sandbox / "url").read_text()
    fetch(url, folder / "fetched", manifest, timeout=10, pause=0.05)
    return 0


def _cache(folder: Path, sandbox: Path) -> int:
    from defectlab.data.sources.reading import read_images
    from defectlab.utils.image_format import ImageFormat

    files = sorted((sandbox / "many").iterdir())
    images, _, _ = read_images(files, ImageFormat(image_size=96, channels=1), cache=folder / "cache" / "many.uint8")
    (folder / "sum").write_text(hashlib.sha256(images.numpy().tobytes()).hexdigest())
    return 0


MODES: dict[str, Mode] = _modes()


# Processes


def _start(call: Callable[[], int], folder: Path, sandbox: Path, log: str = "log") -> int:
    """Run `call` in a fork, in a session of its own; return its id. Its output goes to `folder/log`."""
    folder.mkdir(parents=True, exist_ok=True)
    sys.stdout.flush()
    sys.stderr.flush()
    child = os.fork()
    if child:
        return child
    status = 70
    try:
        os.setsid()
        os.chdir(folder)
        out = os.open(folder / log, os.O_WRONLY | os.O_CREAT | os.O_APPEND)
        os.dup2(out, 1)
        os.dup2(out, 2)
        sys.stdout, sys.stderr = os.fdopen(1, "w", buffering=1), os.fdopen(2, "w", buffering=1)
        status = call()
    except SystemExit as end:
        status = end.code if isinstance(end.code, int) else 70
    except BaseException:
        traceback.print_exc()
    finally:
        with contextlib.suppress(Exception):
            sys.stdout.flush()
            sys.stderr.flush()
        os._exit(status)


def _ended(child: int, limit: float = LIMIT, poll: float = 0.002) -> int | None:
    """Return the status of a child; None if it was killed, or after `limit` seconds, after which it is killed."""
    deadline = time.monotonic() + limit
    while True:
        found, status = os.waitpid(child, os.WNOHANG)
        if found:
            return os.waitstatus_to_exitcode(status)
        if time.monotonic() > deadline:
            _kill(child)
            return None
        time.sleep(poll)


def _kill(child: int) -> None:
    with contextlib.suppress(ProcessLookupError, PermissionError):
        os.killpg(child, signal.SIGKILL)
    with contextlib.suppress(ProcessLookupError):
        os.kill(child, signal.SIGKILL)  # where it has not made its session yet
    with contextlib.suppress(ChildProcessError):
        os.waitpid(child, 0)


def _commanded(words: list[str], mode: Mode) -> Callable[[], int]:
    def call() -> int:
        sys.argv = [str(Path(main.__code__.co_filename).parents[1] / "__main__.py"), *words]
        sys.modules["__main__"].__spec__ = None  # what Lightning starts is the program, not this one
        return main(words)

    return call


def _call(mode: Mode, folder: Path, sandbox: Path, again: bool) -> Callable[[], int]:
    if mode.call is not None:
        call = mode.call
        return lambda: call(folder, sandbox)
    make = mode.again if again and mode.again is not None else mode.words
    return _commanded(make(folder, sandbox), mode)


# Trials


def run_mode(mode: Mode, trials: int, seed: int, sandbox: Path) -> Iterator[Trial]:
    """Kill a command `trials` times; the unbroken run comes first."""
    rng = random.Random(f"{seed} {mode.name}")
    place = sandbox / "trials" / "".join(c if c.isalnum() else "_" for c in mode.name)
    shutil.rmtree(place, ignore_errors=True)
    if mode.prepare is not None:
        mode.prepare(place, sandbox)
    reference = place / "unbroken" / "x"
    seconds, first, last = [], 0.0, 0.0
    for attempt in range(2):  # the first one warms the page cache
        shutil.rmtree(reference, ignore_errors=True)
        began, clock = time.monotonic(), time.time()
        status = _ended(_start(_call(mode, reference, sandbox, False), reference, sandbox))
        seconds.append(time.monotonic() - began)
        if status != 0:
            raise RuntimeError(
                f"{mode.name}: the unbroken run ended with {status}: {(reference / 'log').read_text()[-2000:]}"
            )
        config, checkpoint = (reference / "run" / name for name in ("config.yaml", "checkpoints/last.ckpt"))
        if checkpoint.is_file() and attempt:
            first, last = config.stat().st_mtime - clock - 0.05, checkpoint.stat().st_mtime - clock + 0.1
    for number in range(trials):
        folder = place / f"{number:03}" / "x"
        # Mostly while it trains: there, and not in what surrounds it, a moment can be told from another.
        within = last > first and rng.random() < 0.75
        moment = rng.uniform(first, last) if within else rng.uniform(0.02, seconds[-1])
        trial = _try(mode, folder, reference, sandbox, moment, rng, number % 3 == 2)
        yield trial
        if trial.outcome == "same":
            shutil.rmtree(folder.parent, ignore_errors=True)


def _try(
    mode: Mode, folder: Path, reference: Path, sandbox: Path, moment: float, rng: random.Random, twice: bool
) -> Trial:
    trial = Trial(moment, "same")
    status = _ended(_start(_call(mode, folder, sandbox, False), folder, sandbox), moment)
    trial.inside = status is None
    if status not in (None, 0):
        return Trial(moment, "failed", [f"before the kill: status {status}: {_tail(folder / 'log')}"])
    if twice and status is None:
        _ended(_start(_call(mode, folder, sandbox, True), folder, sandbox, "log1"), rng.uniform(0.2, 1.2) * moment)
    status = _ended(_start(_call(mode, folder, sandbox, True), folder, sandbox, "log2"))
    text = (folder / "log2").read_text(errors="replace") if (folder / "log2").is_file() else ""
    found = compare(reference, folder)
    if "Traceback (most recent call last)" in text or (status != 0 and found):
        # What is whole already may be refused to be written again.
        return Trial(moment, "failed", [f"status {status}: {_tail(folder / 'log2')}", *found[:4]], inside=trial.inside)
    if found:
        trial.outcome, trial.found = "different", found
    trial.left = sorted(
        str(path.relative_to(folder))
        for path in folder.rglob("*")
        if path.name.startswith(".") or path.suffix == ".tmp"
    )
    return trial


def _tail(path: Path) -> str:
    lines = path.read_text(errors="replace").strip().splitlines() if path.is_file() else []
    return " | ".join(lines[-3:])[-600:]


# Comparison


def compare(first: Path, second: Path) -> list[str]:
    """List the differences between two trees that are neither times, places nor drawings of times."""
    names = [
        {
            str(path.relative_to(root))
            for path in root.rglob("*")
            if path.is_file() and not _ignored(path.relative_to(root))
        }
        for root in (first, second)
    ]
    found = [f"{name} is missing" for name in sorted(names[0] - names[1])]
    found += [f"{name} is more" for name in sorted(names[1] - names[0])]
    for name in sorted(names[0] & names[1]):
        found += [f"{name}: {what}" for what in _differences(first / name, second / name)]
    return found


def _ignored(path: Path) -> bool:
    return (
        path.name in _NOT_COMPARED
        or path.name.startswith(("events.", "log", "."))
        or any(part.startswith(".") for part in path.parts)
    )


def _differences(first: Path, second: Path) -> list[str]:
    if first.suffix == ".ckpt":
        one, other = (torch.load(path, map_location="cpu", weights_only=True) for path in (first, second))
        return list(_unequal({k: one.get(k) for k in _STATE}, {k: other.get(k) for k in _STATE}, ""))
    if first.suffix == ".json":
        return list(_unequal(json.loads(first.read_text()), json.loads(second.read_text()), ""))
    if first.suffix == ".csv":
        tables = []
        for path in (first, second):
            with path.open(newline="", encoding="utf-8") as file:
                tables.append([{k: v for k, v in row.items() if k not in _TIMES} for row in csv.DictReader(file)])
        return list(_unequal(tables[0], tables[1], ""))
    if first.suffix in (".yaml", ".md", ".txt"):
        texts = [path.read_text().replace(_root(path), "@") for path in (first, second)]
        return [] if texts[0] == texts[1] else ["another text"]
    return [] if first.read_bytes() == second.read_bytes() else ["other bytes"]


def _root(path: Path) -> str:
    """Return the folder of the trial, which the texts in it name."""
    return str(next(parent for parent in path.parents if parent.name == "x"))


def _unequal(one: Any, other: Any, place: str) -> Iterator[str]:
    if isinstance(one, torch.Tensor) and isinstance(other, torch.Tensor):
        if one.shape != other.shape or one.dtype != other.dtype or not torch.equal(one, other):
            yield f"{place}: another tensor"
    elif isinstance(one, dict) and isinstance(other, dict):
        for key in sorted({*one, *other}, key=str):
            if key not in _TIMES:
                yield from _unequal(one.get(key), other.get(key), f"{place}.{key}")
    elif isinstance(one, list | tuple) and isinstance(other, list | tuple):
        if len(one) != len(other):
            yield f"{place}: {len(one)} against {len(other)} entries"
        for index, pair in enumerate(zip(one, other, strict=False)):
            yield from _unequal(pair[0], pair[1], f"{place}[{index}]")
    elif one != other and not (one != one and other != other) and not _places(one, other):
        yield f"{place}: {str(one)[:60]!r} against {str(other)[:60]!r}"


def _places(one: object, other: object) -> bool:
    """Return whether both are paths of the same file in two trials."""
    return (
        isinstance(one, str)
        and isinstance(other, str)
        and "/x/" in one
        and one.split("/x/")[-1] == other.split("/x/")[-1]
    )


# What there is to work on


def make_sandbox(sandbox: Path) -> None:
    """Write images, configs, an archive."""
    images = sandbox / "images"
    for label, name in enumerate(("crack", "dent", "ok")):
        (images / name).mkdir(parents=True)
        for index in range(20):
            Image.fromarray(_texture(label, index, 16)).save(images / name / f"{index}.png")
    for name, text in (("tiny", TINY), ("pretrained", PRETRAINED)):
        (sandbox / f"{name}.yaml").write_text(text.format(images=images))
    many = sandbox / "many"
    many.mkdir()
    for index in range(900):
        Image.fromarray(_texture(index % 3, index, 96)).save(many / f"{index:04}.png")
    idx = sandbox / "idx"
    idx.mkdir()
    for part, per_class in (("train", 20), ("t10k", 5)):
        labels = np.tile(np.arange(10, dtype=np.uint8), per_class)
        pixels = np.stack([_texture(int(label), number, 28) for number, label in enumerate(labels)])
        for kind, array in (("images-idx3", pixels), ("labels-idx1", labels)):
            head = bytes((0, 0, 8, array.ndim)) + b"".join(size.to_bytes(4, "big") for size in array.shape)
            (idx / f"{part}-{kind}-ubyte").write_bytes(head + array.tobytes())
    rng = np.random.default_rng(0)
    files = {f"crazing_{number}.jpg": rng.bytes(20_000) for number in range(1, 40)}
    buffer = io.BytesIO()
    with zipfile.ZipFile(buffer, "w") as archive:
        for name, content in files.items():
            archive.writestr(f"repository/IMAGES/{name}", content)
    (sandbox / "archive.zip").write_bytes(buffer.getvalue())
    manifest = {name: hashlib.sha256(content).hexdigest() for name, content in files.items()}
    (sandbox / "manifest.json").write_text(json.dumps(manifest))


def _texture(label: int, index: int, side: int) -> np.ndarray[Any, np.dtype[np.uint8]]:
    y, x = np.mgrid[:side, :side]
    rng = np.random.default_rng((label, index))
    wave = np.sin((0.3 + 0.15 * label) * (x, y, x + y)[label % 3] + 6 * rng.random())
    grey = (0.5 + 0.25 * wave + rng.normal(0, 0.3, (side, side))).clip(0, 1)
    return np.asarray(255 * grey, dtype=np.uint8)


def _serve(sandbox: Path) -> int:
    """Serve the archive slowly on 127.0.0.1, in a process of its own; its address is in `sandbox/url`."""
    content = (sandbox / "archive.zip").read_bytes()

    class Handler(BaseHTTPRequestHandler):
        def do_GET(self) -> None:
            wanted = self.headers.get("Range")
            start = int(wanted.removeprefix("bytes=").rstrip("-")) if wanted else 0
            if start >= len(content):
                self.send_error(416)
                return
            self.send_response(206 if start else 200)
            if start:
                self.send_header("Content-Range", f"bytes {start}-{len(content) - 1}/{len(content)}")
            self.send_header("Content-Length", str(len(content) - start))
            self.end_headers()
            with contextlib.suppress(OSError):
                for place in range(start, len(content), 16_000):
                    self.wfile.write(content[place : place + 16_000])
                    time.sleep(0.005)

        def log_message(self, *_: object) -> None:
            pass

    def serve() -> int:
        server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
        (sandbox / "url").write_text(f"http://127.0.0.1:{server.server_port}/archive.zip")
        server.serve_forever()
        return 0

    child = _start(serve, sandbox, sandbox)
    while not (sandbox / "url").is_file():
        time.sleep(0.01)
    return child


def _preload(sandbox: Path) -> None:
    """Import here what a run imports, so that its forks need not."""
    found = sandbox / "modules"

    def listed() -> int:
        words = MODES["plain"].words(sandbox / "warm", sandbox)
        status = main([*words, "--trainer.max_epochs=1"])
        main(["resume", str(sandbox / "warm" / "run"), "--trainer.max_epochs=2"])
        found.write_text("\n".join(sys.modules))
        return status

    _ended(_start(listed, sandbox / "warm", sandbox))
    for name in found.read_text().split("\n"):
        with contextlib.suppress(Exception):
            __import__(name)


def run(arguments: Sequence[str] | None = None) -> int:
    """Run the modes, print a table and write what was found."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").partition("\n")[0])
    parser.add_argument("--trials", type=int, default=20, help="kills a mode (default: %(default)s)")
    parser.add_argument("--seed", type=int, default=0, help="of the moments")
    parser.add_argument("--modes", nargs="+", default=list(MODES), metavar="NAME", help=", ".join(MODES))
    parser.add_argument("--output", type=Path, help="a JSON file of all trials")
    parser.add_argument(
        "--draw", action="store_true", help="draw: without, images are blank, which saves half of the time"
    )
    parser.add_argument("--keep", type=Path, help="a folder to work in; what is not the same stays there")
    given = parser.parse_args(arguments)
    os.environ["no_proxy"] = "127.0.0.1"
    torch.set_num_threads(1)
    if not given.draw:
        Figure.draw = lambda *_: None  # type: ignore[method-assign]
    sandbox = (given.keep or Path(tempfile.mkdtemp(prefix="faults-"))).resolve()
    shutil.rmtree(sandbox, ignore_errors=True)
    sandbox.mkdir(parents=True)
    make_sandbox(sandbox)
    _preload(sandbox)
    server = _serve(sandbox)
    table: dict[str, list[Trial]] = {}
    print(f"{'mode':<56}{'trials':>7}{'inside':>7}{'same':>6}{'different':>10}{'failed':>7}{'left':>5}{'s':>7}")
    try:
        for name in given.modes:
            began = time.monotonic()
            try:
                table[name] = list(run_mode(MODES[name], given.trials, given.seed, sandbox))
            except RuntimeError as error:
                table[name] = [Trial(0, "failed", [str(error)])]
            _print_row(name, table[name], time.monotonic() - began)
            if given.output is not None:
                record = {mode: [vars(trial) for trial in trials] for mode, trials in table.items()}
                given.output.write_text(json.dumps({"seed": given.seed, "modes": record}, indent=1) + "\n")
    finally:
        _kill(server)
        if given.keep is None:
            shutil.rmtree(sandbox, ignore_errors=True)
    everything = [trial for trials in table.values() for trial in trials]
    _print_row("all", everything, 0)
    return 0 if all(trial.outcome == "same" for trial in everything) else 1


def _print_row(name: str, trials: Sequence[Trial], seconds: float) -> None:
    count = {outcome: sum(trial.outcome == outcome for trial in trials) for outcome in ("same", "different", "failed")}
    inside, left = sum(trial.inside for trial in trials), sum(bool(trial.left) for trial in trials)
    print(
        f"{name:<56}{len(trials):>7}{inside:>7}{count['same']:>6}{count['different']:>10}{count['failed']:>7}{left:>5}"
        f"{seconds:>7.0f}",
        flush=True,
    )
    for found in dict.fromkeys(trial.found[0] for trial in trials if trial.found):
        if name != "all":
            print(f"    {found[:400]}", flush=True)


if __name__ == "__main__":
    sys.exit(run())
