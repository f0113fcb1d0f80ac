"""`defectlab data ...`: get a data set onto the disk, and look into one."""

import argparse
from pathlib import Path
from typing import TYPE_CHECKING

from defectlab.cli.arguments import CommandParser, png_file
from defectlab.utils.text import shown_path

if TYPE_CHECKING:
    from defectlab.data import ImageDataModule
    from defectlab.evaluate.inspection import Inspection


def run(words: list[str]) -> int:
    """Fetch NEU-CLS, generate its synthetic stand-in, inspect a folder, preview an augmentation or write augmented copies."""
    parser = CommandParser("defectlab data", "Get a data set onto the disk, or look into one.")
    commands = parser.add_subparsers(dest="command", required=True)
    fetch = commands.add_parser("fetch", help="download NEU-CLS; every file is checked against its SHA-256")
    fetch.add_argument("directory", nargs="?", type=Path, default=Path("data/neu-cls"), help="default: %(default)s")
    fetch.add_argument("--url", default=None, help="of a zip with the same files")
    synthesize = commands.add_parser("synthesize", help="generate images of the six NEU classes")
    synthesize.add_argument("directory", type=Path, help="a folder that does not exist yet")
    synthesize.add_argument("--per-class", type=int, default=300, help="images a class (default: %(default)s)")
    synthesize.add_argument("--seed", type=int, default=0)
    commands.add_parser("inspect", help="counts, broken files, duplicates, doubtful labels")
    commands.add_parser("preview", help="an image of a config's augmentation, each operation alone and all together")
    commands.add_parser("augment", help="augmented copies as files")
    takes_fit = {"inspect": _inspect, "preview": _preview, "augment": _augment}
    if words[:1] and words[0] in takes_fit:
        return takes_fit[words[0]](words[1:])
    arguments = parser.parse_args(words)
    if arguments.command == "fetch":
        from defectlab.data.sources.fetch import NEU_URL, fetch_neu

        folder = fetch_neu(arguments.directory, arguments.url or NEU_URL)
        print(f"NEU-CLS is in {folder}")
        return 0
    from defectlab.data.synthesis.strip import synthesize as write

    count = write(arguments.directory, arguments.per_class, arguments.seed)
    print(f"{count} synthetic images are in {arguments.directory}")
    return 0


def _inspect(words: list[str]) -> int:
    parser = CommandParser(
        "defectlab data inspect",
        "What is in a folder of labelled images, in any layout that fit reads, and what is wrong with it: "
        "`data inspect DIR`, or `data inspect --config C ...` for a config's data and its split, with arguments of fit.",
    )
    parser.add_argument("--config", help="in place of a folder")
    parser.add_argument("--output", type=Path, help="a folder (default: runs/inspection/ and the name of the data)")
    named, arguments, more = parser.parse_with_folder(words)
    if more and arguments.config is None:
        parser.error(f"unrecognized arguments: {' '.join(more)}")
    from defectlab.evaluate.inspection import inspect_data

    found = inspect_data(named, arguments.config, more, arguments.output, progress=True)
    _print_inspection(found)
    return 0


def _print_inspection(found: "Inspection") -> None:
    from rich.console import Console
    from rich.markup import escape

    from defectlab.cli.tables import new_table

    total = sum(found.counts.values())
    columns = ("class", "images", "size", "bright", "at 0", "at 255", "range", "sharp")
    table = new_table(f"{total} images: medians, shares of pixels at 0 and 255", columns)
    for row in found.classes:
        size = "" if row.width is None else f"{row.width:.0f}×{row.height:.0f}"
        table.add_row(
            escape(row.name), str(row.images), size, f"{row.brightness:.0f}", f"{row.black:.1%}", f"{row.white:.1%}",
            f"{row.range:.0f}", f"{row.sharpness:.0f}",
        )  # fmt: skip
    console = Console()
    console.print(table)
    sizes = sorted(found.sizes.items(), key=lambda item: -item[1])
    shown = ", ".join(f"{size}: {count}" for size, count in sizes[:5]) + (", …" if len(sizes) > 5 else "")
    console.print(f"size and mode  {shown}", highlight=False, markup=False)
    kinds = ("unreadable", "unusual", "same bytes", "same place", "doubtful label")
    unreadable, unusual, exact, alike, doubtful = map(found.count, kinds)
    print(f"unreadable     {unreadable} files{': see findings.csv' if unreadable else ''}")
    print(f"unusual        {unusual} images{': see findings.csv' if unusual else ''}")
    for finding in found.findings:
        if finding.kind == "shortcut":
            print(f"shortcut       {finding.detail} (AUROC {finding.score:.2f}): a network could cheat by it")
    print(f"same bytes     {exact} pairs\nsame place     {alike} pairs", end="")
    print(": brighter, compressed, cut anew, or another image of the same" if alike else "")
    if exact or alike:
        print(
            f"               of all pairs {found.leaks} across parts of the split, {found.contradictions} with two labels"
        )
    if found.leaks:
        print("               data.group_duplicates keeps what shows one place on one side of the split")
    _print_test_part(found)
    if found.accuracy is not None:
        hint = ", the most doubtful first in findings.csv: look before changing any" if doubtful else ""
        print(f"doubtful       {doubtful} labels{hint}")
    if found.accuracy is None:
        print(f"labels         not looked at: the smallest class has {min(found.counts.values())} images, it takes 5")
    else:
        print(f"a linear probe, five folds: {found.accuracy:.2%} of all {total}")
        if found.accuracy_rest is not None:
            print(f"without doubtful labels and the second of each pair: {found.accuracy_rest:.2%} of {found.rest}")
    print(f"written to     {shown_path(found.folder)}")


