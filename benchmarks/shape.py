"""What keeping the shape of images is worth: five-fold accuracy of folder_mobilenet.yaml as it is, and stretched.

Without --data it draws strips of 256 × 1600 px with one small defect each: blister, pits, scratch or seam, 125 of each.
Stretched images have the same frozen features and head, so that nothing but the shape differs. Other words, such as
--data.group_duplicates true, are arguments of fit.
"""

import argparse
import math
import time
from collections.abc import Sequence
from pathlib import Path

import numpy as np
import numpy.typing as npt
from PIL import Image

import defectlab as dl

KINDS = ("blister", "pits", "scratch", "seam")
HEIGHT, WIDTH = 256, 1600
CACHED = ["--model.cache_features", "true", "--data.fit", "stretch", "--data.image_size"]
WAYS = {"as the config is": [], "stretched to 128 px": [*CACHED, "128"], "stretched to 224 px": [*CACHED, "224"]}
COLUMNS = ("accuracy", "balanced_accuracy", "macro_f1")


def draw_strip(kind: str, rng: np.random.Generator) -> npt.NDArray[np.uint8]:
    """Draw one strip (256, 1600): brushed, cloudy, unevenly lit, with a defect of 10 to 140 px at some place."""
    image = rng.uniform(0.35, 0.6) * (
        1 + rng.uniform(0.02, 0.05) * _field(rng, 30, 0.7) + rng.uniform(0.02, 0.05) * _field(rng, 1, 1)
        + rng.uniform(0.03, 0.08) * _field(rng, 60, 30)
    )  # fmt: skip
    across, along = np.linspace(-1, 1, WIDTH), np.linspace(-1, 1, HEIGHT)[:, None]
    image *= 1 + rng.uniform(-0.15, 0.15) * across + rng.uniform(-0.1, 0.1) * along
    rows, columns = np.mgrid[:HEIGHT, :WIDTH].astype(np.float64)
    y, x = rows - rng.uniform(25, HEIGHT - 25), columns - rng.uniform(40, WIDTH - 40)
    angle, depth = rng.uniform(-0.4, 0.4), rng.uniform(0.15, 0.35)
    u, v = x * math.cos(angle) + y * math.sin(angle), y * math.cos(angle) - x * math.sin(angle)
    half = rng.uniform(30, 70)
    ends = 1 / (1 + np.exp(np.clip((np.abs(u) - half) / 1.5, -50, 50)))
    match kind:
        case "scratch":
            image *= 1 + 1.2 * depth * np.exp(-((v / 2.2) ** 2)) * ends
        case "seam":
            wave = v + rng.uniform(1, 3) * np.sin(u / rng.uniform(3, 6))
            image *= 1 - 1.2 * depth * np.exp(-((wave / 2.4) ** 2)) * ends
        case "pits":
            spots = np.zeros_like(image)
            for _ in range(rng.integers(4, 10)):
                down, right = rng.normal(0, 20, 2)
                spots = np.maximum(spots, np.exp(-((y - down) ** 2 + (x - right) ** 2) / rng.uniform(2.5, 5) ** 2))
            image *= 1 - 1.5 * depth * spots
        case _:
            radius = rng.uniform(10, 20)
            slope = (x * math.cos(5 * angle) + y * math.sin(5 * angle)) / radius
            image *= 1 + 1.2 * depth * np.exp(-(x**2 + y**2) / (2 * radius**2)) * slope
    image += rng.normal(0, rng.uniform(0.005, 0.02), image.shape)
    pixels: npt.NDArray[np.uint8] = np.rint(image.clip(0, 1) * 255).astype(np.uint8)
    return pixels


def _field(rng: np.random.Generator, along: float, across: float) -> npt.NDArray[np.float64]:
    """Draw Gaussian noise of mean 0 and sd 1, blurred by so many pixels along and across the strip."""
    down, right = np.fft.fftfreq(HEIGHT)[:, None], np.fft.rfftfreq(WIDTH)
    kept = np.exp(-2 * np.pi**2 * ((right * along) ** 2 + (down * across) ** 2))
    noise = np.fft.irfft2(np.fft.rfft2(rng.standard_normal((HEIGHT, WIDTH))) * kept, s=(HEIGHT, WIDTH))
    return np.asarray(noise / noise.std())


def draw_set(folder: Path, per_class: int, seed: int) -> None:
    """Write `folder/<kind>/<kind>_<i>.png`."""
    for label, kind in enumerate(KINDS):
        (folder / kind).mkdir(parents=True)
        for index in range(per_class):
            pixels = draw_strip(kind, np.random.default_rng([seed, label, index]))
            Image.fromarray(pixels).save(folder / kind / f"{kind}_{index + 1}.png", compress_level=1)


def main(words: Sequence[str] | None = None) -> int:
    """Print a row a way: mean ± sd over the folds, and seconds in all."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--data", type=Path, help="class folders; without, strips are drawn")
    parser.add_argument("--per-class", type=int, default=125, help="strips drawn of each kind (default: %(default)s)")
    parser.add_argument("--folds", type=int, default=5)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--output", type=Path, default=Path("runs", "shape"), help="a folder that does not exist yet")
    given, more = parser.parse_known_args(words)
    data = given.data
    if data is None:
        data = given.output / "strips"
        draw_set(data, given.per_class, given.seed)
    print(f"{'way':<22}" + "".join(f"{name:>20}" for name in COLUMNS) + f"{'seconds':>10}")
    for way, settings in WAYS.items():
        start = time.perf_counter()
        found = dl.cross_validate(
            "folder_mobilenet.yaml", given.folds, 1, overrides=["--data.root", str(data), *settings, *more], seed=given.seed,
            output=given.output / way.replace(" ", "-"),
        )  # fmt: skip
        seconds = time.perf_counter() - start
        tests = [dl.RunFolder(found.folder / row["run"]).metrics["test"] for row in found.rows]
        cells = []
        for name in COLUMNS:
            values = [100 * test[name] for test in tests]  # type: ignore[literal-required]
            cells.append(f"{np.mean(values):.1f} ± {np.std(values, ddof=1):.1f}")
        print(f"{way:<22}" + "".join(f"{cell:>20}" for cell in cells) + f"{seconds:>10.0f}", flush=True)
    return 0


if __name__ == "__main__":
    raise SystemExit(main())
