"""Time `fit` and `data inspect` in turns: quiet, and beside two programs that spin on the cores.

python benchmarks/busy.py --repeats 3
OMP_WAIT_POLICY=ACTIVE python benchmarks/busy.py    # as it was before threads slept while they wait
"""

import argparse
import os
import statistics
import subprocess
import sys
import tempfile
import time
from pathlib import Path

import numpy as np
from PIL import Image

CONFIG = """
seed_everything: 0
model: {{class_path: SmallCNNTask, init_args: {{network: CompactCNN}}}}
data: {{class_path: ImageFolderDataModule, init_args: {{root: {images}, image_size: 64, channels: 1}}}}
trainer: {{max_epochs: 3, accelerator: cpu}}
"""


def run() -> int:
    """Print seconds, medians and their ratio for each command."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").partition("\n")[0])
    parser.add_argument("--repeats", type=int, default=3)
    parser.add_argument("--spinning", type=int, default=os.cpu_count() or 1, help="programs beside it")
    given = parser.parse_args()
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        for label in range(3):
            (folder / "images" / str(label)).mkdir(parents=True)
            for index in range(100):
                y, x = np.mgrid[:64, :64]
                rng = np.random.default_rng((label, index))
                grey = 0.5 + 0.25 * np.sin(0.3 * (x, y, x + y)[label] + 6 * rng.random()) + rng.normal(0, 0.3, (64, 64))
                pixels = np.asarray(255 * grey.clip(0, 1), dtype=np.uint8)
                Image.fromarray(pixels).save(folder / "images" / str(label) / f"{index}.png")
        (folder / "config.yaml").write_text(CONFIG.format(images=folder / "images"))
        commands = {
            "fit": ["fit", "--config", "config.yaml"],
            "data inspect": ["data", "inspect", "images", "--output", "inspection"],
        }
        for command, words in commands.items():
            seconds: dict[int, list[float]] = {0: [], given.spinning: []}
            for _ in range(given.repeats):
                for count, found in seconds.items():
                    found.append(_timed(words, count, folder))
            quiet, busy = (statistics.median(found) for found in seconds.values())
            shown = "; ".join(", ".join(f"{value:.1f}" for value in found) for found in seconds.values())
            print(
                f"{command:<14}quiet {quiet:.1f} s, busy {busy:.1f} s, ratio {busy / quiet:.1f}   ({shown})", flush=True
            )
    return 0


def _timed(words: list[str], spinning: int, folder: Path) -> float:
    others = [subprocess.Popen([sys.executable, "-c", "while True: pass"]) for _ in range(spinning)]
    try:
        began = time.perf_counter()
        subprocess.run([sys.executable, "-m", "defectlab", *words], cwd=folder, check=True, capture_output=True)
        return time.perf_counter() - began
    finally:
        for other in others:
            other.kill()
            other.wait()


if __name__ == "__main__":
    sys.exit(run())
