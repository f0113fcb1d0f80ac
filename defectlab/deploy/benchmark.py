"""Measure trained networks and exported folders at work: latency, where it goes, memory, start-up time and size."""

import json
import os
import shutil
import subprocess
import sys
import time
from collections.abc import Sequence
from contextlib import ExitStack, suppress
from dataclasses import dataclass
from os import PathLike, fspath
from pathlib import Path
from statistics import median
from tempfile import TemporaryDirectory
from typing import Any

import numpy as np
import numpy.typing as npt
from PIL import Image

from defectlab.data.sources.files import expand_images
from defectlab.errors import InputError, check_at_least
from defectlab.utils.text import csv_text, write_text
from defectlab.utils.turns import in_turns

_SIDE = 200  # pixels of an image that is drawn


@dataclass(frozen=True, kw_only=True)
class BenchmarkRow:
    """Calls of one subject; milliseconds a call, and megabytes of 10^6 bytes.

    Args:
        subject: as it was named.
        format: `torch`, or of an exported folder `onnx` or `openvino`.
        threads: of its process.
        batch: images a call.
        source: what a call turns into probabilities: `file`, encoded images on disk, or `array`, decoded ones.
        median_ms: of the calls; `low_ms` and `high_ms` are the extremes.
        ratio: of its time to the first subject's in the same turn, the median.
        decode_ms: of a call with one file, like `resize_ms`, `network_ms`, from uint8 pixels to probabilities, and `rest_ms`;
            what a JPEG is decoded smaller by counts as decoding. None of other calls.
        start_s: from the start of a fresh process to its first answer, from a file, and `start_cpu_s` of the processor.
        peak_mb: most memory until then; None where the system does not tell.
        size_mb: of the model's files.
    """

    subject: str
    format: str
    threads: int
    batch: int
    source: str
    median_ms: float
    low_ms: float
    high_ms: float
    ratio: float
    decode_ms: float | None
    resize_ms: float | None
    network_ms: float | None
    rest_ms: float | None
    start_s: float
    start_cpu_s: float
    peak_mb: float | None
    size_mb: float | None


class _Process:
    """A fresh process of one subject, see `defectlab.deploy.measured`."""

    def __init__(self, subject: str, threads: int, images: Sequence[Path], batches: Sequence[int]) -> None:
        self.subject, self.threads = subject, threads
        request = {"path": subject, "threads": threads, "images": [str(image) for image in images], "batches": batches}
        places = os.pathsep.join(path for path in sys.path if path)
        began = time.perf_counter()
        self._process = subprocess.Popen(
            [sys.executable, "-m", "defectlab.deploy.measured", json.dumps(request)], text=True,
            stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL,
            env={**os.environ, "PYTHONPATH": places, "OMP_NUM_THREADS": str(threads)},
        )  # fmt: skip
        self.facts = self._answer()
        self.start_s = time.perf_counter() - began

    def measure(self) -> list[float]:
        """Return the seconds of every call."""
        assert self._process.stdin is not None
        with suppress(BrokenPipeError):  # `_answer` tells it
            print(file=self._process.stdin, flush=True)
        seconds: list[float] = self._answer()
        return seconds

    def end(self) -> None:
        """Stop the process."""
        self._process.kill()
        self._process.communicate()

    def _answer(self) -> Any:
        assert self._process.stdout is not None
        line = self._process.stdout.readline()
        answer = json.loads(line) if line else {"error": f"its process ended, with status {self._process.wait()}"}
        if not isinstance(answer, dict) or "error" not in answer:
            return answer
        self.end()
        path = Path(self.subject)
        other = path.is_dir() and not (path / "card.json").exists()
        hint = "; or name an exported folder, which has a card.json" if other else ""
        raise InputError(f"{self.subject}: {answer['error']}{hint}")


