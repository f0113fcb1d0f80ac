"""Inspect a set of labelled images: counts, broken files, quality, duplicates, leaks, doubtful labels, the test part."""

from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import contextmanager, suppress
from dataclasses import astuple, dataclass, replace
from os import PathLike
from pathlib import Path

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor

from defectlab.data import ImageFolderDataModule, NEUDataModule
from defectlab.data.pipeline.duplicates import Duplicate, exact_duplicates, iter_near_duplicates
from defectlab.data.sources.decode import size_and_mode
from defectlab.data.sources.images import ImageSet
from defectlab.engine.adapt import embed_images
from defectlab.engine.experiment import without_run
from defectlab.engine.host import as_guest
from defectlab.errors import InputError
from defectlab.evaluate.mislabels import FOLDS, Suspect, out_of_fold, suspects
from defectlab.evaluate.quality import ClassQuality, class_quality, measure_quality, telling_measures, unusual_images
from defectlab.figures.style import save_png
from defectlab.figures.tiles import image_sheet
from defectlab.metrics.decisions import NO_CLASS, are_right, decide, label_texts
from defectlab.networks import PretrainedNetwork
from defectlab.networks.weights import load_backbone_weights
from defectlab.runs import csv_text, write_text
from defectlab.utils.files import check_output_folder
from defectlab.utils.text import csv_rows, html_table

_SIDE = 128  # px; what overlaps and what is mislabelled shows at this size
_ON_SHEET = 40
_OUTPUT = Path("runs", "inspection")


@dataclass(frozen=True, kw_only=True)
class Finding:
    """One thing that is wrong with a data set, a row of findings.csv.

    Args:
        kind: `unreadable`, `unusual` (size, exposure, sharpness or range), `shortcut` (a class that one of these tells),
            `same bytes`, `same place` (brighter, compressed, cut anew, or another image of the same) or `doubtful label`.
        file: the image; empty for a class.
        other: the second image of a pair.
        score: correlation of a pair, AUROC of a shortcut, or probability of the class that a doubtful image looks like.
        detail: why a file cannot be read; what is unusual; the parts of the split and the labels of a pair that differ.
        leak: of a pair in two parts of the split.
        contradiction: of a pair with two labels.
    """

    kind: str
    file: str
    other: str = ""
    score: float | None = None
    detail: str = ""
    leak: bool = False
    contradiction: bool = False


@dataclass(frozen=True, kw_only=True)
class Inspection:
    """The result of `inspect_data`.

    Args:
        findings: the unreadable, the unusual, shortcuts, pairs, and doubtful labels, the most doubtful first.
        counts: images of each class.
        classes: what the images of each class are like, and how well the test part will know its recall; all at the end.
        sizes: images of each size and mode.
        accuracy: of a linear probe over five folds, in [0, 1]; None where a class is too small for it.
        accuracy_rest: the same of the `rest` images without doubtful labels and the second of each pair.
        rest: how many those are.
        folder: that was written to.
        files: findings.csv, quality.csv, and the contact sheets of pairs and of doubtful labels where there are any.
    """

    findings: tuple[Finding, ...]
    counts: dict[str, int]
    classes: tuple[ClassQuality, ...]
    sizes: dict[str, int]
    accuracy: float | None
    accuracy_rest: float | None
    rest: int
    folder: Path
    files: tuple[Path, ...]

    def count(self, kind: str) -> int:
        """Return the number of findings of a kind."""
        return sum(finding.kind == kind for finding in self.findings)

    @property
    def leaks(self) -> int:
        """Number of pairs across parts of the split."""
        return sum(finding.leak for finding in self.findings)

    @property
    def contradictions(self) -> int:
        """Number of pairs with two labels."""
        return sum(finding.contradiction for finding in self.findings)

    def _repr_html_(self) -> str:
        """Return a table for a notebook."""
        return html_table(repr(self), self.findings)

    def __repr__(self) -> str:
        kinds = Counter(finding.kind for finding in self.findings)
        found = ", ".join(f"{count} {kind}" for kind, count in kinds.items()) or "nothing found"
        return f"Inspection of {sum(self.counts.values())} images: {found}; see {self.folder}"


