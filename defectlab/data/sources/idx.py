"""IDX files, the format of MNIST (LeCun et al. 1998) and Fashion-MNIST, plain or gzipped."""

from __future__ import annotations

import gzip
import math
import struct
import zlib
from collections.abc import Sequence
from pathlib import Path
from typing import BinaryIO, Literal

import numpy as np
import torch
from torch import Tensor

from defectlab.errors import InputError

_DTYPES = {0x08: ">u1", 0x09: ">i1", 0x0B: ">i2", 0x0C: ">i4", 0x0D: ">f4", 0x0E: ">f8"}
_CHUNK_BYTES = 16 * 2**20
_MOST_DIMENSIONS = 4
_MOST_BYTES = 4 * 2**30
_PARTS: tuple[Literal["train", "t10k"], ...] = ("train", "t10k")


def find_idx(folders: Sequence[Path], name: str) -> Path | None:
    """Return the first folder with all four files: a given one, or its `raw`, `<name>` or `<name>/raw`.

    `name` is torchvision's folder, MNIST or FashionMNIST, whose files have the same names.
    """
    for folder in folders:
        for place in (folder, folder / "raw", folder / name, folder / name / "raw"):
            if all(_find(place, part, kind) for part in _PARTS for kind in ("images-idx3", "labels-idx1")):
                return place
    return None


def read_idx_pair(folder: Path, part: Literal["train", "t10k"]) -> tuple[Tensor, Tensor]:
    """Read images (N, H, W) uint8 and labels (N,) int64 of one part of a folder that `find_idx` found.

    Raises:
        InputError: a file is missing, damaged or of another kind, or the lengths differ.
    """
    paths = []
    for kind in ("images-idx3", "labels-idx1"):
        path = _find(folder, part, kind)
        if path is None:
            raise InputError(f"{folder}: no file {part}-{kind}-ubyte or {part}-{kind}-ubyte.gz; put it there")
        paths.append(path)
    images, labels = read_idx(paths[0]), read_idx(paths[1])
    for path, data, dim in zip(paths, (images, labels), (3, 1), strict=True):
        if data.dtype != torch.uint8 or data.dim() != dim:
            raise InputError(
                f"{path}: found {data.dtype} of {data.dim()} dimensions, expected uint8 of {dim}; replace it"
            )
    if len(images) != len(labels):
        raise InputError(
            f"{paths[0]} holds {len(images)} images and {paths[1]} {len(labels)} labels; "
            "expected as many of both, replace the files"
        )
    return images, labels.long()


def read_idx(path: Path) -> Tensor:
    """Read the array in an IDX file, gzipped or not whatever its name; InputError if it is not whole."""
    try:
        with open(path, "rb") as raw:
            zipped = raw.read(2) == b"\x1f\x8b"
            raw.seek(0)
            if not zipped:
                return _parse(path, raw)
            with gzip.open(raw) as stream:
                return _parse(path, stream)  # type: ignore[arg-type]  # a GzipFile reads like any binary file
    except (EOFError, zlib.error, gzip.BadGzipFile) as error:
        raise InputError(f"{path}: damaged or cut short ({error}); expected a whole gzip file, replace it") from None
    except OSError as error:
        raise InputError(f"{path}: {error.strerror}; expected an IDX file that can be read") from None


def _parse(path: Path, stream: BinaryIO) -> Tensor:
    head = stream.read(4)
    if len(head) < 4 or head[:2] != b"\0\0" or head[2] not in _DTYPES or not 0 < head[3] <= _MOST_DIMENSIONS:
        raise InputError(f"{path}: begins with {head!r}, expected the magic number of an IDX file; replace it")
    sizes = stream.read(4 * head[3])
    if len(sizes) < 4 * head[3]:
        raise InputError(f"{path}: ends within its header, expected an IDX file; replace it")
    shape = struct.unpack(f">{head[3]}I", sizes)
    dtype = np.dtype(_DTYPES[head[2]])
    wanted = math.prod(shape) * dtype.itemsize
    if not 0 < wanted <= _MOST_BYTES:
        raise InputError(
            f"{path}: its header {list(shape)} says {wanted:,} bytes, expected 1 to {_MOST_BYTES:,}; replace it"
        )
    data = bytearray()
    # In chunks: a wrong header may ask for more than there is memory. One byte more tells a longer file.
    while chunk := stream.read(min(_CHUNK_BYTES, wanted + 1 - len(data))):
        data += chunk
    if len(data) != wanted:
        found = f"more than {wanted}" if len(data) > wanted else f"only {len(data)}"
        raise InputError(f"{path}: holds {found} bytes of data, its header {list(shape)} says {wanted}; replace it")
    return torch.from_numpy(np.frombuffer(data, dtype).astype(dtype.newbyteorder("=")).reshape(shape))


def _find(folder: Path, part: str, kind: str) -> Path | None:
    # Some copies write a dot where the original has a hyphen.
    names = (f"{part}-{kind}-ubyte", f"{part}-{kind.replace('-', '.')}-ubyte")
    paths = (folder / f"{name}{suffix}" for name in names for suffix in ("", ".gz"))
    return next((path for path in paths if path.is_file()), None)
