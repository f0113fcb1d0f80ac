"""`defectlab explain RUN|CKPT|imagenet/NETWORK [IMAGES]`, and `defectlab explain kernels IMAGE`."""

from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from rich.console import Console
from rich.markup import escape
from rich.table import Table

from defectlab.cli.arguments import CommandParser, png_file
from defectlab.cli.tables import new_table
from defectlab.utils.text import shown_path

if TYPE_CHECKING:
    from defectlab.explain.against_boxes import PointingResult
    from defectlab.explain.pointing import Pointing

_LEGEND = (
    "hits: the largest value lies in a box of the true class; chance: the boxes' area; p: of chance, one-sided, after "
    "Holm over all classes and methods; centre: hits of the middle of the image; others: hits of the points of other "
    "images of the class, and p of knowing no more than those; energy: share of the map's sum inside boxes."
)


def run(words: list[str]) -> int:
    """Write explain.html, its images and TensorBoard's events; or a sheet of fixed kernels."""
    if words[:1] == ["kernels"]:
        return _kernels(words[1:])
    parser = CommandParser(
        "defectlab explain",
        "See inside a network: filters, feature maps, where it looks, what excites its units, how it orders the test "
        "images. `defectlab explain kernels IMAGE` shows what fixed kernels do, without a run.",
    )
    parser.add_argument(
        "run",
        help="run folder (its best checkpoint is used) or .ckpt file; or imagenet/NETWORK, such as imagenet/vgg16: "
        "torchvision's, before any training",
    )  # fmt: skip
    parser.add_argument(
        "images", nargs="*", metavar="IMAGES",
        help="image files, folders and globs; without them test images of the run: right ones, and the surest mistakes",
    )  # fmt: skip
    parser.add_argument(
        "--layer", metavar="NAME",
        help="convolution to look into, as in named_modules: its filters, the images that excite its channels "
        "(default: filters of the first, images of the last layer with maps)",
    )  # fmt: skip
    parser.add_argument(
        "--boxes", type=Path, metavar="DIR",
        help="Pascal VOC .xml files, an image each: do the maps point at the defects of the test images, and would they "
        "with shuffled weights? Writes boxes.png, boxes.csv, sanity.csv and cascade.csv, too",
    )  # fmt: skip
    parser.add_argument(
        "--weights", type=Path, metavar="FILE", help="of imagenet/NETWORK (default: torchvision's cache, or a download)"
    )
    parser.add_argument("--output", type=Path, help="folder to write to (default: RUN/explain; without a run, explain)")
    parser.add_argument("--data.root", dest="root", help="where the run's images are now, if they have moved")
    given = parser.parse_args(words)
    # Imported here: kernels and --help need no Lightning.
    from defectlab.explain.run import explain
    from defectlab.utils.cpu import CPUSettings

    CPUSettings().apply()
    found = explain(
        given.run, given.images, layer=given.layer, output=given.output, data_root=given.root, boxes=given.boxes,
        weights=given.weights, progress=True,
    )  # fmt: skip
    if found.pointing is not None:
        _print_pointing(found.pointing)
    for note in found.notes:
        print(note)
    print(f"written to   {shown_path(found.page.resolve())}")
    print(f"TensorBoard  tensorboard --logdir {shown_path(found.events.resolve())}")
    return 0


def _print_pointing(found: "PointingResult") -> None:
    """Print a table a method, and the check with shuffled weights."""
    console = Console()
    for method in dict.fromkeys(row.method for row in found.rows):
        console.print(_table([row for row in found.rows if row.method == method]))
        console.print()
    console.print(_LEGEND, style="dim", highlight=False)
    first = found.checks[0]
    title = f"\nlikeness to the map of shuffled weights: {first.images} images, {first.seeds} shufflings"
    table = new_table(title, ("method", "Spearman", "by shuffling", "verdict"), left=(0, 3), boxed=False)
    for check in found.checks:
        shown = "–" if check.similarity is None else f"{check.similarity:.2f}"
        span = "–" if check.similarity is None else f"{check.low:.2f} to {check.high:.2f}"
        table.add_row(check.method, shown, span, check.verdict)
    console.print(table)


def _table(rows: "Sequence[Pointing]") -> Table:
    columns = ("class", "hits", "chance", "margin", "p", "centre", "others", "p", "energy")
    table = new_table(f"pointing game: {rows[0].method}", columns, boxed=False)
    for row in rows:
        swapped = "–" if row.swapped is None else f"{row.swapped:.0%}"
        table.add_row(
            escape(row.label), f"{row.hits}/{row.n}", f"{row.chance:.0%}", f"{100 * row.margin:+.0f}", _p(row.p_holm),
            f"{row.centre:.0%}", swapped, _p(row.p_swapped), f"{row.energy:.0%}",
        )  # fmt: skip
    return table


def _p(value: float | None) -> str:
    if value is None:
        return "–"
    return "<.001" if value < 0.001 else f"{value:.3f}".removeprefix("0")


def _kernels(words: list[str]) -> int:
    parser = CommandParser(
        "defectlab explain kernels", "What fixed kernels make of an image: edges, blur, relief, and any of your own."
    )
    parser.add_argument("image", type=Path, help="image file, read as grey")
    parser.add_argument(
        "--kernel", action="append", default=[], metavar="ROWS",
        help='in place of the fixed ones, such as "[[1,0,-1],[1,0,-1],[1,0,-1]]"; may be given several times',
    )  # fmt: skip
    parser.add_argument("--output", type=png_file, default=Path("kernels.png"), help="PNG file (default: %(default)s)")
    given = parser.parse_args(words)
    from defectlab.explain.kernels import KERNELS, explain_kernels
    from defectlab.figures.style import save_png

    save_png(explain_kernels(given.image, given.kernel), given.output)
    count = len(given.kernel) or len(KERNELS)
    print(f"{count} kernel{'s' if count > 1 else ''} on {given.image} -> {given.output}")
    return 0