def inspect_data(
    source: str | PathLike[str] | None = None,
    config: str | PathLike[str] | None = None,
    overrides: Sequence[str] = (),
    output: str | PathLike[str] | None = None,
    progress: bool = False,
) -> Inspection:
    """Search a data set for broken and unusual files, shortcuts, duplicates, leaks between parts, and doubtful labels.

    Findings are written as they come: an inspection that is stopped leaves those that it had.

    Args:
        source: folder of labelled images in any layout that `fit` reads.
        config: in its place a YAML file or the name of a shipped one, whose data and split are inspected.
        overrides: arguments of `fit` for the config, such as `("--data.root", "NEU")`.
        output: folder for findings.csv, quality.csv and two contact sheets; None for `runs/inspection/` and the name of
            the data.
        progress: draw bars for work of more than a second.

    Raises:
        InputError: no such data, none of both or both, or a folder that cannot be written to.
    """
    if (source is None) == (config is None):
        raise InputError("data inspect needs one of two: give a folder, or --config, whose split is looked at too")
    named = Path(source).resolve().name if source is not None else Path(str(config)).stem
    folder = Path(output) if output is not None else _OUTPUT / (named or "data")
    check_output_folder(folder)
    with as_guest(progress):
        read = _of_folder(Path(source)) if source is not None else _of_config(str(config), overrides)
        data, labels = read.data, read.data.strata
        names, files = data.strata_names, data.files
        findings: list[Finding] = []
        pairs: list[Duplicate] = []
        with _rows_file(folder / "findings.csv", findings) as add:
            add(Finding(kind="unreadable", file=left.file, detail=left.reason) for left in data.skipped)
            measures = measure_quality(data.images, read.sizes)
            classes = class_quality(measures, labels, names, read.test)
            write_text(folder / "quality.csv", csv_text(ClassQuality, classes))
            add(Finding(kind="unusual", file=files[i], detail=why) for i, why in unusual_images(measures, labels))
            told = telling_measures(measures, labels, names)
            add(Finding(kind="shortcut", file="", score=round(auroc, 3), detail=why) for why, auroc in told)
            first_of: dict[int, int] = {}
            for pair in exact_duplicates(data.contents()):
                first_of[pair.second] = pair.first
                add([_pair("same bytes", pair, data)])
                pairs.append(pair)
            for pair in iter_near_duplicates(data.images):
                if first_of.get(pair.first, pair.first) != first_of.get(pair.second, pair.second):
                    add([_pair("same place", pair, data)])
                    pairs.append(pair)
            counts = np.array(data.class_counts(np.arange(len(files))))
            probabilities, doubtful = _doubtful(data) if len(counts) > 1 and counts.min() >= FOLDS else (None, [])
            truth = label_texts(data.labels.numpy(), names, NO_CLASS)
            for one in doubtful:
                detail = f"labelled {truth[one.index]}, looks like {_suggested(one, data)}"
                p = round(one.p_suggested, 3)
                add([Finding(kind="doubtful label", file=files[one.index], score=p, detail=detail)])
    sheets = _draw(data, pairs, doubtful, folder)
    rest = np.ones(len(labels), dtype=bool)
    rest[[suspect.index for suspect in doubtful] + [pair.second for pair in pairs]] = False
    several = None if data.labels.ndim == 1 else np.full(len(data.class_names), 0.5)
    right = None if probabilities is None else are_right(decide(probabilities, several), data.labels.numpy())
    return Inspection(
        findings=tuple(findings), counts=dict(zip(data.class_names, counts.tolist(), strict=True)),
        classes=tuple(classes), sizes=dict(read.kinds),
        accuracy=None if right is None else float(right.mean()),
        accuracy_rest=None if right is None or not rest.any() else float(right[rest].mean()),
        rest=int(rest.sum()), folder=folder, files=(folder / "findings.csv", folder / "quality.csv", *sheets),
    )  # fmt: skip


@contextmanager
def _rows_file(path: Path, rows: list[Finding]) -> Iterator[Callable[[Iterable[Finding]], None]]:
    """Open a CSV file, and yield a function that adds findings to it and to `rows`; they are on the disk at once."""
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        # Unbuffered, so that a process that is killed leaves whole rows.
        file = path.open("wb", buffering=0)
    except OSError as error:
        raise InputError(f"output {path} cannot be written ({error.strerror}): choose another folder") from None

    def add(findings: Iterable[Finding]) -> None:
        new = list(findings)
        rows.extend(new)
        file.write(csv_rows(map(astuple, new)).encode("utf-8", "surrogateescape"))

    with file:
        file.write(csv_text(Finding, []).encode())
        yield add


@dataclass(frozen=True, kw_only=True)
class _Read:
    """Images; how many of each size and mode; width and height of their files; indices of the test part."""

    data: ImageSet
    kinds: "Counter[str]"
    sizes: list[tuple[int, int]] | None = None
    test: npt.NDArray[np.int64] | None = None