def _print_test_part(found: "Inspection") -> None:
    """Print how well the test part will know the recall of each class; one line for all with as many test images."""
    alike: dict[tuple[int, float], list[str]] = {}
    for row in found.classes:
        if row.test_images is not None and row.recall_half_width is not None:
            alike.setdefault((row.test_images, row.recall_half_width), []).append(row.name)
    if not alike:
        print("test part      none: too few images of a class to divide them into train, val and test")
    for (count, half), names in sorted(alike.items()):
        named = "each class" if len(names) == len(found.counts) else ", ".join(names)
        print(f"test part      {named}: {count} test images, recall known to ± {100 * half:.0f} points")


def _preview(words: list[str]) -> int:
    parser = CommandParser(
        "defectlab data preview",
        "An image of what training does to images: each operation of the config's augmentation alone, through its range, "
        "then all together, MixUp and CutMix with their soft labels. Further arguments go to fit, such as "
        "--data.augmentation.rotation 15.",
    )
    parser.add_argument("--config", required=True, help="a YAML file or the name of a shipped one")
    parser.add_argument("--all", action="store_true", help="show operations that are off too, at a usual strength")
    parser.add_argument(
        "--output", type=png_file, default=Path("preview.png"), help="a .png file (default: %(default)s)"
    )
    given, more = parser.parse_known_args(words)
    from defectlab.data.tools.preview import preview
    from defectlab.figures.style import save_png

    data = _data_of(given.config, more)
    figure = preview(data, given.all, f"augmentation of {Path(given.config).name}")
    save_png(figure, given.output, data.source == "synthetic")
    operations = data.augmentation.operations if data.augmentation is not None else ()
    print(f"on in this config: {', '.join(operations) or 'nothing'}\nwritten to   {shown_path(given.output.resolve())}")
    return 0


def _augment(words: list[str]) -> int:
    parser = CommandParser(
        "defectlab data augment",
        "Write a data set to a folder, its training part with augmented copies; validation and test are written as they "
        "are, so that nothing leaks. ImageFolderDataModule reads the folder. Further arguments go to fit.",
    )
    parser.add_argument("--config", required=True, help="a YAML file or the name of a shipped one")
    parser.add_argument("--output", required=True, type=Path, help="a new or empty folder")
    parser.add_argument("--copies", type=int, default=5, help="of each training image (default: %(default)s)")
    parser.add_argument(
        "--originals", action=argparse.BooleanOptionalAction, default=True, help="the training images themselves too"
    )
    given, more = parser.parse_known_args(words)
    from defectlab.data.pipeline.augment import MIXING
    from defectlab.data.tools.offline import augment_to_folder

    data, copies, output = _data_of(given.config, more), given.copies, given.output
    counts = augment_to_folder(data, output, copies, given.originals, progress=True)
    mixing = [name for name in data.augmentation.operations if name in MIXING] if data.augmentation is not None else []
    if mixing:
        print(f"left out     {' and '.join(mixing)}: a folder cannot hold labels that are shares")
    note = ", of SYNTHETIC images" if data.source == "synthetic" else ""
    size = str(data.image_size).replace(" ", "").replace("(", "[").replace(")", "]")
    print(
        f"train        {counts['train']:,} files{note}: {copies} cop{'y' if copies == 1 else 'ies'} of each of "
        f"{len(data.parts.train):,} training images"
        f"{' and the images themselves' if given.originals else ', without the images themselves'}\n"
        f"val, test    {counts['val']:,} and {counts['test']:,} files, the images as they are: nothing of them is in train\n"
        f"written to   {shown_path(output.resolve())}; to train on it without augmenting it again:\n"
        f"             defectlab fit --config folder_mobilenet.yaml --data.root {output} --data.image_size {size} "
        f"--data.channels {data.channels} --data.augmentation null"
    )
    return 0


def _data_of(config: str, more: list[str]) -> "ImageDataModule":
    from defectlab.engine.experiment import without_run

    with without_run(config, more, read_weights=False) as cli:
        data: ImageDataModule = cli.datamodule
    return data
