"""How fast is defectlab? Both sides of every comparison, measured in turns on this machine.

    python benchmarks/speed.py input --neu DIR
    python benchmarks/speed.py augment
    python benchmarks/speed.py trainer --mnist DIR
    python benchmarks/speed.py course-neu --neu DIR --weights mobilenet_v2.pth
    python benchmarks/speed.py course-mnist --mnist DIR
    python benchmarks/speed.py all ... --output speed.json

Prints hardware, versions and commit, then a Markdown table a measurement with medians and a ratio.
"""

import argparse
import contextlib
import sys
import tempfile
from collections.abc import Sequence
from pathlib import Path

import torch
from augmentation import measure_augmentation
from images import lay_out_mnist, lay_out_neu
from input_path import measure_input
from measure import Measurement, header, write_output
from time_to_accuracy import MNIST_TARGET, NEU_TARGET, measure_mnist, measure_neu
from trainer_overhead import measure_trainer

from defectlab.errors import InputError

__all__ = ["main"]


def parser() -> argparse.ArgumentParser:
    """The arguments."""
    p = argparse.ArgumentParser("speed.py", description="Measure defectlab beside the usual ways, in turns.")
    p.add_argument("what", choices=("input", "augment", "trainer", "course-neu", "course-mnist", "all"))
    p.add_argument("--neu", metavar="DIR", help="NEU-CLS in any layout; without it the synthetic stand-in")
    p.add_argument("--mnist", metavar="DIR", default="data", help="folder of the MNIST files, downloaded if empty")
    p.add_argument("--weights", metavar="FILE", help="mobilenet_v2 for course-neu; without it that part is left out")
    p.add_argument("--threads", type=int, default=torch.get_num_threads(), help="of every side")
    p.add_argument("--repeats", type=int, help="turns; 5 for input, augment and trainer, 3 for the courses")
    p.add_argument("--image-sizes", type=int, nargs="+", default=[128, 200], help="of input and augment")
    p.add_argument("--channels", type=int, nargs="+", choices=(1, 3), default=[3, 1], help="of input")
    p.add_argument("--trainer-epochs", type=int, default=3, help="of each fit of trainer")
    p.add_argument("--course-epochs", type=int, default=10, help="at most, for the plain programs")
    p.add_argument("--mnist-batch-size", type=int, default=64, help="of the plain MNIST program")
    p.add_argument("--neu-target", type=float, default=NEU_TARGET, help="accuracy to reach")
    p.add_argument("--mnist-target", type=float, default=MNIST_TARGET, help="accuracy to reach")
    p.add_argument(
        "--precision", choices=("32-true", "bf16-mixed"), default="bf16-mixed",
        help="of defectlab's side in the courses; bf16-mixed pays where lscpu lists avx512_bf16 or amx_bf16",
    )  # fmt: skip
    p.add_argument("--output", metavar="FILE", type=Path, help="also write everything to a .json or .csv file")
    return p


def measure(given: argparse.Namespace, folder: Path) -> list[Measurement]:
    """Run what was asked for; `folder` takes images and runs."""
    everything = given.what == "all"
    results: list[Measurement] = []
    if everything or given.what in ("input", "course-neu"):
        pictures = lay_out_neu(given.neu, folder / "neu")
    if everything or given.what == "input":
        results += [
            measure_input(folder / "neu", pictures, size, channels, given.repeats or 5, given.threads)
            for size in given.image_sizes
            for channels in given.channels
        ]
    if everything or given.what == "augment":
        for size in given.image_sizes:
            results += measure_augmentation(size, given.repeats or 5, given.threads)
    if everything or given.what == "trainer":
        runs = folder / "runs"
        results.append(measure_trainer(given.mnist, runs, given.trainer_epochs, given.repeats or 5, given.threads))
    if everything or given.what == "course-neu":
        results += measure_neu(
            folder / "neu", pictures, given.weights, given.precision, given.course_epochs, given.repeats or 3,
            given.threads, given.neu_target,
        )  # fmt: skip
    if everything or given.what == "course-mnist":
        lay_out_mnist(given.mnist, folder / "mnist")
        results += [
            measure_mnist(
                folder / "mnist", given.precision, given.course_epochs, given.mnist_batch_size,
                given.repeats or 3, given.threads, given.mnist_target,
            )
        ]  # fmt: skip
    return results


def main(arguments: Sequence[str] | None = None) -> int:
    """Measure, print, write; 1 for unusable input."""
    given = parser().parse_args(arguments)
    try:
        for name in ("threads", "repeats", "trainer_epochs", "course_epochs", "mnist_batch_size"):
            value = getattr(given, name)
            if value is not None and value < 1:
                raise InputError(f"--{name.replace('_', '-')} is {value}: expected a whole number of at least 1")
        if given.output is not None and given.output.suffix not in (".json", ".csv"):
            raise InputError(f"--output is {given.output}: expected a name that ends in .json or .csv")
        # Progress bars go to stderr: stdout is for the tables.
        with tempfile.TemporaryDirectory() as folder, contextlib.redirect_stdout(sys.stderr):
            results = measure(given, Path(folder))
        if given.output is not None:
            write_output(given.output, results)
    except InputError as error:
        print(f"speed.py: error: {error}", file=sys.stderr)
        return 1
    print(header())
    print("\n".join(result.markdown() for result in results))
    return 0


if __name__ == "__main__":
    sys.exit(main())
