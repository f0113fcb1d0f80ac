"""Two processes, and how they come to an end together."""

import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest
from helpers import read, start, wait_for, write_config

from defectlab.cli.main import main

TWO = ("--trainer.devices", "2", "--trainer.strategy", "ddp")
FAIL = """
import time
from lightning.pytorch.callbacks import Callback
from defectlab.errors import InputError

class Fail(Callback):
    def __init__(self, rank: int) -> None:
        self.rank = rank

    def on_train_batch_start(self, trainer, pl_module, batch, batch_idx) -> None:
        time.sleep(0.05)
        if trainer.current_epoch == 1 and trainer.global_rank == self.rank:
            raise InputError("a process has failed")
"""


pytestmark = pytest.mark.skipif(sys.platform == "win32", reason="process groups and signals of POSIX")


@pytest.fixture
def config(tmp_path: Path, class_folders: Path) -> Path:
    return write_config(tmp_path, class_folders)


def alive(group: int) -> bool:
    """Whether any process of a session is left, after a moment."""
    for _ in range(50):
        try:
            os.killpg(group, 0)
        except ProcessLookupError:
            return False
        time.sleep(0.1)
    return True


def test_two_processes_make_one_run_and_count_each_image_once(config: Path, tmp_path: Path) -> None:
    process = start("fit", "--config", str(config), *TWO)
    said, complaint = process.communicate(timeout=120)
    assert process.returncode == 0, complaint
    assert complaint == ""
    assert said.count("epoch 1/2") == said.count("TensorBoard  ") == 1
    (run,) = (tmp_path / "runs" / "tiny").iterdir()
    assert (run / "report.html").is_file()
    by_two = read(run)
    assert by_two["test"]["n"] == 7  # odd, in batches of 4: padding would count one twice
    one = ("--trainer.devices", "1", "--trainer.strategy", "auto")
    assert main(["test", str(run), *one]) == 0
    assert read(run)["test"] == by_two["test"]
    again = start("test", str(run))
    assert again.wait(timeout=120) == 0, again.communicate()
    assert read(run)["test"] == by_two["test"]


def test_a_process_that_fails_ends_all(config: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "failing.py").write_text(FAIL)
    monkeypatch.setenv("PYTHONPATH", os.pathsep.join([str(tmp_path), *filter(None, [os.environ.get("PYTHONPATH")])]))
    words = ["--trainer.callbacks+=failing.Fail", "--trainer.callbacks.rank", "1"]
    process = start("fit", "--config", str(config), *TWO, *words)
    _, complaint = process.communicate(timeout=120)
    assert process.returncode not in (0, None)
    assert "defectlab: error: in another process: a process has failed" in complaint.splitlines()
    assert "Traceback" not in complaint
    assert not alive(process.pid)


KILLED = """
import os, signal
from lightning.pytorch.callbacks import Callback

class Killed(Callback):
    def on_train_epoch_start(self, trainer, pl_module) -> None:
        if os.environ["TORCHELASTIC_RESTART_COUNT"] == "0" and trainer.current_epoch == 1 and trainer.global_rank == 1:
            os.kill(os.getpid(), signal.SIGKILL)
"""


def test_what_torchrun_starts_again_goes_on_in_the_same_run(
    config: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "killed.py").write_text(KILLED)
    monkeypatch.setenv("PYTHONPATH", os.pathsep.join([str(tmp_path), *filter(None, [os.environ.get("PYTHONPATH")])]))
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    words = ["fit", "--config", str(config), *TWO, "--trainer.callbacks+=killed.Killed", "--trainer.max_epochs", "3"]
    torchrun = ["-m", "torch.distributed.run", "--standalone", "--nproc-per-node", "2", "--max-restarts", "2"]
    ended = subprocess.run(
        [sys.executable, *torchrun, "-m", "defectlab", *words], capture_output=True, text=True, timeout=180, check=False
    )
    assert ended.returncode == 0, ended.stderr
    (run,) = (tmp_path / "runs" / "tiny").iterdir()
    assert read(run)["run"]["epochs"] == 3
    assert [f"epoch {number}/3" in ended.stdout for number in (1, 2, 3)] == [True] * 3
    assert ended.stdout.count("epoch 1/3") == 1
    assert not list((tmp_path / "cache").rglob("torchrun-*"))


def test_bad_pictures_start_no_second_process(config: Path, tmp_path: Path) -> None:
    """In this process: a launch would start pytest anew."""
    assert main(["fit", "--config", str(config), *TWO, "--data.root", str(tmp_path / "nowhere")]) == 1
    assert not (tmp_path / "runs").exists()


def test_ctrl_c_ends_both(config: Path, tmp_path: Path) -> None:
    process = start("fit", "--config", str(config), *TWO, "--trainer.max_epochs", "2000")
    wait_for("runs/tiny/*/checkpoints/last.ckpt", tmp_path, process)
    os.killpg(process.pid, signal.SIGINT)
    _, complaint = process.communicate(timeout=60)
    assert process.returncode == 130, complaint
    assert [line.partition(";")[0] for line in complaint.splitlines()] == ["defectlab: stopped"]
    assert not alive(process.pid)


STUCK = """
import hashlib, os
from defectlab.engine.signals import HardExitWatchdog
print("ready", flush=True)
with HardExitWatchdog({grace}, lambda number: print("on_exit", number, flush=True), {parent}):
    hashlib.pbkdf2_hmac("sha256", b"", b"", 2**31 - 1)  # a quarter of an hour in C, deaf to signals
"""


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_a_process_stuck_in_c_ends_too(number: signal.Signals) -> None:
    code = f"import signal; signal.signal({int(number)}, lambda *_: None)" + STUCK.format(grace=0.2, parent=None)
    process = subprocess.Popen([sys.executable, "-c", code], stdout=subprocess.PIPE, text=True)
    assert process.stdout is not None
    assert process.stdout.readline() == "ready\n"
    time.sleep(0.3)
    process.send_signal(number)
    said, _ = process.communicate(timeout=20)
    assert said == f"on_exit {int(number)}\n"
    assert process.returncode == 128 + number


def test_a_process_whose_parent_is_gone_ends_too() -> None:
    code = STUCK.format(grace=0.2, parent="os.getppid() + 1")
    assert subprocess.run([sys.executable, "-c", code], timeout=20, check=False).returncode == 1
