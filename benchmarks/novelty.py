"""Which score tells images of an unknown kind? Each class is left out in turn, and each set is asked about the others.

    python benchmarks/novelty.py --neu DIR --tiles DIR --elpv --seeds 0 1 2 --output novelty.csv

`near` is the AUROC of images of the class that was left out against test images of the known ones, `far` that of 300 images of
another set; mean over classes and seeds, and the worst. The backbone is frozen unless `--fine-tune`; a folder a class, 128 px.
The last column are the false alarms that `predict --novelty 0.01` raises on known test images, of all runs together.
"""

import argparse
import csv
import sys
import tempfile
from collections.abc import Callable, Mapping
from importlib import resources
from pathlib import Path
from statistics import fmean

import numpy as np
import numpy.typing as npt
import torch
from measure import header
from torch import Tensor

from defectlab.data.pipeline.split_table import SplitTable
from defectlab.data.sources.layouts import list_neu
from defectlab.data.sources.reading import read_images
from defectlab.engine.fit import fit
from defectlab.errors import InputError
from defectlab.inference.predictor import load
from defectlab.metrics.classification import accuracy_interval
from defectlab.metrics.novelty import novelty_p_values
from defectlab.metrics.ranking import curve
from defectlab.networks import PretrainedNetwork
from defectlab.networks.novelty import NoveltyScorer
from defectlab.networks.weights import load_backbone_weights
from defectlab.runs import RunFolder
from defectlab.utils.image_format import ImageFormat

__all__ = ["main"]

_FAR, _BLOCK = 300, 64
_WEIGHTS = {"neu": "surface"}  # others: surface-distilled
Seen = tuple[Tensor, Tensor]  # embeddings (N, E) and logits (N, C)
Scores = Mapping[str, Callable[[Seen], npt.NDArray[np.float64]]]


def parser() -> argparse.ArgumentParser:
    """The arguments."""
    p = argparse.ArgumentParser("novelty.py", description="Scores of novelty, near and far.")
    p.add_argument("--neu", metavar="DIR", help="NEU-CLS in any layout")
    p.add_argument("--tiles", metavar="DIR", help="magnetic tiles: a folder a class")
    p.add_argument(
        "--elpv", action="store_true", help="solar cells of the package elpv-dataset: mono or poly, good or bad"
    )
    p.add_argument(
        "--ask", nargs="+", choices=("neu", "tiles", "elpv"), help="sets to leave classes out of (default: all)"
    )
    p.add_argument("--seeds", nargs="+", type=int, default=[0])
    p.add_argument("--epochs", type=int, default=15)
    p.add_argument("--fine-tune", action="store_true", help="all layers learn: minutes a run in place of seconds")
    p.add_argument("--splits", type=int, help="test the promise of 1 % on so many splits of each set instead")
    p.add_argument("--output", metavar="CSV", help="a row a run and score")
    return p


def files_of(arguments: argparse.Namespace) -> dict[str, dict[str, list[Path]]]:
    """Return the files of each class of each set that is given."""
    found: dict[str, dict[str, list[Path]]] = {}
    if arguments.neu:
        listing = list_neu(Path(arguments.neu))
        found["neu"] = {name: [] for name in listing.class_names}
        for label, path in zip(listing.labels, listing.files, strict=True):
            found["neu"][listing.class_names[label]].append(Path(path))
    if arguments.tiles:
        folders = sorted(path for path in Path(arguments.tiles).iterdir() if path.is_dir())
        found["tiles"] = {path.name: sorted(path.iterdir()) for path in folders}
    if arguments.elpv:
        root = Path(str(resources.files("elpv_dataset"))) / "data"
        found["elpv"] = {}
        for line in (root / "labels.csv").read_text().splitlines():
            file, defect, kind = line.split()
            found["elpv"].setdefault(f"{kind}-{'bad' if float(defect) > 0.5 else 'good'}", []).append(root / file)
    if not found:
        raise InputError("no images: give --neu, --tiles or --elpv")
    return found