def benchmark(
    subjects: str | PathLike[str] | Sequence[str | PathLike[str]],
    *,
    images: str | PathLike[str] | Sequence[str | PathLike[str]] = (),
    threads: Sequence[int] = (1,),
    batch: Sequence[int] = (1,),
    turns: int = 50,
    output: str | PathLike[str] | None = None,
    progress: bool = False,
) -> list[BenchmarkRow]:
    """Measure runs, checkpoints and exported folders, each in a process of its own, in turns A B A B.

    Args:
        subjects: what `load` takes, and folders that were exported; ratios are to the first.
        images: files, folders and globs to predict, used again where a batch is larger; none for JPEG files of 200 px.
        threads: numbers of threads, each at least 1.
        batch: numbers of images a call, each at least 1.
        turns: timed calls, at least 1.
        output: CSV file to write the rows to.
        progress: draw a bar for work of more than a second.

    Raises:
        InputError: what cannot be used or ends, no subject, or numbers out of range.
    """
    names = [fspath(one) for one in ([subjects] if isinstance(subjects, str | PathLike) else subjects)]
    if not names:
        raise InputError("nothing to measure is named: expected runs, checkpoints or exported folders")
    for argument, values in (("threads", threads), ("batch", batch), ("turns", [turns])):
        check_at_least(argument, min(values, default=0), 1)
    batches = list(dict.fromkeys(batch))
    rows: list[BenchmarkRow] = []
    with TemporaryDirectory() as folder, ExitStack() as stack:
        files = _files(Path(folder), images, max(batches))
        for count in dict.fromkeys(threads):
            processes = []
            for name in dict.fromkeys(names):
                processes.append(_Process(name, count, files, batches))
                stack.callback(processes[-1].end)
            found: npt.NDArray[np.float64] = np.array(
                in_turns([process.measure for process in processes], turns, progress)
            )
            for process, seconds in zip(processes, found, strict=True):
                rows += _rows(process, 1000 * seconds, seconds / found[0], batches)
    if output is not None:
        write_text(Path(output), csv_text(BenchmarkRow, rows))
    return rows


def _files(folder: Path, images: Any, count: int) -> list[Path]:
    """Return so many files in the folder, each of a name of its own: copies, or JPEG files that are drawn."""
    given = expand_images(images) if images else []
    if not given:
        coarse = np.random.default_rng(0).integers(0, 256, (_SIDE // 4, _SIDE // 4, 3), dtype=np.uint8)
        given = [folder / "drawn.jpg"]
        Image.fromarray(coarse).resize((_SIDE, _SIDE), Image.Resampling.BILINEAR).save(given[0])
    files = [folder / f"{index}{given[index % len(given)].suffix}" for index in range(count)]
    for index, file in enumerate(files):
        shutil.copyfile(given[index % len(given)], file)
    return files


def _rows(process: _Process, times: Any, ratios: Any, batches: Sequence[int]) -> list[BenchmarkRow]:
    """Return the rows of a process, from the milliseconds (turns, calls) of its calls."""
    *_, decode, read, network = np.median(times, axis=0).tolist()
    peak_mb, size_mb = (None if value is None else value / 1e6 for value in map(process.facts.get, ("peak", "size")))
    rows = []
    for place, (batch, source) in enumerate((batch, source) for batch in batches for source in ("file", "array")):
        own = times[:, place].tolist()
        parts: list[Any] = [None] * 4
        if (batch, source) == (1, "file"):
            decode = min(decode, read)
            parts = [decode, read - decode, network, max(0.0, median(own) - read - network)]
        rows.append(BenchmarkRow(
            subject=process.subject, format=process.facts["format"], threads=process.threads, batch=batch, source=source,
            median_ms=median(own), low_ms=min(own), high_ms=max(own), ratio=median(ratios[:, place].tolist()),
            decode_ms=parts[0], resize_ms=parts[1], network_ms=parts[2], rest_ms=parts[3], start_s=process.start_s,
            start_cpu_s=process.facts["cpu"], peak_mb=peak_mb, size_mb=size_mb,
        ))  # fmt: skip
    return rows
