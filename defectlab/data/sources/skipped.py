"""Images that cannot be used are left out, with the reason, or are an error."""

from dataclasses import dataclass

from defectlab.errors import InputError


@dataclass(frozen=True)
class Skipped:
    """An image that was left out, and why."""

    file: str
    reason: str

    def __str__(self) -> str:
        return f"{self.file}: {self.reason}"


def check_on_bad_image(value: str) -> None:
    """Raise InputError unless the value is `error` or `skip`."""
    if value not in ("error", "skip"):
        raise InputError(f"on_bad_image is {value!r}: expected error, or skip to leave bad images out")