def train(
    folder: Path, classes: Mapping[str, list[Path]], weights: str, seed: int, arguments: argparse.Namespace
) -> RunFolder:
    """Train on links to the files, and return the run."""
    for name, files in classes.items():
        (folder / "images" / name).mkdir(parents=True)
        for file in files:
            (folder / "images" / name / file.name).symlink_to(file.resolve())
    return fit(
        "folder_mobilenet.yaml",
        model={
            "weights": weights, "width": 1.0, "symmetric": False, "cache_features": not arguments.fine_tune,
            "class_weights": None,
        },
        data={"root": str(folder / "images"), "image_size": 128, "fit": "stretch"},
        trainer={"max_epochs": arguments.epochs, "logger": False}, seed_everything=seed, output=folder / "run",
    )  # fmt: skip


def scores_of(train: Seen, labels: Tensor, known: Seen, scorer: NoveltyScorer) -> Scores:
    """Return the scores that are compared, higher for stranger; those of two kinds are standardised on `known`."""
    embeddings = train[0].double()
    mean, scale = embeddings.mean(dim=0), embeddings.std(dim=0) + 1e-6

    def standard(seen: Seen) -> Tensor:
        return (seen[0].double() - mean) / scale

    def unit(seen: Seen) -> Tensor:
        return torch.nn.functional.normalize(standard(seen), dim=1)

    centres = torch.stack([standard(train)[labels == k].mean(dim=0) for k in range(int(labels.max()) + 1)])
    within = standard(train) - centres[labels]
    covariance = within.T @ within / len(within)
    level = covariance.trace() / len(covariance)
    inverse = torch.linalg.inv(0.9 * covariance + 0.1 * level * torch.eye(len(covariance), dtype=torch.float64))
    root = torch.linalg.cholesky(inverse)

    def mahalanobis(seen: Seen) -> npt.NDArray[np.float64]:
        found: npt.NDArray[np.float64] = torch.cdist(standard(seen) @ root, centres @ root).amin(dim=1).numpy()
        return found

    def energy(seen: Seen) -> npt.NDArray[np.float64]:
        found: npt.NDArray[np.float64] = (-seen[1].double().logsumexp(dim=1)).numpy()
        return found

    def both(seen: Seen) -> npt.NDArray[np.float64]:
        parts = []
        for score in (energy, mahalanobis):
            own = score(known)
            parts.append((score(seen) - np.median(own)) / (np.quantile(own, 0.9) - np.median(own)))
        joined: npt.NDArray[np.float64] = np.sum(parts, axis=0)
        return joined

    return {
        "maximum probability": lambda seen: (-seen[1].double().softmax(dim=1).amax(dim=1)).numpy(),
        "energy": energy,
        "5th nearest neighbour": lambda seen: torch.cdist(unit(seen), unit(train)).kthvalue(5, dim=1).values.numpy(),
        "Mahalanobis": mahalanobis,
        "energy + Mahalanobis": both,
        "NoveltyScorer": lambda seen: scorer(seen[0]).double().numpy(),
    }


def evaluate(run: RunFolder, left: list[Path], others: Mapping[str, list[Path]]) -> list[dict[str, object]]:
    """Return a row a score: `near`, `far` to each other set, and false alarms at 1 % of known test images."""
    predictor = load(run)
    (task,), card = predictor.tasks, predictor.card
    assert task.novelty is not None

    def look(files: list[Path]) -> Seen:
        found = []
        with torch.inference_mode():
            for start in range(0, len(files), _BLOCK):
                pixels, _, _ = read_images(files[start : start + _BLOCK], card)
                found.append(task.predict_embeddings(card.normalise(pixels)))
        return torch.cat([e for e, _ in found]).float(), torch.cat([logits for _, logits in found])

    rows = SplitTable.read(run.split_csv).rows
    root = run.path.parent / "images"
    seen = {part: look([root / row.file for row in rows if row.part == part]) for part in ("train", "val", "test")}
    labels = torch.tensor([card.class_names.index(row.label) for row in rows if row.part == "train"])
    asked = {"near": look(left), **{f"far: {name}": look(files) for name, files in others.items()}}
    found: list[dict[str, object]] = []
    for name, score in scores_of(seen["train"], labels, seen["val"], task.novelty).items():
        known, tested = score(seen["val"]), score(seen["test"])
        row: dict[str, object] = {"score": name}
        for kind, new in asked.items():
            values = np.concatenate([tested, score(new)])
            row[kind] = curve(values, np.arange(len(values)) >= len(tested)).auroc
        row |= {"alarms": int((novelty_p_values(tested, known) <= 0.01).sum()), "tested": len(tested)}
        found.append(row)
    return found


