"""`defectlab`: one program, its commands. Nothing heavy is imported before a command needs it."""

import io
import logging
import os
import signal
import sys
import threading
import time
import traceback
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from difflib import get_close_matches
from importlib import import_module
from pathlib import Path

import defectlab
from defectlab.engine.host import quiet
from defectlab.errors import InputError
from defectlab.utils.cpu import wait_passively
from defectlab.utils.progress import is_first_process

COMMANDS = {
    "fit": "train, then test the best checkpoint once: fit --config neu_mobilenet.yaml [--data.root DIR] ...",
    "resume": "go on where a stopped run was:             resume RUN",
    "validate": "the validation figures of a checkpoint:    validate RUN | --config C --ckpt_path FILE",
    "test": "the test figures of the best checkpoint:   test RUN | --config C --ckpt_path FILE",
    "predict": "label images:                              predict RUN|CKPT|imagenet/NETWORK IMAGES... [--output out.csv]",
    "report": "write report.html and its figures anew:    report RUN",
    "crossval": "repeated cross-validation:                 crossval --config C [--folds 5 --repeats 2] ...",
    "budget": "accuracy by labelled images a class:       budget --config C [--draws 10] ...",
    "robustness": "accuracy on images made worse:           robustness RUN [--harden]",
    "explain": "see inside: filters, maps, where it looks: explain RUN|CKPT|imagenet/NETWORK [IMAGES...] | explain kernels IMAGE",
    "course": "the programs of the course:                course | course run NAME... [--seeds 3]",
    "compare": "which of several runs is better:           compare RUN RUN...",
    "ensemble": "the mean of several runs' predictions:     ensemble RUN RUN... [--output DIR]",
    "summary": "the layers of a network, or many compared: summary RUN|--config C | summary compare [RUN|C...]",
    "adapt": "weights for images without labels:        adapt IMAGES... --output FILE.safetensors [--teacher FILE]",
    "export": "a folder that runs without torch:          export RUN|CKPT --output DIR [--format openvino] [--int8]",
    "verify": "whether an export answers here as it did:  verify DIR [--data.root DIR]",
    "benchmark": "latency, memory and size, side by side:   benchmark RUN|CKPT|DIR... [--batch 1 8] [--output CSV]",
    "data": "data sets:                                 data fetch|synthesize|inspect|preview|augment ...",
    "configs": "list the shipped configs, or print one:    configs [NAME]",
}
_OUT_OF_MEMORY = ("out of memory", "can't allocate memory", "can't start new thread", "failed to map segment")
# Seconds that another process leaves to the first one: to say the same, and to end it after Ctrl-C, as an early
# end would be taken for a failure.
_PATIENCE, _LONG_PATIENCE = 3.0, 10.0


def usage() -> str:
    """Return the text of `defectlab --help`."""
    lines = "\n".join(f"  {name:<10} {text}" for name, text in COMMANDS.items())
    return (
        f"defectlab {defectlab.__version__}: classify surface defects\n\nusage: defectlab COMMAND ...\n\n{lines}\n\n"
        "defectlab COMMAND --help tells more. RUN is the folder that fit leaves behind, runs/<config>/<time>; "
        "runs/<config> or latest stands for its newest."
    )


def main(arguments: Sequence[str] | None = None) -> int:
    """Run one command; 0 if it worked, 1 for unusable input, 2 for a usage error, 130 after Ctrl-C, 141 for a closed pipe."""
    words = list(sys.argv[1:] if arguments is None else arguments)
    if not words or words[0] in ("-h", "--help", "help"):
        print(usage())
        return 0 if words else 2
    if words[0] == "--version":
        print(f"defectlab {defectlab.__version__}")
        return 0
    if arguments is None:
        wait_passively()
    if not {"", os.getcwd()} & set(sys.path):
        sys.path.append(os.getcwd())  # own networks and data sets are found in the current folder
    with _speaking(), _terminable():
        status = _status(words)
    if arguments is None and words[0] == "predict" and "torch" in sys.modules:
        from defectlab.utils._compat import end_process

        end_process(status)
    return status


