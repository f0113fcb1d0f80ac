"""`defectlab adapt IMAGES... --output FILE`: better weights for few labels, from many images without."""

from inspect import signature

from defectlab.cli.arguments import CommandParser
from defectlab.engine.adapt import adapt_weights


def run(words: list[str]) -> int:
    """Write adapted weights, and print how to use them."""
    parser = CommandParser("defectlab adapt", "Adapt weights to images without labels: docs/howto/own_images.md.")
    parser.add_argument("images", nargs="+", help="files, folders and globs")
    parser.add_argument("--output", required=True, help="a .safetensors file, for model.weights")
    for name, of in list(signature(adapt_weights).parameters.items())[2:]:
        option = f"--{name.replace('_', '-')}"
        parser.add_argument(option, type=type(of.default), default=of.default, help="%(default)s")
    own = parser.parse_args(words)
    path = adapt_weights(**vars(own))
    print(
        "--model.weights", path, "--model.projection true --model.width", own.width, "--data.image_size", own.image_size
    )
    return 0
