"""What are one's own images without labels worth? Linear probe with 5 and 10 labelled images a class, before and after.

    python benchmarks/unlabelled.py --neu DIR --tiles DIR --teacher mobilenet_v2_imagenet.pth

Every row sees the labelled images that `transfer.py` draws and is judged on all others: per cent of the mean over the classes,
mean ± sd of the draws; in brackets what was gained, draw by draw. Rows of a half are judged on the other half of the images.
"""

import argparse
import sys
from collections.abc import Callable, Sequence
from copy import copy
from functools import partial

import numpy as np
import torch
from measure import header
from sklearn.base import BaseEstimator, clone
from sklearn.linear_model import LogisticRegression
from sklearn.metrics import balanced_accuracy_score
from sklearn.preprocessing import StandardScaler
from sklearn.semi_supervised import LabelSpreading, SelfTrainingClassifier
from torch import Tensor
from transfer_fit import Source, draw_labelled, statistics_of
from transfer_sets import LabelledSet, load_elpv, load_neu, load_tiles

from defectlab.engine.adapt import fit_projection, teacher_embedding
from defectlab.engine.probe import linear_probe
from defectlab.errors import InputError
from defectlab.networks import PretrainedNetwork
from defectlab.networks.weights import load_backbone_weights

Array = np.ndarray
Classify = Callable[[Array, Array, Array], Array]  # labels, rows to train on, rows to test: predicted labels


def parser() -> argparse.ArgumentParser:
    """The arguments."""
    p = argparse.ArgumentParser("unlabelled.py", description="What images without labels are worth.")
    p.add_argument("--neu", metavar="DIR", help="NEU-CLS in any layout; without it the synthetic stand-in")
    p.add_argument("--tiles", metavar="DIR", help="magnetic tiles: a folder a class")
    p.add_argument("--sets", nargs="+", choices=("tiles", "elpv", "neu"), default=["tiles", "elpv", "neu"])
    p.add_argument("--teacher", required=True, metavar="FILE", help="ImageNet weights of MobileNetV2")
    p.add_argument("--width", type=float, default=1.0, help="of surface-distilled")
    p.add_argument("--per-class", type=int, nargs="+", default=[5, 10], help="labelled images")
    p.add_argument("--draws", type=int, default=10, help="of the labelled images, at least 2")
    p.add_argument("--image-size", type=int, default=160)
    p.add_argument("--brief", action="store_true", help="the weights as they are and adapted alone")
    return p


def probe(features: Array, labels: Array, train: Array, test: Array, plain: bool = False) -> Array:
    """Classify by the usual probe, which standardises by the labelled images; `plain`: by features as they are."""
    model = LogisticRegression(max_iter=1000) if plain else linear_probe()
    found: Array = model.fit(features[train], labels[train]).predict(features[test])
    return found


def whitened(features: Array, power: float, most: int) -> Array:
    """Turn standardised features (N, E) to principal components, divided by a power of their sd; of mean square one."""
    vectors, sizes, _ = np.linalg.svd(features, full_matrices=False)
    found = (vectors * sizes / (sizes / np.sqrt(len(features))) ** power)[:, :most]
    scaled: Array = found / np.sqrt((found**2).mean())
    return scaled


def invariant(views: Array, shrink: float = 0.1) -> Array:
    """Whiten the first of V views (V, N, E) by the covariance of the views of an image (WCCN, Hatch et al. 2006)."""
    views = (views - views[0].mean(0)) / np.maximum(views[0].std(0), 1e-9)
    apart = (views - views.mean(0)).reshape(-1, views.shape[2])
    values, vectors = np.linalg.eigh(apart.T @ apart / len(apart))
    found = views[0] @ vectors / np.sqrt((1 - shrink) * values + shrink * values.mean())
    scaled: Array = found / np.sqrt((found**2).mean())
    return scaled


def semi_supervised(model: BaseEstimator, features: Array, labels: Array, train: Array, test: Array) -> Array:
    """Classify by a model that also sees the images without labels."""
    known = np.full(len(labels), -1)
    known[train] = labels[train]
    found: Array = clone(model).fit(features, known).predict(features[test])
    return found


def view(images: Tensor, number: int, rng: torch.Generator) -> Tensor:
    """Mirror images (N, 1, S, S) in one of four ways; from the fifth view on also change light, contrast and noise."""
    images = images.flip([side for side, bit in ((3, 1), (2, 2)) if number & bit])
    if number < 4:
        return images
    contrast, light, noise = torch.rand((3, len(images), 1, 1, 1), generator=rng)
    mean = images.mean((1, 2, 3), keepdim=True)
    images = (images - mean) * (0.6 * contrast - 0.3).exp() + mean + 0.8 * light - 0.4
    found: Tensor = images + torch.randn(images.shape, generator=rng) * 0.15 * noise
    return found


