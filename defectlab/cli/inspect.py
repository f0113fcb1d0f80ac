"""`defectlab data inspect DIR`: what is in a folder of labelled images, and what is wrong with it."""

from collections import Counter
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from PIL import Image
from rich.console import Console
from rich.markup import escape
from rich.table import Table
from torch import Tensor

from defectlab.data import ImageFolderDataModule, NEUDataModule
from defectlab.data.pipeline.duplicates import Duplicate, exact_duplicates, near_duplicates
from defectlab.data.pipeline.statistics import channel_statistics
from defectlab.data.sources.arrays import find_arrays
from defectlab.data.sources.images import ImageSet, read_listing
from defectlab.data.sources.layouts import Listing, list_folders, list_neu
from defectlab.engine.experiment import without_run
from defectlab.engine.warnings import quieten
from defectlab.errors import InputError
from defectlab.evaluate.mislabels import FOLDS, Suspect, out_of_fold, suspects
from defectlab.figures.style import save_png
from defectlab.figures.tiles import image_sheet
from defectlab.networks import PretrainedNetwork
from defectlab.networks.weights import load_backbone_weights
from defectlab.runs import csv_text, write_text
from defectlab.utils.progress import progress_bar
from defectlab.utils.text import shown_path

__all__ = ["inspect"]

_SIDE = 128  # px; what overlaps and what is mislabelled shows at this size
_ON_SHEET = 40


@dataclass(frozen=True)
class Finding:
    """One row of findings.csv; `other` is the second file of a pair, `score` is of its kind."""

    kind: str
    file: str
    other: str
    score: str
    detail: str


def inspect(directory: Path | None, config: str | None, more: list[str], output: Path) -> int:
    """Write findings.csv and two contact sheets to `output`; print a summary."""
    if (directory is None) == (config is None):
        raise InputError("data inspect needs one of two: give a folder, or --config, whose split is looked at too")
    if output.exists() and not output.is_dir():
        raise InputError(f"--output {output} is a file: expected a folder")
    data, kinds, contents = _of_folder(directory) if directory is not None else _of_config(str(config), more)
    _print_counts(data, kinds)
    with progress_bar("looking for the same twice", 2) as advance:
        exact = exact_duplicates(contents)
        advance(1)
        twice = {(pair.first, pair.second) for pair in exact}
        near = [pair for pair in near_duplicates(data.images) if (pair.first, pair.second) not in twice]
        advance(1)
    labels = data.labels.numpy()
    smallest = int(np.bincount(labels).min())
    shares = out_of_fold(_features(data.images), labels) if smallest >= FOLDS else None
    doubtful = suspects(shares, labels) if shares is not None else []
    findings = [Finding("unreadable", left.file, "", "", left.reason) for left in data.skipped]
    findings += [_pair("same bytes", pair, data) for pair in exact] + [_pair("same place", pair, data) for pair in near]
    findings += [_doubt(suspect, data) for suspect in doubtful]
    output.mkdir(parents=True, exist_ok=True)
    write_text(output / "findings.csv", csv_text(Finding, findings))
    _draw(data, [*exact, *near], doubtful, output)
    _print_findings(findings)
    if shares is None:
        print(f"labels         not looked at: the smallest class has {smallest} images, it takes {FOLDS}")
        print(f"written to     {shown_path(output)}")
        return 0
    right = shares.argmax(axis=1) == labels
    left_out = {suspect.index for suspect in doubtful} | {pair.second for pair in [*exact, *near]}
    rest = np.array([index not in left_out for index in range(len(labels))])
    print(
        f"a linear probe, five folds: {right.mean():.2%} of all {len(labels)}, {right[rest].mean():.2%} of the {rest.sum()} "
        f"without doubtful labels and the second of each pair\nwritten to     {shown_path(output)}"
    )
    return 0


def _of_folder(directory: Path) -> tuple[ImageSet, "Counter[str]", Iterable[bytes]]:
    """The images at 128 px, how many there are of each size and mode, and the bytes of their files."""
    if not directory.is_dir():
        raise InputError(f"{directory} is no folder: expected one with labelled images")
    if find_arrays(directory) is not None:
        data = _arrays(directory)
        return (
            data,
            Counter({f"arrays, read at {_SIDE} × {_SIDE}": len(data.files)}),
            (image.tobytes() for image in data.images.numpy()),
        )
    listing = _list(directory)
    data = read_listing(listing, _SIDE, 1, "skip")
    place = {path.relative_to(listing.root).as_posix(): path for path in listing.files}
    paths = [place[name] for name in data.files]
    kinds: Counter[str] = Counter()
    for path in paths:
        with Image.open(path) as picture:
            kinds[f"{picture.width} × {picture.height} {picture.mode}"] += 1
    return data, kinds, (path.read_bytes() for path in paths)