def main(words: list[str] | None = None) -> int:
    """Print a table a set."""
    arguments = parser().parse_args(words)
    sets = files_of(arguments)
    print(header())
    rows: list[dict[str, object]] = []
    for name in arguments.ask or sets:
        if arguments.splits:
            alarms, tested = count_alarms(sets[name], _WEIGHTS.get(name, "surface-distilled"), arguments.splits)
            low, high = (100 * bound for bound in accuracy_interval(alarms, tested))
            print(
                f"{name}: {100 * alarms / tested:.2f} % of {tested} called novel at 1 % (95 %: {low:.2f} to {high:.2f})"
            )
            continue
        others = {}
        for other in sorted(sets.keys() - {name}):
            files = [file for own in sets[other].values() for file in own]
            chosen = np.random.default_rng(0).permutation(len(files))[:_FAR]
            others[other] = [files[i] for i in chosen]
        for seed in arguments.seeds:
            for left, files in sets[name].items():
                with tempfile.TemporaryDirectory() as folder:
                    classes = {own: found for own, found in sets[name].items() if own != left}
                    run = train(Path(folder), classes, _WEIGHTS.get(name, "surface-distilled"), seed, arguments)
                    rows += [
                        {"set": name, "left out": left, "seed": seed, **row} for row in evaluate(run, files, others)
                    ]
        print_table(name, [row for row in rows if row["set"] == name])
    if arguments.output:
        columns = list(dict.fromkeys(key for row in rows for key in row))
        with Path(arguments.output).open("w", encoding="utf-8", newline="") as file:
            writer = csv.DictWriter(file, columns)
            writer.writeheader()
            writer.writerows(rows)
    return 0


def count_alarms(classes: Mapping[str, list[Path]], weights: str, splits: int) -> tuple[int, int]:
    """Return how many of how many known test images are called novel at 1 %, over random splits in 60, 20 and 20 %.

    Embeddings are those of the frozen backbone; the scorer is fitted anew in each split.
    """
    network = PretrainedNetwork(len(classes), 3, 128, "mobilenet_v3_small", stages="middle").eval()
    load_backbone_weights(network, weights)
    pixels, _, _ = read_images(
        [file for own in classes.values() for file in own], ImageFormat(image_size=128, channels=3)
    )
    with torch.inference_mode():
        embeddings = torch.cat(
            [network.embed((block.float() / 255 - 0.5) / 0.25) for block in torch.split(pixels, _BLOCK)]
        )
    labels = torch.arange(len(classes)).repeat_interleave(torch.tensor([len(own) for own in classes.values()]))
    alarms = tested = 0
    for seed in range(splits):
        order = torch.from_numpy(np.random.default_rng(seed).permutation(len(labels)))
        train, known, test = (
            order[int(a * len(order)) : int(b * len(order))] for a, b in ((0, 0.6), (0.6, 0.8), (0.8, 1))
        )
        scorer = NoveltyScorer.fit(embeddings[train], labels[train])
        alarms += int(
            (novelty_p_values(scorer(embeddings[test]).numpy(), scorer(embeddings[known]).numpy()) <= 0.01).sum()
        )
        tested += len(test)
    return alarms, tested


def print_table(name: str, rows: list[dict[str, object]]) -> None:
    """Print mean and worst AUROC of each score over the runs of a set."""
    kinds = [key for key in rows[0] if key == "near" or key.startswith("far")]
    print(f"\n{name}: AUROC, mean (worst) of {len({(row['left out'], row['seed']) for row in rows})} runs")
    print("| score | " + " | ".join(kinds) + " | false alarms at 1 % |")
    print("|---" * (len(kinds) + 2) + "|")
    for score in dict.fromkeys(str(row["score"]) for row in rows):
        own = [row for row in rows if row["score"] == score]
        cells = []
        for kind in kinds:
            areas = [float(str(row[kind])) for row in own]
            cells.append(f"{fmean(areas):.4f} ({min(areas):.4f})")
        alarms, tested = (sum(int(str(row[key])) for row in own) for key in ("alarms", "tested"))
        low, high = accuracy_interval(alarms, tested)
        cells.append(f"{alarms} of {tested}: {100 * low:.2f} to {100 * high:.2f} %")
        print(f"| {score} | " + " | ".join(cells) + " |", flush=True)


if __name__ == "__main__":
    sys.exit(main())