def _status(words: list[str]) -> int:
    try:
        return _run(words[0], words[1:])
    except InputError as error:
        return _complain(str(error))
    except (MemoryError, RuntimeError, ImportError) as error:
        # torch has no MemoryError for the CPU, and is itself a library that has to find room.
        if not isinstance(error, MemoryError) and not any(words in str(error) for words in _OUT_OF_MEMORY):
            raise
        if isinstance(error, ImportError):
            return _complain(
                "out of memory before anything was read: raise ulimit -v, torch alone takes gigabytes of it"
            )
        return _complain("out of memory: lower data.batch_size or data.image_size, or take a smaller network")
    except BrokenPipeError:  # the reader of a pipe, such as head, has enough
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())  # what is still to be flushed
        return 141
    except OSError as error:
        # A full disk, a folder without write permission: nothing a traceback would explain better.
        reason = error.strerror or str(error)
        last = traceback.extract_tb(error.__traceback__)[-1]
        place = error.filename or f"{words[0]} ({Path(last.filename).name}, line {last.lineno})"
        return _complain(f"{place}: {reason}")
    except KeyboardInterrupt as interruption:
        if is_first_process():
            print("; ".join(["defectlab: stopped", *map(str, interruption.args)]), file=sys.stderr)
        else:
            time.sleep(_LONG_PATIENCE)
        return 130


@contextmanager
def _terminable() -> Iterator[None]:
    """End, inside, with a word and after clearing up when SIGTERM comes: a scheduler whose time is up, or a shutdown."""

    def end(number: int, frame: object) -> None:
        if signal.getsignal(number) is end:  # while it trains, Lightning has its own, which calls this one too
            print("defectlab: terminated", file=sys.stderr, flush=True)
            raise SystemExit(128 + number)

    if threading.current_thread() is not threading.main_thread() or signal.getsignal(signal.SIGTERM) != signal.SIG_DFL:
        yield
        return
    signal.signal(signal.SIGTERM, end)
    try:
        yield
    finally:
        signal.signal(signal.SIGTERM, signal.SIG_DFL)


@contextmanager
def _speaking() -> Iterator[None]:
    """Send the package's own notes to standard error, from the first process alone; print ? for what a terminal lacks."""
    strict = isinstance(sys.stdout, io.TextIOWrapper) and sys.stdout.errors == "strict"
    if strict:
        sys.stdout.reconfigure(errors="replace")  # type: ignore[union-attr]
    handler = logging.StreamHandler(sys.stderr)
    handler.setFormatter(logging.Formatter("defectlab: %(message)s"))
    logger = logging.getLogger("defectlab")
    before = logger.handlers, logger.propagate, logger.level
    logger.handlers, logger.propagate = [handler], False
    logger.setLevel(logging.INFO if is_first_process() else logging.ERROR)
    try:
        yield
    finally:
        logger.handlers, logger.propagate = before[:2]
        logger.setLevel(before[2])
        if strict:
            sys.stdout.reconfigure(errors="strict")  # type: ignore[union-attr]


def _complain(message: str) -> int:
    line = " ".join(message.split())
    if is_first_process():
        print(f"defectlab: error: {line}", file=sys.stderr)
        return 1
    # What all processes find is told by the first, which then ends the others. This one alone found it.
    time.sleep(_PATIENCE)
    print(f"defectlab: error: in another process: {line}", file=sys.stderr)
    return 1


def _run(command: str, words: list[str]) -> int:
    if command not in COMMANDS:
        near = get_close_matches(command, COMMANDS, n=1)
        hint = f"did you mean {near[0]}?" if near else f"expected one of {', '.join(COMMANDS)}"
        raise InputError(f"there is no command {command!r}: {hint}")
    module = import_module(f"defectlab.cli.{command}")
    with quiet():  # not before Lightning is imported, which sets its own level
        status: int = module.run(words)
    return status


if __name__ == "__main__":
    sys.exit(main())
