"""`defectlab configs [NAME]`: list the shipped configs, or print one."""

from defectlab.cli.arguments import CommandParser
from defectlab.engine.configs import base_of, find_config
from defectlab.utils.resources import shipped_configs


def run(words: list[str]) -> int:
    """`defectlab configs [NAME]`."""
    parser = CommandParser("defectlab configs", "List the shipped configs, or print one.")
    parser.add_argument("name", nargs="?", help="of the config to print")
    name = parser.parse_args(words).name
    if name:
        path = find_config(name)
        print(path.read_text(encoding="utf-8"), end="")
        if base_of(path) is not None:
            print(f"# Laid over its base; the two as one: defectlab fit --config {name} --print_config")
        return 0
    configs = shipped_configs()
    course = [config for config, path in configs.items() if path.parent.name == "course"]
    for config, path in configs.items():
        if course and config == course[0]:
            print("\nThe course, one option a config (docs/course.md):")
        first = path.read_text(encoding="utf-8").splitlines()[0]
        print(f"{config:<26} {first.lstrip('# ')}")
    return 0