def _of_config(config: str, more: list[str]) -> tuple[ImageSet, "Counter[str]", Iterable[bytes]]:
    """The same of a config's data, each image with the part of the split that it is in, and its pixels for bytes."""
    quieten()
    with without_run(config, more) as cli:
        module = cli.datamodule
        module.prepare_data()
        module.setup("fit")
    whole, parts = module.data, module.parts
    place = {int(i): name for name in ("train", "val", "test") for i in getattr(parts, name)}
    used = sorted(place)
    data = ImageSet(
        whole.images[used], whole.labels[used], list(module.class_names), [whole.files[i] for i in used],
        [place[i] for i in used], whole.skipped,
    )  # fmt: skip
    kinds = Counter({f"{data.images.shape[-1]} × {data.images.shape[-2]} as read": len(used)})
    return data, kinds, (image.tobytes() for image in data.images.numpy())


def _draw(data: ImageSet, pairs: Sequence[Duplicate], doubtful: Sequence[Suspect], output: Path) -> None:
    """The contact sheets: the most alike pairs side by side, and the most doubtful labels."""
    best = sorted(pairs, key=lambda pair: -pair.similarity)[: _ON_SHEET // 2]
    if best:
        indices = [index for pair in best for index in (pair.first, pair.second)]
        titles = [f"{Path(data.files[i]).name}\n{data.class_names[int(data.labels[i])]}" for i in indices]
        save_png(image_sheet(data.images[indices], titles), output / "duplicates.png")
    if doubtful:
        shown = doubtful[:_ON_SHEET]
        names = data.class_names
        titles = [
            f"{Path(data.files[s.index]).name}\nlabelled {names[s.label]}\nlike {names[s.suggested]}" for s in shown
        ]
        save_png(image_sheet(data.images[[s.index for s in shown]], titles), output / "doubtful.png")


def _list(directory: Path) -> Listing:
    """As NEU-CLS if the names are those of its classes, else by folders."""
    try:
        return list_neu(directory)
    except InputError:
        return list_folders(directory)


def _arrays(directory: Path) -> ImageSet:
    """Likewise."""
    try:
        return NEUDataModule(str(directory), image_size=_SIDE).load()
    except InputError:
        return ImageFolderDataModule(str(directory), image_size=_SIDE, channels=1).load()


@torch.inference_mode()
def _features(images: Tensor) -> np.ndarray:
    """What our surface weights see in uint8 images (N, C, S, S): (N, E)."""
    network = PretrainedNetwork(2, images.shape[1], _SIDE, stages="middle").to(memory_format=torch.channels_last).eval()
    load_backbone_weights(network, "surface")
    mean, std = (
        torch.tensor(values).view(1, -1, 1, 1) for values in channel_statistics(images, torch.arange(len(images)))
    )
    blocks = []
    with progress_bar("computing features", len(images)) as advance:
        for block in torch.split(images, 64):
            blocks.append(
                network.embed(((block.float() / 255 - mean) / std).contiguous(memory_format=torch.channels_last))
            )
            advance(len(block))
    features: np.ndarray = torch.cat(blocks).numpy()
    return features


def _doubt(suspect: Suspect, data: ImageSet) -> Finding:
    names = data.class_names
    detail = f"labelled {names[suspect.label]}, looks like {names[suspect.suggested]}"
    return Finding("doubtful label", data.files[suspect.index], "", f"{suspect.p_suggested:.3f}", detail)


def _pair(kind: str, pair: Duplicate, data: ImageSet) -> Finding:
    """What is worst about it: in two parts of a split, or with two labels."""
    first, second = pair.first, pair.second
    details = []
    if data.splits is not None and data.splits[first] != data.splits[second]:
        details.append(f"leak: {data.splits[first]} and {data.splits[second]}")
    if data.labels[first] != data.labels[second]:
        names = [data.class_names[int(data.labels[index])] for index in (first, second)]
        details.append(f"contradiction: {names[0]} and {names[1]}")
    return Finding(kind, data.files[first], data.files[second], f"{pair.similarity:.3f}", "; ".join(details))


def _print_counts(data: ImageSet, kinds: "Counter[str]") -> None:
    table = Table(title=f"{len(data.files)} images", title_justify="left")
    table.add_column("class")
    table.add_column("images", justify="right")
    for label, name in enumerate(data.class_names):
        table.add_row(escape(name), str(int((data.labels == label).sum())))
    console = Console()
    console.print(table)
    sizes = ", ".join(f"{size}: {count}" for size, count in kinds.most_common(5))
    console.print(f"size and mode  {sizes}" + (", …" if len(kinds) > 5 else ""), highlight=False, markup=False)


def _print_findings(findings: Sequence[Finding]) -> None:
    counts = Counter(finding.kind for finding in findings)
    leaks = sum("leak" in finding.detail for finding in findings)
    against = sum("contradiction" in finding.detail for finding in findings)
    print(
        f"unreadable     {counts['unreadable']} files\n"
        f"same bytes     {counts['same bytes']} pairs\n"
        f"same place     {counts['same place']} pairs: brighter, compressed or cut anew; --data.group_duplicates true keeps "
        "them on one side of the split\n"
        f"               of all pairs {leaks} across parts of the split, {against} with two labels\n"
        f"doubtful       {counts['doubtful label']} labels, the most doubtful first in findings.csv: look before changing any"
    )
