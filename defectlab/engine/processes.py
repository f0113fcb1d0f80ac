"""End all processes of a run together, and turn what ended them into errors of one line."""

import os
import signal
import sys
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

import torch.distributed as distributed
from lightning.fabric.utilities.exceptions import MisconfigurationException
from lightning.pytorch import Trainer
from lightning.pytorch.utilities.exceptions import SIGTERMException

from defectlab.data.sources.cache import default_cache
from defectlab.engine.signals import HardExitWatchdog
from defectlab.errors import InputError
from defectlab.runs import RunFolder, write_text
from defectlab.utils._compat import script_children
from defectlab.utils.progress import is_first_process

_TERMINATED = 128 + signal.SIGTERM
_GRACE = 5.0  # seconds that a process has to end, or to be seen to have ended


@contextmanager
def guarded(trainer: Trainer, advice: str) -> Iterator[None]:
    """Run the trainer: whatever ends it ends every process that it started; `advice` says what to do after an interruption.

    Raises:
        KeyboardInterrupt: Ctrl-C; holds the advice.
        SystemExit: 143, after SIGTERM: a scheduler whose time is up, or a shutdown.
        InputError: settings that do not go together, or another process that failed.
    """

    def on_exit(number: int) -> None:
        _end_children(trainer)
        if is_first_process():
            word = "terminated" if number == signal.SIGTERM else "stopped"
            print(f"defectlab: {word}; {advice}", file=sys.stderr, flush=True)

    # The first process ends the others, so it goes first.
    started = not is_first_process() and script_children(trainer) is not None
    grace = _GRACE if is_first_process() else 2 * _GRACE
    try:
        with HardExitWatchdog(grace, on_exit, os.getppid() if started else None):
            yield
    except BaseException as error:
        failed = _failed_child(trainer) if isinstance(error, RuntimeError) else None
        _end_children(trainer)
        if isinstance(error, SIGTERMException):
            if is_first_process():
                print(f"defectlab: terminated; {advice}", file=sys.stderr)
            raise SystemExit(_TERMINATED) from None
        # Lightning's answer to Ctrl-C; it leaves the signal switched off.
        if isinstance(error, SystemExit) and error.code != _TERMINATED:
            if threading.current_thread() is threading.main_thread():  # no other may set a handler
                signal.signal(signal.SIGINT, signal.default_int_handler)
            raise KeyboardInterrupt(advice) from None
        if isinstance(error, MisconfigurationException):
            raise InputError(f"the settings do not go together: {_first_sentence(error)}") from None
        if failed is not None:
            raise InputError(f"process {failed} failed: its own message is above; all are stopped") from None
        if isinstance(error, RuntimeError) and "Early stopping conditioned on metric" in str(error):
            raise InputError(f"trainer.callbacks.EarlyStopping.monitor: {_first_sentence(error)}") from None
        if isinstance(error, ValueError) and "val_check_interval" in str(error):
            raise InputError(f"trainer.{_first_sentence(error).replace('`', '')}") from None
        if isinstance(error, ValueError) and "Expected more than 1 value per channel" in str(error):
            raise InputError(
                "BatchNorm cannot train on one value a channel: give data.batch_size at least 2, or larger images"
            ) from None
        raise


def _first_sentence(error: BaseException) -> str:
    return " ".join(str(error).split()).partition(". ")[0]


def _failed_child(trainer: Trainer) -> int | None:
    """Return the number of the first child that ended badly; a broken connection is seen here before its cause."""
    children = script_children(trainer) or []
    deadline = time.monotonic() + _GRACE
    while children and time.monotonic() < deadline:
        for number, child in enumerate(children, start=1):
            if child.poll():
                return number
        time.sleep(0.05)
    return None


def _end_children(trainer: Trainer) -> None:
    """Kill the children, not by SIGTERM: one that waits inside a collective operation would not see it for half an hour."""
    for child in script_children(trainer) or []:
        with suppress(ProcessLookupError):
            child.kill()


def remember_run(run: Path) -> None:
    """Note which run torchrun's processes write, for the case that it starts them again."""
    place = _note()
    if place is not None and is_first_process():
        write_text(place, f"{run}\n")


def remembered_run() -> RunFolder | None:
    """Return the run that these processes wrote before torchrun started them again, if there is one to go on with."""
    place, start = _note(), os.environ.get("TORCHELASTIC_RESTART_COUNT", "0")
    if place is None or start == "0":
        return None
    if os.environ.get("TORCHELASTIC_USE_AGENT_STORE") == "True":
        # Else they would look for each other at the addresses of their first start, which torchrun's store still has.
        names = ("MASTER_ADDR", "MASTER_PORT", "RANK", "WORLD_SIZE")
        host, port, rank, count = (os.environ[name] for name in names)
        store = distributed.PrefixStore(  # type: ignore[attr-defined]
            f"start-{start}",
            distributed.TCPStore(host, int(port), int(count), False),  # type: ignore[attr-defined]
        )
        distributed.init_process_group(store=store, rank=int(rank), world_size=int(count))
    run = RunFolder(place.read_text(encoding="utf-8").strip()) if place.is_file() else None
    return run if run is not None and run.config.is_file() else None


def forget_run() -> None:
    """Remove the note: the run has ended."""
    place = _note()
    if place is not None and is_first_process():
        place.unlink(missing_ok=True)


def _note() -> Path | None:
    """Return a file of the one torchrun that started this process, on this machine; None without."""
    if "TORCHELASTIC_RUN_ID" not in os.environ:
        return None
    return default_cache() / f"torchrun-{os.getppid()}-{os.environ.get('MASTER_PORT')}.txt"
