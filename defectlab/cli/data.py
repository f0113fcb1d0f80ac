"""`defectlab data ...`: get a data set onto the disk, and look into one."""

import argparse
from pathlib import Path
from typing import TYPE_CHECKING

from defectlab.cli.arguments import CommandParser
from defectlab.utils.text import shown_path

if TYPE_CHECKING:
    from defectlab.evaluate.inspection import Inspection

__all__ = ["run"]


def run(words: list[str]) -> int:
    """Fetch NEU-CLS, generate its synthetic stand-in, inspect a folder, show or write what an augmentation makes."""
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
    from defectlab.engine.warnings import quieten
    from defectlab.evaluate.inspection import inspect_data

    quieten()
    found = inspect_data(named, arguments.config, more, arguments.output, progress=True)
    _print_inspection(found)
    return 0


def _print_inspection(found: "Inspection") -> None:
    from rich.console import Console
    from rich.markup import escape
    from rich.table import Table

    total = sum(found.counts.values())
    table = Table(title=f"{total} images", title_justify="left")
    table.add_column("class")
    table.add_column("images", justify="right")
    for name, count in found.counts.items():
        table.add_row(escape(name), str(count))
    console = Console()
    console.print(table)
    sizes = sorted(found.sizes.items(), key=lambda item: -item[1])
    shown = ", ".join(f"{size}: {count}" for size, count in sizes[:5]) + (", …" if len(sizes) > 5 else "")
    console.print(f"size and mode  {shown}", highlight=False, markup=False)
    leaks = sum("leak" in finding.detail for finding in found.findings if finding.other)
    against = sum("contradiction" in finding.detail for finding in found.findings if finding.other)
    print(
        f"unreadable     {found.count('unreadable')} files\n"
        f"same bytes     {found.count('same bytes')} pairs\n"
        f"same place     {found.count('same place')} pairs: brighter, compressed or cut anew; --data.group_duplicates "
        "true keeps them on one side of the split\n"
        f"               of all pairs {leaks} across parts of the split, {against} with two labels\n"
        f"doubtful       {found.count('doubtful label')} labels, the most doubtful first in findings.csv: look before "
        "changing any"
    )
    if found.accuracy is None or found.accuracy_rest is None:
        print(f"labels         not looked at: the smallest class has {min(found.counts.values())} images, it takes 5")
    else:
        print(
            f"a linear probe, five folds: {found.accuracy:.2%} of all {total}, {found.accuracy_rest:.2%} of the "
            f"{found.rest} without doubtful labels and the second of each pair"
        )
    print(f"written to     {shown_path(found.folder)}")


def _preview(words: list[str]) -> int:
    parser = CommandParser(
        "defectlab data preview",
        "An image of what training does to images: each operation of the config's augmentation alone, through its range, "
        "then all together, MixUp and CutMix with their soft labels. Further arguments go to fit, such as "
        "--data.augmentation.rotation 15.",
    )
    parser.add_argument("--config", required=True, help="a YAML file or the name of a shipped one")
    parser.add_argument("--all", action="store_true", help="show operations that are off too, at a usual strength")
    parser.add_argument("--output", type=Path, default=Path("preview.png"), help="a .png file (default: %(default)s)")
    given, more = parser.parse_known_args(words)
    from defectlab.cli.preview import preview

    return preview(given.config, more, given.all, given.output)


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
    from defectlab.cli.preview import augment

    return augment(given.config, more, given.output, given.copies, given.originals)
