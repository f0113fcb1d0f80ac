"""Read files of tensors and plain values: no code of theirs is run, and what is damaged or not finite is refused."""

import hashlib
import pickle
import pickletools
import re
import zipfile
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from defectlab.errors import InputError
from defectlab.utils.text import first_line

# What torch.save writes of tensors and plain values. torch allows more, as constructors that take a size.
_PLAIN = re.compile(
    r"collections (OrderedDict|defaultdict)|torch(\.storage)? \w+Storage|torch\._utils _rebuild_(tensor_v2|parameter)|"
    r"torch\.nn\.parameter Parameter|torch (Size|device|b?float\w*|u?int\w*|bool|complex\w*)|_codecs encode|"
    r"__builtin__ set|builtins set"
)
# What a network has without learning it, such as the mask of an attention, may be -inf; these may not.
_LEARNED = ("weight", "bias", "running_mean", "running_var")
COUNTER = "num_batches_tracked"  # of BatchNorm: older files lack it, and only a cumulative mean needs it
_HASH = "sha256"  # of the tensors, in the metadata of a .safetensors file


def read_tensors(path: Path, advice: str, archive: bool = False) -> Any:
    """Read the content of a .safetensors file, or of one of torch.save's, on the CPU.

    Args:
        path: the file.
        advice: what to do about a file that is refused, for the end of the error.
        archive: whether only torch.save's zip archives are taken, whose check sums tell what is damaged, and tensors that
            take as many bytes as they hold: a checkpoint says itself how large its network is.

    Raises:
        InputError: no file, a damaged one, objects besides tensors and plain values, tensors that are larger than the
            file, or weights that are not finite.
    """
    if not path.is_file():  # a pipe would be waited for without end
        raise InputError(f"{path} is no file: {advice}")
    try:
        found: Any = _read_safetensors(path) if path.suffix == ".safetensors" else _read_archive(path, archive)
    except Exception as error:  # a damaged file makes torch.load raise anything: IndexError, struct.error…
        raise InputError(f"{path} {_reason(error)}; {advice}") from None
    tensors = list(_tensors(found))
    if any(tensor.layout != torch.strided or tensor.device.type != "cpu" for tensor in tensors):
        raise InputError(f"{path} holds tensors that are none of a network: {advice}")
    storages = {tensor.untyped_storage().data_ptr(): tensor.untyped_storage().nbytes() for tensor in tensors}
    spread = archive and any(tensor.nbytes > tensor.untyped_storage().nbytes() for tensor in tensors)
    if spread or sum(storages.values()) > path.stat().st_size:
        raise InputError(f"{path} holds tensors that are larger than the file: {advice}")
    return found


def check_finite(state: Mapping[str, object], path: Path, advice: str) -> None:
    """Raise InputError for a weight that is NaN or infinite, in tensors by name."""
    for name, tensor in state.items():
        if isinstance(tensor, Tensor) and tensor.is_floating_point() and not bool(tensor.isfinite().all()):
            learned = name.rpartition(".")[2] in _LEARNED
            if learned or bool(tensor.isnan().any()) or bool((tensor == torch.inf).any()):
                raise InputError(f"{path} holds values that are no finite numbers, in {name}: {advice}")


def first_mismatch(theirs: Mapping[str, Tensor], ours: Mapping[str, Tensor], prefix: str = "") -> str:
    """Name the first tensor that only one side has or whose shapes differ; empty if there is none."""
    for key in [*ours, *(key for key in theirs if key not in ours)]:
        shapes = [tuple(side[key].shape) if key in side else "absent" for side in (theirs, ours)]
        if shapes[0] != shapes[1] and not key.endswith(COUNTER):
            return f"{prefix}{key} is {shapes[0]} in the file and {shapes[1]} in the network"
    return ""


def hash_tensors(state: Mapping[str, Tensor]) -> str:
    """Compute the SHA-256, in hex, of tensors and their names."""
    digest = hashlib.sha256()
    for name in sorted(state):
        tensor = state[name].detach().cpu().contiguous()
        digest.update(f"{name} {tensor.dtype} {tuple(tensor.shape)}\n".encode())
        digest.update(tensor.flatten().view(torch.uint8).numpy().tobytes())
    return digest.hexdigest()


def safetensors_bytes(state: Mapping[str, Tensor], metadata: Mapping[str, str]) -> bytes:
    """Return the bytes of a .safetensors file that `read_tensors` can check: the format itself has no check sum."""
    from safetensors.torch import save

    return save(dict(state), metadata={**metadata, _HASH: hash_tensors(state)})


class _Refused(Exception):
    """What was found in a file."""


def _read_safetensors(path: Path) -> dict[str, Tensor]:
    from safetensors import safe_open

    with safe_open(path, framework="pt", device="cpu") as file:
        state = {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118 (no mapping)
        expected = (file.metadata() or {}).get(_HASH)
    if expected is not None and hash_tensors(state) != expected:
        raise _Refused("is damaged: its tensors have another SHA-256 than it says")
    return state


def _read_archive(path: Path, archive: bool) -> Any:
    if zipfile.is_zipfile(path):
        with zipfile.ZipFile(path) as file:
            _check_archive(file, path.stat().st_size)
    elif archive:
        raise _Refused("is no readable checkpoint")
    return torch.load(path, map_location="cpu", weights_only=True)


def _check_archive(file: zipfile.ZipFile, size: int) -> None:
    members = file.infolist()
    if any(member.compress_type != zipfile.ZIP_STORED for member in members):
        raise _Refused("is compressed, which torch.save does not do, and could unpack to more than there is memory")
    if sum(member.file_size for member in members) > size:
        raise _Refused("is damaged: its parts are larger than the file")
    broken = file.testzip()
    if broken is not None:
        raise _Refused(f"is damaged: the check sum of {broken} is another one")
    for member in members:
        if member.filename.endswith("data.pkl"):
            for operation, argument, _ in pickletools.genops(file.read(member)):
                if "GLOBAL" in operation.name and not _PLAIN.fullmatch(str(argument)):
                    raise _Refused(f"holds Python objects besides tensors and plain values ({argument})")


def _tensors(value: Any, depth: int = 0) -> Iterator[Tensor]:
    """Find the tensors in nested dicts and lists."""
    if isinstance(value, Tensor):
        yield value
    elif isinstance(value, Mapping | list | tuple | set) and depth < 8:
        for item in value.values() if isinstance(value, Mapping) else value:
            yield from _tensors(item, depth + 1)


def _reason(error: Exception) -> str:
    if isinstance(error, pickle.UnpicklingError):  # torch's own text is a page of advice to trust the file
        name = str(error).partition("GLOBAL ")[2].partition(" ")[0]
        error = _Refused(f"holds more than tensors ({name})" if name else "is damaged, or holds more than tensors")
    if isinstance(error, _Refused):
        return f"{error}: nothing in it was run"
    return f"is damaged, or no file of tensors ({type(error).__name__}: {first_line(error)[:100]})"
