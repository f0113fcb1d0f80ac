"""Recall of bad parts and false alarms of `folder_mobilenet.yaml` where bad parts are rare.

    python benchmarks/imbalance.py --seeds 3

Draws 2,000 good and 40 bad surfaces to train (of which `data.val_size` validate) and 1,000 and 200 others to test: noise
of a random grain, on a bad one a dark spot of 8 to 14 px. Trains the shipped config with other losses, weights and sampling,
and prints mean ± sd over the seeds.
"""

import argparse
import json
import statistics
import subprocess
import sys
import tempfile
from pathlib import Path

import numpy as np
from PIL import Image
from scipy.ndimage import gaussian_filter

SIDE = 128
COUNTS = {"train": {"good": 2000, "bad": 40}, "test": {"good": 1000, "bad": 200}}
CACHED = ["--model.cache_features", "true"]
SETTINGS = {
    "as shipped, features computed once": CACHED,
    "label smoothing 0": [*CACHED, "--model.label_smoothing", "0"],
    "class weights balanced": [*CACHED, "--model.class_weights", "balanced"],
    "no class weights": [*CACHED, "--model.class_weights", "null"],
    "focal loss": [*CACHED, "--model.loss", "focal"],
    "sampling sqrt_balanced, no weights": [
        *CACHED,
        "--data.sampling",
        "sqrt_balanced",
        "--model.class_weights",
        "null",
    ],
    "sampling balanced, no weights": [*CACHED, "--data.sampling", "balanced", "--model.class_weights", "null"],
    "all layers": [],
}


def surface(rng: np.random.Generator, bad: bool) -> np.ndarray:
    """Draw a surface `(SIDE, SIDE)` uint8 of random grain and light; a bad one has a small dark spot."""
    texture = gaussian_filter(rng.standard_normal((SIDE, SIDE)), rng.uniform(0.7, 2.5))
    image = rng.uniform(110, 150) + rng.uniform(8, 16) * texture / texture.std()
    if bad:
        radius = rng.uniform(4, 7)
        y, x = (rng.uniform(radius, SIDE - radius) for _ in range(2))
        rows, columns = np.ogrid[:SIDE, :SIDE]
        image -= rng.uniform(60, 100) * np.exp(-((((rows - y) ** 2 + (columns - x) ** 2) / radius**2) ** 2))
    pixels: np.ndarray = image.clip(0, 255).astype(np.uint8)
    return pixels


def draw_set(root: Path, seed: int) -> None:
    """Write `root/<part>/<class>/<number>.png` for the numbers of `COUNTS`."""
    rng = np.random.default_rng(seed)
    for part, classes in COUNTS.items():
        for name, count in classes.items():
            folder = root / part / name
            folder.mkdir(parents=True)
            for number in range(count):
                Image.fromarray(surface(rng, name == "bad")).save(folder / f"{number}.png")


def measure(root: Path, seed: int, output: Path, options: list[str]) -> dict[str, float]:
    """Train once; the figures of the bad test images, in per cent."""
    command = [sys.executable, "-m", "defectlab", "fit", "--config", "folder_mobilenet.yaml", "--data.root", str(root)]
    command += ["--seed_everything", str(seed), "--data.seed", str(seed), "--trainer.default_root_dir", str(output)]
    command += ["--model.width", "1", "--model.symmetric", "false"]  # which the published figures are of
    subprocess.run([*command, *options], check=True, stdout=subprocess.DEVNULL)
    (file,) = output.glob("*/*/metrics.json")
    classes = json.loads(file.read_text())["test"]["per_class"]
    bad = classes["bad"]
    found = {"recall": bad["recall"], "false alarms": 1 - classes["good"]["recall"], "AUROC": bad["auroc"]}
    found |= {"average precision": bad["average_precision"], "recall at 1 % false alarms": bad["recall_at_1_percent"]}
    return {name: 100 * value for name, value in found.items()}


def main() -> None:
    """Print a row for each setting."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--seeds", type=int, default=3)
    parser.add_argument("--settings", nargs="+", choices=SETTINGS, default=list(SETTINGS))
    given = parser.parse_args()
    with tempfile.TemporaryDirectory() as folder:
        for seed in range(given.seeds):
            draw_set(Path(folder, f"set-{seed}"), seed)
        for setting in given.settings:
            rows = [
                measure(Path(folder, f"set-{seed}"), seed, Path(folder, setting, str(seed)), SETTINGS[setting])
                for seed in range(given.seeds)
            ]
            if setting == given.settings[0]:
                print(f"| setting | {' | '.join(f'{name}, %' for name in rows[0])} |\n{'|---' * (1 + len(rows[0]))}|")
            columns = [[row[name] for row in rows] for name in rows[0]]
            cells = [f"{statistics.mean(c):.1f} ± {statistics.stdev(c) if len(c) > 1 else 0:.1f}" for c in columns]
            print(f"| {setting} | {' | '.join(cells)} |", flush=True)


if __name__ == "__main__":
    main()
