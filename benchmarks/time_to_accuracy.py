"""Seconds to the course's accuracy: defectlab beside the course's program written out plainly.

Each turn runs one program in a process of its own, so that allocator settings of one cannot help the other,
and counts from the moment it begins to read data to the end of the first epoch after which it names at least
the target share of the test images rightly. Both read the test images after every epoch and stop there. A
program that never gets there counts with its whole time, which is printed as a lower bound. Turn k runs both
with seed k.
"""

import json
import os
import subprocess
import sys
import time
from collections.abc import Sequence
from pathlib import Path

from defectlab_course import FEATURES, MNIST, NEU
from measure import Measurement, Side, load, take_turns

from defectlab.errors import InputError

__all__ = ["MNIST_TARGET", "NEU_TARGET", "measure_mnist", "measure_neu"]

NEU_TARGET, MNIST_TARGET = 0.9267, 0.9904  # the course's figures


class _Program:
    """A script that prints JSON lines; called once a turn, gives its seconds."""

    def __init__(self, side: Side, script: str, words: Sequence[str], target: float) -> None:
        self.side = side
        self.script = script
        self.words = [*words, "--target", str(target)]
        self.target = target

    def __call__(self) -> float:
        seed = len(self.side.remarks)
        began = time.perf_counter()
        epochs = run_script(self.script, [*self.words, "--seed", str(seed)])
        whole = time.perf_counter() - began
        last = epochs[-1]
        if last["accuracy"] < self.target:
            self.side.lower_bound = True
        self.side.remarks.append(
            f"seed {seed}: {last['accuracy']:.2%} after epoch {last['epoch']} and {last['seconds']:.1f} s "
            f"({whole:.1f} s with the imports)"
        )
        return last["seconds"]


def run_script(script: str, words: Sequence[str]) -> list[dict[str, float]]:
    """The JSON lines that a script of this folder prints, one an epoch.

    Raises:
        InputError: it failed; says with what.
    """
    command = [sys.executable, str(Path(__file__).with_name(script)), *words]
    result = subprocess.run(command, capture_output=True, text=True, env=dict(os.environ))
    epochs = [json.loads(line) for line in result.stdout.splitlines() if line.startswith("{")]
    if result.returncode or not epochs:
        reason = (result.stderr.strip() or "no epoch was trained").splitlines()[-1]
        raise InputError(f"{script} {' '.join(words)} failed: {reason}")
    return epochs


def measure_neu(
    root: Path,
    what: str,
    weights: str | None,
    precision: str,
    epochs: int,
    repeats: int,
    threads: int,
    target: float,
) -> list[Measurement]:
    """NEU-CLS: cached features (with `weights`) and the course's own network, both beside the plain program.

    `root` holds train and test class folders; `epochs` are those of the plain program.
    """
    before = load()
    plain = Side("course, plain PyTorch", f"200 px, batch 32, Adam 0.001, {epochs} epochs, PIL + DataLoader", [])
    same = Side("defectlab, the course's network", NEU.words(precision), [])
    head = Side(
        "defectlab, cached features",
        f"MobileNetV2 {Path(weights or '').name}, {FEATURES.words('32-true')}",
        [],
    )
    common = [str(root), "--threads", str(threads)]
    programs = [
        _Program(same, "defectlab_course.py", ["neu", *common, "--precision", precision], target),
        _Program(plain, "plain_course.py", ["neu", *common, "--epochs", str(epochs)], target),
    ]
    if weights is not None:
        programs.insert(0, _Program(head, "defectlab_course.py", ["features", *common, "--weights", weights], target))
    _turns(programs, repeats)
    after = [before, load()]
    title = f"Seconds to {target:.2%} on {what}, {threads} threads"
    results = [Measurement(title, "s", same, [plain], "theirs / ours", 2.0, "at least", after)]
    if weights is not None:
        results.insert(0, Measurement(title, "s", head, [plain], "theirs / ours", 20.0, "at least", after))
    return results


def measure_mnist(
    root: Path, precision: str, epochs: int, batch_size: int, repeats: int, threads: int, target: float
) -> Measurement:
    """MNIST with the course's network; `root` holds MNIST/raw."""
    before = load()
    ours = Side("defectlab, the course's network", MNIST.words(precision), [])
    settings = f"batch {batch_size}, Adam 0.001, {epochs} epochs, torchvision's MNIST + DataLoader"
    plain = Side("course, plain PyTorch", settings, [])
    common = ["mnist", str(root), "--threads", str(threads)]
    rest = ["--epochs", str(epochs), "--batch-size", str(batch_size)]
    programs = [
        _Program(ours, "defectlab_course.py", [*common, "--precision", precision], target),
        _Program(plain, "plain_course.py", [*common, *rest], target),
    ]
    _turns(programs, repeats)
    title = f"Seconds to {target:.2%} on the MNIST test images, {threads} threads"
    return Measurement(title, "s", ours, [plain], "theirs / ours", 2.0, "at least", [before, load()])


def _turns(programs: list[_Program], repeats: int) -> None:
    values = take_turns({program.side.name: program for program in programs}, repeats)
    for program in programs:
        program.side.values = values[program.side.name]