def _of_folder(directory: Path) -> _Read:
    """Read images at 128 px, and divide them as `fit` would by default."""
    if not directory.is_dir():
        raise InputError(f"{directory} is no folder: expected one with labelled images")
    try:
        module: ImageFolderDataModule = NEUDataModule(str(directory), image_size=_SIDE, on_bad_image="skip")
        data = module.load()
    except InputError:
        module = ImageFolderDataModule(str(directory), image_size=_SIDE, channels=1, on_bad_image="skip", fit="stretch")
        data = module.load()
    test = None
    with suppress(InputError):  # too few images of a class
        test = module.divide(data).test
    paths = [directory / name for name in data.files]
    if not all(path.is_file() for path in paths):  # rows of arrays, pages
        return _Read(data=data, kinds=Counter({f"read at {_SIDE} × {_SIDE}": len(data.files)}), test=test)
    found = [size_and_mode(path) for path in paths]
    kinds = Counter(f"{width} × {height} {mode}" for width, height, mode in found)
    return _Read(data=data, kinds=kinds, sizes=[(width, height) for width, height, _ in found], test=test)


def _of_config(config: str, overrides: Sequence[str]) -> _Read:
    """Read a config's data with the part of the split of each image."""
    with without_run(config, overrides) as cli:
        module = cli.datamodule
        module.prepare_data()
        module.setup("fit")
    whole, parts = module.data, module.parts
    place = {int(i): name for name in ("train", "val", "test") for i in getattr(parts, name)}
    data = replace(whole, splits=[place[index] for index in range(len(whole.files))])
    kinds = Counter({f"{data.images.shape[-1]} × {data.images.shape[-2]} as read": len(data.files)})
    return _Read(data=data, kinds=kinds, test=parts.test)


def _draw(data: ImageSet, pairs: Sequence[Duplicate], doubtful: Sequence[Suspect], folder: Path) -> list[Path]:
    """Draw the contact sheets: the most alike pairs side by side, and the most doubtful labels."""
    truth = label_texts(data.labels.numpy(), data.class_names, NO_CLASS)
    files = [Path(file).name for file in data.files]
    best = sorted(pairs, key=lambda pair: -pair.similarity)[: _ON_SHEET // 2]
    alike = [index for pair in best for index in (pair.first, pair.second)]
    sheets = {"duplicates": (alike, [f"{files[i]}\n{truth[i]}" for i in alike])}
    shown = doubtful[:_ON_SHEET]
    titles = [f"{files[s.index]}\nlabelled {truth[s.index]}\nlike {_suggested(s, data)}" for s in shown]
    sheets["doubtful"] = ([s.index for s in shown], titles)
    drawn = {folder / f"{name}.png": sheet for name, sheet in sheets.items() if sheet[0]}
    for path, (indices, captions) in drawn.items():
        save_png(image_sheet(data.images[indices], captions), path)
    return list(drawn)


def _doubtful(data: ImageSet) -> tuple[npt.NDArray[np.float64], list[Suspect]]:
    """Compute out-of-fold probabilities (N, C), and find the images whose label is doubtful; of several, class by class."""
    features, groups, labels = _features(data.images), data.records.groups, data.labels.numpy()
    if labels.ndim == 1:
        probabilities = out_of_fold(features, labels, groups=groups)
        return probabilities, suspects(probabilities, labels)
    found: list[Suspect] = []
    columns = []
    for k, own in enumerate(labels.T.astype(np.int64)):
        binary = out_of_fold(features, own, groups=groups)
        columns.append(binary[:, 1])
        found += [
            replace(one, label=k if one.label else -1, suggested=-1 if one.label else k)
            for one in suspects(binary, own)
        ]
    return np.stack(columns, axis=1), sorted(found, key=lambda one: one.p_label - one.p_suggested)


def _suggested(one: Suspect, data: ImageSet) -> str:
    """Return what an image looks like: a class, or of a multi-label set without one that it is labelled."""
    if data.labels.ndim == 1:
        return data.class_names[one.suggested]
    return f"without {data.class_names[one.label]}" if one.label >= 0 else f"with {data.class_names[one.suggested]}"


def _features(images: Tensor) -> npt.NDArray[np.float32]:
    """Compute features (N, E) of uint8 images (N, C, S, S) with our surface weights."""
    network = PretrainedNetwork(2, images.shape[1], _SIDE, stages="middle").to(memory_format=torch.channels_last).eval()
    load_backbone_weights(network, "surface")
    return embed_images(network.embed, images, "computing features")


def _pair(kind: str, pair: Duplicate, data: ImageSet) -> Finding:
    """Describe a pair of duplicates: in two parts of a split, or with two labels."""
    both = pair.first, pair.second
    parts = [] if data.splits is None else [data.splits[index] for index in both]
    labels = label_texts(data.labels.numpy()[list(both)], data.class_names, NO_CLASS)
    differing = {"leak": parts, "contradiction": labels}
    details = {what: f"{what}: {' and '.join(pair)}" for what, pair in differing.items() if len(set(pair)) > 1}
    return Finding(
        kind=kind, file=data.files[pair.first], other=data.files[pair.second], score=round(pair.similarity, 3),
        detail="; ".join(details.values()), leak="leak" in details, contradiction="contradiction" in details,
    )  # fmt: skip
