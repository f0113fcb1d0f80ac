"""Atomic replacement of files."""

import os
import uuid
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

from defectlab.errors import InputError


@contextmanager
def atomic(path: Path, advice: str = "choose another place", sync: bool = False) -> Iterator[Path]:
    """Yield a path beside `path` to write to: it replaces `path` if the block ends well, and is removed otherwise.

    A reader finds the old file or the new one, never a part. Missing folders are made.

    Args:
        path: The file to replace.
        advice: What to do about a file that cannot be written, for the end of the error.
        sync: Flush to the disk before the replacement, against a power cut.

    Raises:
        InputError: The place cannot be written to, the disk is full, or the block raised OSError.
    """
    draft = path.with_name(f".{path.name}.{uuid.uuid4().hex[:8]}.tmp")
    try:
        if path.exists() and not path.is_file():
            raise OSError(f"it is a {'folder' if path.is_dir() else 'device or a pipe'}")
        path.parent.mkdir(parents=True, exist_ok=True)
        yield draft
        if sync:
            with draft.open("rb+") as file:
                os.fsync(file.fileno())
        os.replace(draft, path)
    except OSError as error:
        raise InputError(f"{path} cannot be written ({error.strerror or error}); {advice}") from None
    finally:
        with suppress(OSError):  # renamed by now, or never begun
            draft.unlink()
