"""Text files that are replaced in one step."""

import os
from contextlib import suppress
from pathlib import Path

from defectlab.errors import InputError


def write_text(path: Path, text: str) -> None:
    """Write a file in one step: a reader finds the old text or the new, never half of it.

    Raises:
        InputError: the place cannot be written to.
    """
    draft = path.with_name(f".{path.name}.{os.getpid()}.tmp")
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        # surrogateescape: a file name that is not UTF-8 goes out with the bytes it came with
        draft.write_text(text, encoding="utf-8", errors="surrogateescape", newline="\n")
        os.replace(draft, path)
    except OSError as error:
        raise InputError(f"{path} cannot be written ({error.strerror}); choose another place") from None
    finally:
        with suppress(OSError):  # gone already, or there was no such folder
            draft.unlink()
