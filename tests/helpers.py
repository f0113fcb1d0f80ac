"""A run that takes a second, for tests that go through the front door; a server; what a refusal says."""

import json
import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

import lightning.pytorch as pl
import pytest
from lightning.pytorch.callbacks import Callback

from defectlab.cli.main import main
from defectlab.errors import InputError
from defectlab.networks import PretrainedNetwork
from defectlab.networks.weights import save_backbone_weights
from defectlab.tasks import ClassificationTask

TINY = """
seed_everything: 0
model:
  class_path: SmallCNNTask
  init_args:
    network: {class_path: CompactCNN}
    optimizer: {name: adamw, lr: 0.003}
data:
  class_path: ImageFolderDataModule
  init_args: {root: ROOT, image_size: 16, channels: 1, batch_size: 8, eval_batch_size: 4, val_size: 6, test_size: 7}
trainer:
  max_epochs: 2
  accelerator: cpu
  default_root_dir: RUNS
  callbacks:
    - class_path: lightning.pytorch.callbacks.ModelCheckpoint
      init_args: {monitor: val/loss, mode: min, filename: best, enable_version_counter: false}
    - class_path: lightning.pytorch.callbacks.EarlyStopping
      init_args: {monitor: val/loss, mode: min, patience: 50}
"""


def write_config(folder: Path, pictures: Path | str) -> Path:
    """`folder/tiny.yaml`, whose runs go to `folder/runs/tiny`."""
    path = folder / "tiny.yaml"
    path.write_text(TINY.replace("ROOT", str(pictures)).replace("RUNS", str(folder / "runs")), encoding="utf-8")
    return path


def write_teacher(folder: Path) -> Path:
    """A file of untrained weights of MobileNetV2, for a task that wants a teacher."""
    network = PretrainedNetwork(2, 3, 32, "mobilenet_v2", stages="middle")
    path = folder / "teacher.safetensors"
    save_backbone_weights(network, path, half=True)
    return path


def read(run: Path) -> dict[str, Any]:
    """The sections of metrics.json."""
    metrics: dict[str, Any] = json.loads((run / "metrics.json").read_text(encoding="utf-8"))
    return metrics


def start(*words: str) -> "subprocess.Popen[str]":
    """`defectlab` in a process of its own, in a session of its own, so that signals reach it alone."""
    if sys.platform == "win32":
        pytest.skip("Windows has no Ctrl-C for one process alone")
    return subprocess.Popen(
        [sys.executable, "-m", "defectlab", *words],
        stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True, start_new_session=True,
        env={**os.environ, "OMP_NUM_THREADS": "1"},
        # A shell starts what it puts into the background deaf to Ctrl-C, and its children with it.
        preexec_fn=lambda: signal.signal(signal.SIGINT, signal.SIG_DFL),
    )  # fmt: skip


class Interrupt(Callback):
    """Stop as Ctrl-C does, within the third epoch."""

    def __init__(self, batch: int) -> None:
        self.batch = batch

    def on_train_batch_start(
        self, trainer: pl.Trainer, pl_module: pl.LightningModule, batch: Any, batch_idx: int
    ) -> None:
        if trainer.current_epoch == 2 and batch_idx == self.batch:
            raise KeyboardInterrupt


def interrupt(monkeypatch: pytest.MonkeyPatch, words: list[str], batch: int = 1) -> None:
    """Fit until a batch of the third epoch."""
    start = ClassificationTask.on_fit_start

    def interrupted(task: ClassificationTask) -> None:
        start(task)
        task.trainer.callbacks.append(Interrupt(batch))  # type: ignore[attr-defined]

    with monkeypatch.context() as patch:
        patch.setattr(ClassificationTask, "on_fit_start", interrupted)
        assert main(words) == 130


def wait_for(condition: str, folder: Path, process: "subprocess.Popen[str]") -> None:
    """Until a file is there that fits the glob pattern `condition`; for 90 s at most."""
    deadline = time.monotonic() + 90
    while not list(folder.glob(condition)) and time.monotonic() < deadline:
        assert process.poll() is None, process.communicate()
        time.sleep(0.1)


def refusal(call: Callable[[], object], *words: str) -> None:
    """The call ends in one line that has every word in it."""
    with pytest.raises(InputError) as caught:
        call()
    message = str(caught.value)
    assert "\n" not in message
    for word in words:
        assert word in message


class Server:
    """Serves files on 127.0.0.1, and remembers what it was asked for."""

    def __init__(self) -> None:
        self.files: dict[str, bytes] = {}
        self.asked: list[str] = []
        server = self

        class Handler(BaseHTTPRequestHandler):
            def do_GET(self) -> None:
                server.asked.append(self.path)
                content = server.files.get(self.path)
                self.send_response(404 if content is None else 200)
                self.send_header("Content-Length", str(len(content or b"")))
                self.end_headers()
                self.wfile.write(content or b"")

            def log_message(self, *arguments: Any) -> None:
                pass

        self.http = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
        self.url = f"http://127.0.0.1:{self.http.server_port}"
