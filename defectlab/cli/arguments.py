"""argparse for the commands that are not Lightning's, with errors of one line."""

import argparse
from pathlib import Path
from typing import NoReturn

from defectlab.errors import InputError


class CommandParser(argparse.ArgumentParser):
    """Parse the arguments of one command; without abbreviations, as one day they would mean something else."""

    def __init__(self, prog: str, description: str | None = None) -> None:
        super().__init__(prog, description=description, allow_abbrev=False)

    def parse_with_folder(self, words: list[str]) -> tuple[Path | None, argparse.Namespace, list[str]]:
        """A folder if one is named before all options, the options that are known, and the rest, which is for fit.

        With a positional argument argparse would take the value of an option of fit's for the folder.
        """
        folder = Path(words[0]) if words and not words[0].startswith("-") else None
        return folder, *self.parse_known_args(words if folder is None else words[1:])

    def error(self, message: str) -> NoReturn:
        """Raise InputError where argparse would print its usage and exit."""
        raise InputError(f"{message}; see {self.prog} --help")


def output_file(text: str) -> Path:
    """Return the path of a file to write; a folder, a device or a pipe is no place for one."""
    path = Path(text)
    if path.exists() and not path.is_file():
        kind = "a folder" if path.is_dir() else "a device or a pipe"
        raise argparse.ArgumentTypeError(f"{text} is {kind}: expected the name of a file")
    return path


def png_file(text: str) -> Path:
    """Return the path of a PNG file to write."""
    if Path(text).suffix.lower() != ".png":
        raise argparse.ArgumentTypeError(f"{text} is none: expected the name of a .png file")
    return output_file(text)


def take_option(name: str, words: list[str]) -> tuple[str | None, list[str]]:
    """Return the value of an option that is none of Lightning's, and the other words."""
    rest: list[str] = []
    found: str | None = None
    given = iter(words)
    for word in given:
        option, equals, value = word.partition("=")
        if option != f"--{name}":
            rest.append(word)
            continue
        found = value if equals else next(given, "")
        if not found or found.startswith("--"):
            raise InputError(f"--{name} has no value: expected a path")
    return found, rest