@torch.inference_mode()
def embeddings(given: argparse.Namespace, images: Tensor) -> tuple[Array, Array]:
    """Embeddings (9, N, D) by the shipped weights, symmetric and of 8 views, and the teacher's of two views, their mean (N, E)."""
    source = Source("surface-distilled", "surface-distilled", "mobilenet_v3_small", given.width)
    student = source.network(2, given.image_size, "middle").eval()
    mirrored = copy(student)
    mirrored.symmetric = True
    teacher = PretrainedNetwork(2, 3, given.image_size, "mobilenet_v2", stages="middle").eval()
    load_backbone_weights(teacher, given.teacher)
    statistics, rng = statistics_of(images), torch.Generator().manual_seed(0)
    views, wanted = [], []
    for block in torch.split(images, 64):
        block = source.normalise(block.float() / 255, statistics)
        found = [student.embed(view(block, number, rng)) for number in range(1 if given.brief else 8)]
        views.append(torch.stack([mirrored.embed(block), *found]))
        wanted.append(teacher_embedding(teacher, block))
    return torch.cat(views, 1).double().numpy(), torch.cat(wanted).double().numpy()


def rows_of(
    given: argparse.Namespace, data: LabelledSet, own: tuple[Array, Array], others: tuple[Array, Array] | None
) -> dict[str, list[str]]:
    """The cells of each row for one set, of the embeddings of its images; `others` are those of another one."""
    views, wanted = own
    symmetric, found, count = views[0], views[1], len(wanted)

    def adapted(rows: Array, features: Array = found, source: tuple[Array, Array] = own) -> Classify:
        projection = fit_projection(source[0][:2, rows], source[1][rows])
        return partial(probe, projection(torch.from_numpy(features).float()).numpy())

    drawn = [np.random.default_rng(seed).permutation(count) for seed in range(2)]
    ways: dict[str, tuple[Classify, Array | None]] = {
        "adapted to all images": (adapted(drawn[0]), None),
        "symmetric": (partial(probe, symmetric), None),
        "symmetric, adapted to all images": (adapted(drawn[0], symmetric), None),
    }
    for seed, order in enumerate(drawn):
        half = order[: count // 2]
        ways[f"adapted to a half, judged on the other; seed {seed}"] = (adapted(half), half)
    if not given.brief:
        ways |= {f"adapted to {n} images": (adapted(drawn[0][:n]), None) for n in (30, 100, 300, 1000)}
        if others is not None:
            ways["adapted to another set"] = (adapted(np.arange(len(others[1])), source=others), None)
        ways["the teacher itself"] = (partial(probe, wanted), None)
        neighbours = LabelSpreading(kernel="knn", n_neighbors=15, alpha=0.5)
        surest = SelfTrainingClassifier(LogisticRegression(max_iter=1000), criterion="k_best", k_best=10, max_iter=5)
        even = StandardScaler().fit_transform(found)
        ways["standardised by all images"] = (partial(probe, even, plain=True), None)
        for power in (0, 0.5, 1):
            ways[f"128 principal components / sd^{power}"] = (
                partial(probe, whitened(even, power, 128), plain=True),
                None,
            )
        ways["whitened within views of an image"] = (partial(probe, invariant(views[1:]), plain=True), None)
        ways["label spreading"] = (partial(semi_supervised, neighbours, whitened(even, 0, 64)), None)
        ways["self-training"] = (partial(semi_supervised, surest, even), None)
    cells: dict[str, list[str]] = {}
    for count in given.per_class:
        draws = [draw_labelled(data.labels, count, seed) for seed in range(given.draws)]
        before = [(test, probe(found, data.labels, train, test)) for train, test in draws]
        scores = _scores(data.labels, before, None)
        cells.setdefault("surface-distilled as it is", []).append(f"{scores.mean():.1f} ± {scores.std(ddof=1):.1f}")
        for name, (classify, seen) in ways.items():
            after = _scores(data.labels, [(test, classify(data.labels, train, test)) for train, test in draws], seen)
            gain = after - _scores(data.labels, before, seen)
            cell = f"{after.mean():.1f} ± {after.std(ddof=1):.1f} ({gain.mean():+.1f} ± {gain.std(ddof=1):.1f})"
            cells.setdefault(name, []).append(cell)
    return cells


def _scores(labels: Array, guesses: list[tuple[Array, Array]], seen: Array | None) -> Array:
    apart = np.isin(np.arange(len(labels)), [] if seen is None else seen, invert=True)
    return np.array([100 * balanced_accuracy_score(labels[t][apart[t]], guess[apart[t]]) for t, guess in guesses])


def main(arguments: Sequence[str] | None = None) -> int:
    """Measure and print a table; 1 for unusable input."""
    given = parser().parse_args(arguments)
    size = given.image_size
    load: dict[str, Callable[[int], LabelledSet]]
    load = {"tiles": partial(load_tiles, given.tiles), "elpv": load_elpv, "neu": partial(load_neu, given.neu)}
    try:
        if given.draws < 2 or min(given.per_class) < 1 or size < 32:
            raise InputError("--draws has to be at least 2, --per-class at least 1, --image-size at least 32")
        sets = [load[name](size) for name in given.sets]
        own = [embeddings(given, data.images) for data in sets]
    except InputError as error:
        print(f"unlabelled.py: error: {error}", file=sys.stderr)
        return 1
    others = [own[(place + 1) % len(own)] if len(own) > 1 else None for place in range(len(own))]
    columns = list(map(partial(rows_of, given), sets, own, others))
    print(header())
    print("\n| | " + " | ".join(f"{data.name}, {count}" for data in sets for count in given.per_class) + " |")
    print("|---" * (1 + len(sets) * len(given.per_class)) + "|")
    for name in columns[0]:
        print(f"| {name} | " + " | ".join(cell for column in columns for cell in column.get(name, [])) + " |")
    return 0


if __name__ == "__main__":
    sys.exit(main())
