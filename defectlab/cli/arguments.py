"""argparse for the commands that are not Lightning's, with errors of one line."""

import argparse
from typing import NoReturn

from defectlab.errors import InputError

__all__ = ["CommandParser"]


class CommandParser(argparse.ArgumentParser):
    """Arguments of one command; no abbreviations, as one day they would mean something else.

    Args:
        prog: the program and the command.
        description: of one sentence.
    """

    def __init__(self, prog: str, description: str | None = None) -> None:
        super().__init__(prog, description=description, allow_abbrev=False)

    def error(self, message: str) -> NoReturn:
        """Raise InputError where argparse would print its usage and exit."""
        raise InputError(f"{message}; see {self.prog} --help")
