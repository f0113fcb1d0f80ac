"""What only Linux has is guarded: the guards run here as they would elsewhere."""

import ctypes
import logging
import os
import signal
import subprocess
import sys
import threading
import time
from pathlib import Path
from types import SimpleNamespace
from typing import Any, cast

import pytest
import torch
from lightning.pytorch import Trainer

from defectlab.engine.processes import guarded
from defectlab.engine.signals import HardExitWatchdog
from defectlab.utils import machine
from defectlab.utils.cpu import CPUSettings, _others_running


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


@pytest.mark.parametrize(("others", "said"), [(99, "PASSIVE 7 None"), (0, "None 7 10000")])
def test_threads_of_the_program_sleep_while_they_wait(others: int, said: str) -> None:
    code = (
        f"import os, defectlab.utils.cpu as cpu; cpu._others_running = lambda: {others}; cpu.wait_passively(); "
        "print(*map(os.environ.get, ('OMP_WAIT_POLICY', 'KMP_BLOCKTIME', 'GOMP_SPINCOUNT')))"
    )
    environment = {**os.environ, "PYTHONPATH": os.pathsep.join(filter(None, sys.path)), "KMP_BLOCKTIME": "7"}
    for name in ("OMP_WAIT_POLICY", "GOMP_SPINCOUNT"):
        environment.pop(name, None)
    done = subprocess.run([sys.executable, "-c", code], env=environment, capture_output=True, text=True, check=True)
    assert done.stdout.strip() == said, "what the user has set is kept"


@pytest.mark.skipif(not Path("/proc/loadavg").exists(), reason="Linux counts what runs")
def test_programs_at_work_are_seen() -> None:
    programs = [subprocess.Popen([sys.executable, "-c", "while True: pass"]) for _ in range(3)]
    try:
        deadline = time.monotonic() + 20
        while _others_running() < 1 and time.monotonic() < deadline:
            time.sleep(0.1)
        assert _others_running() >= 1
    finally:
        for program in programs:
            program.kill()
            program.wait()


def test_a_host_program_is_left_alone_and_told_of_busy_cores(
    unset: None, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    monkeypatch.delenv("OMP_WAIT_POLICY", raising=False)
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    monkeypatch.setattr(logging.getLogger("defectlab"), "propagate", True)
    now, busy, before = 0.0, 0.02, torch.get_num_threads()

    def clock() -> float:
        nonlocal now
        now += busy if torch.get_num_threads() > 1 else 0.01
        return now

    monkeypatch.setattr("defectlab.utils.cpu.time.perf_counter", clock)
    torch.set_num_threads(2)
    try:
        CPUSettings().apply()
        assert not caplog.records
        busy = 0.5
        CPUSettings().apply()
        assert len(caplog.records) == 1
        assert torch.get_num_threads() == 2, "other threads would round otherwise"
    finally:
        torch.set_num_threads(before)
    assert "OMP_WAIT_POLICY" not in os.environ


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
