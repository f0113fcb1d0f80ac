"""Predict by an exported folder, without torch: the program runtime.py of the folder, whose `Runtime` can be imported."""

from __future__ import annotations

import argparse
import io
import signal
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import NoReturn

from defectlab.data.sources.files import SUFFIXES
from defectlab.deploy.runtime import Runtime
from defectlab.deploy.selftest import self_test
from defectlab.deploy.watch import append_rows, files_done, watch
from defectlab.errors import InputError
from defectlab.inference.predictions import BadImages, Predictions
from defectlab.metrics.decisions import NO_CLASS
from defectlab.utils.progress import progress_bars
from defectlab.utils.text import percent


class _Parser(argparse.ArgumentParser):
    def error(self, message: str) -> NoReturn:
        raise InputError(f"{message}; see --help")


def main(words: Sequence[str] | None = None) -> int:
    """Run the program, and return its exit status."""
    try:
        with progress_bars(False):
            return _run(words)
    except InputError as error:
        print(f"runtime: error: {' '.join(str(error).split())}", file=sys.stderr)
        return 1
    except KeyboardInterrupt:
        print("runtime: stopped", file=sys.stderr)
        return 130


def _run(words: Sequence[str] | None) -> int:
    parser = _Parser("runtime.py", description="Label images by the network of this folder.", allow_abbrev=False)
    parser.add_argument("images", nargs="*", help="image files, folders (with all below them) and globs")
    parser.add_argument(
        "--output", type=Path, metavar="CSV", help="file to write all probabilities to (default: print)"
    )
    parser.add_argument("--max-error", type=float, metavar="SHARE", help="of wrong ones among the images decided")
    parser.add_argument("--sets", type=float, metavar="COVERAGE", help="a set of classes an image, such as 0.95")
    parser.add_argument("--novelty", type=float, metavar="SHARE", help="of false alarms among what is called novel")
    parser.add_argument("--on-bad-image", "--on_bad_image", choices=("error", "skip"), default="error")
    parser.add_argument("--watch", type=Path, metavar="FOLDER", help="label images as they arrive, until Ctrl-C")
    parser.add_argument("--self-test", action="store_true", help="answer the test vectors again")
    parser.add_argument("--threads", type=int, default=1, help="that decode and compute (default: 1)")
    parser.add_argument("--provider", default="cpu", help="of ONNX Runtime, or device of OpenVINO (default: cpu)")
    parser.add_argument("--model", type=Path, metavar="FOLDER", help="exported folder (default: that of this file)")
    given = parser.parse_args(words)
    if bool(given.images) + (given.watch is not None) + given.self_test != 1:
        raise InputError("expected images (files, folders or glob patterns), --watch FOLDER or --self-test; see --help")
    output: Path | None = given.output
    if output is not None and (output.suffix.lower() in SUFFIXES or (output.exists() and not output.is_file())):
        raise InputError(f"--output {output} is named as an image or no file: expected the name of a CSV file")
    if isinstance(sys.stdout, io.TextIOWrapper):
        sys.stdout.reconfigure(errors="backslashreplace")  # a file's name may be no text
    runtime = Runtime(given.model, given.provider, given.threads)
    promised = {key: getattr(given, key) for key in ("max_error", "sets", "novelty")}
    if given.self_test:
        print(self_test(runtime))
    elif given.watch is not None:
        promises = runtime.promises(**promised)
        done = set() if output is None else files_done(output, promises.apply(runtime.predict([])))
        signal.signal(signal.SIGTERM, signal.default_int_handler)
        keep = _print if output is None else lambda found: append_rows(found, output)
        print(f"{watch(runtime, given.watch, promises, keep, done)} images of {given.watch}", file=sys.stderr)
    else:
        try:
            _tell(runtime(given.images, **promised, on_bad_image=given.on_bad_image), output)
        except BadImages as error:  # what could be read is told first
            _tell(error.predictions, output)
            raise
    return 0


def _tell(found: Predictions, output: Path | None) -> None:
    if output is None:
        _print(found)
    else:
        found.write_csv(output)
        print(f"{len(found)} images -> {output}")
    for skipped in found.skipped:
        print(f"left out {skipped}", file=sys.stderr)


def _print(found: Predictions) -> None:
    """A line an image: its file, class and confidence, and what was decided."""
    for i, (file, name, p) in enumerate(zip(found.files, found.predicted, found.confidence.tolist(), strict=True)):
        more = "".join(f" {key}={texts[i]}" for key, texts in found.extra.items())
        print(f"{file}: {name or NO_CLASS} {percent(p)}{more}", flush=True)


if __name__ == "__main__":
    sys.exit(main())
