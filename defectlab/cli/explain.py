"""`defectlab explain RUN|CKPT|imagenet/NETWORK [IMAGES]`, and `defectlab explain kernels IMAGE`."""

from pathlib import Path

from defectlab.cli.arguments import CommandParser
from defectlab.errors import InputError

__all__ = ["run"]

_LONGEST = 512  # px of an image under fixed kernels; a larger one is made smaller


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
        "with shuffled weights? Writes boxes.png, boxes.csv and sanity.csv, too",
    )  # fmt: skip
    parser.add_argument(
        "--weights", type=Path, metavar="FILE", help="of imagenet/NETWORK (default: torchvision's cache, or a download)"
    )
    parser.add_argument("--output", type=Path, help="folder to write to (default: RUN/explain; without a run, explain)")
    parser.add_argument("--data.root", dest="root", help="where the run's images are now, if they have moved")
    given = parser.parse_args(words)
    if given.output is not None and given.output.exists() and not given.output.is_dir():
        raise InputError(f"--output {given.output} is a file: expected a folder")
    from defectlab.explain.run import explain

    return explain(given.run, given.images, given.layer, given.output, given.root, given.boxes, given.weights)


def _kernels(words: list[str]) -> int:
    parser = CommandParser(
        "defectlab explain kernels", "What fixed kernels make of an image: edges, blur, relief, and any of your own."
    )
    parser.add_argument("image", type=Path, help="image file, read as grey")
    parser.add_argument(
        "--kernel", action="append", default=[], metavar="ROWS",
        help='in place of the fixed ones, such as "[[1,0,-1],[1,0,-1],[1,0,-1]]"; may be given several times',
    )  # fmt: skip
    parser.add_argument("--output", type=Path, default=Path("kernels.png"), help="PNG file (default: %(default)s)")
    given = parser.parse_args(words)
    if given.output.is_dir() or given.output.suffix.lower() != ".png":
        raise InputError(f"--output is {given.output}: expected the name of a PNG file, such as kernels.png")
    from defectlab.data.sources.images import read_grey
    from defectlab.explain.kernels import KERNELS, kernels_figure, parse_kernel
    from defectlab.figures.style import save_png

    kernels = [parse_kernel(text) for text in given.kernel] or KERNELS
    figure = kernels_figure(read_grey(given.image, _LONGEST), kernels)
    save_png(figure, given.output)
    print(f"{len(kernels)} kernel{'s' if len(kernels) > 1 else ''} on {given.image} -> {given.output}")
    return 0
