"""What only Linux has is guarded: the guards run here as they would elsewhere."""

import ctypes
import os
import signal
import sys
import threading
from pathlib import Path
from types import SimpleNamespace
from typing import Any, cast

import pytest
import torch
from lightning.pytorch import Trainer

from defectlab.engine.processes import guarded
from defectlab.engine.signals import HardExitWatchdog
from defectlab.utils import machine
from defectlab.utils.cpu import CPUSettings


@pytest.fixture
def unset(monkeypatch: pytest.MonkeyPatch) -> Any:
    """Put back what CPUSettings changes."""
    monkeypatch.setenv("PYTORCH_NVML_BASED_CUDA_CHECK", "0")
    yield
    torch.set_flush_denormal(False)


@pytest.mark.parametrize("system", ["win32", "darwin"])
def test_the_allocator_is_left_alone_elsewhere(system: str, unset: None, monkeypatch: pytest.MonkeyPatch) -> None:
    def refuse(name: object) -> None:
        raise AssertionError("loaded")

    monkeypatch.setattr(sys, "platform", system)
    monkeypatch.setattr(ctypes, "CDLL", refuse)
    CPUSettings().apply()


def test_only_glibc_is_told_to_keep_memory(unset: None, monkeypatch: pytest.MonkeyPatch) -> None:
    told: list[tuple[int, int]] = []

    def mallopt(option: int, value: int) -> None:
        told.append((option, value))

    monkeypatch.setattr(sys, "platform", "linux")
    monkeypatch.setattr(ctypes, "CDLL", lambda name: SimpleNamespace(mallopt=mallopt))  # musl
    CPUSettings().apply()
    assert not told
    glibc = SimpleNamespace(mallopt=mallopt, gnu_get_libc_version=lambda: b"2.36")
    monkeypatch.setattr(ctypes, "CDLL", lambda name: glibc)
    CPUSettings().apply()
    assert len(told) == 3


@pytest.mark.parametrize("system", ["win32", "darwin"])
def test_the_machine_is_described_without_what_linux_has(system: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sys, "platform", system)
    monkeypatch.delattr(os, "sched_getaffinity", raising=False)
    monkeypatch.setattr(Path, "is_file", lambda path: False)
    found = machine.environment()
    assert found["cores"] == os.cpu_count()
    assert found["commit"] is None
    assert found["cpu"] is None or isinstance(found["cpu"], str)


def test_signals_are_watched_in_the_main_thread_alone() -> None:
    errors: list[BaseException] = []

    def watch() -> None:
        try:
            with HardExitWatchdog(1.0, lambda number: None, None):
                pass
        except BaseException as error:
            errors.append(error)

    thread = threading.Thread(target=watch)
    thread.start()
    thread.join()
    assert not errors
    with HardExitWatchdog(1.0, lambda number: None, None):
        during = signal.set_wakeup_fd(-1)
        signal.set_wakeup_fd(during)
        assert during != -1
    assert signal.set_wakeup_fd(-1) == -1


def test_an_interrupted_run_ends_alike_in_any_thread() -> None:
    """A server or a notebook may train in a thread, where no handler of signals can be set."""
    ends: list[BaseException] = []

    def train() -> None:
        try:
            trainer = SimpleNamespace(strategy=SimpleNamespace(launcher=None))
            with guarded(cast(Trainer, trainer), "go on with resume"):
                raise SystemExit(1)
        except BaseException as error:
            ends.append(error)

    for run in (train, lambda: _in_thread(train)):
        run()
    assert [type(error) for error in ends] == [KeyboardInterrupt, KeyboardInterrupt]
    assert ends[1].args == ("go on with resume",)


def _in_thread(target: Any) -> None:
    thread = threading.Thread(target=target)
    thread.start()
    thread.join()
