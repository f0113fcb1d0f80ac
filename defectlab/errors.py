"""The one error that a user's input can end in."""


class InputError(ValueError):
    """Something the user gave cannot be used.

    The message is a single line that says what was found, what was expected and what to do, and names
    the file or the argument. The command line prints it without a traceback and exits with status 1.
    """


def check_at_least(name: str, value: int, least: int) -> None:
    """Raise InputError unless the argument called `name` is at least `least`."""
    if value < least:
        raise InputError(f"{name} is {value}: expected a whole number of at least {least}")
