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
        parser.add_argument(
            f"--{name.replace('_', '-')}", type=type(of.default), default=of.default, help="(%(default)s)"
        )
    given = parser.parse_args(words)
    path = adapt_weights(**vars(given))
    print(f"weights      {path}   --model.weights {path} --model.projection true --data.image_size {given.image_size}")
    return 0
