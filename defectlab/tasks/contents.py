"""Read what a .ckpt file holds, without Lightning, which takes two seconds to import, and without running code of it."""

from collections.abc import Callable, Mapping
from contextlib import nullcontext
from pathlib import Path
from typing import Any, TypeVar

import torch
from torch import Tensor, nn
from torch.overrides import TorchFunctionMode

from defectlab.errors import InputError
from defectlab.networks.novelty import NoveltyScorer
from defectlab.utils.card import DataCard
from defectlab.utils.image_format import sides
from defectlab.utils.tensors import check_finite, first_mismatch, read_tensors
from defectlab.utils.text import first_line

_ADVICE = "expected a whole .ckpt file written by defectlab fit; use another checkpoint of the run, or train again"
_DRAWS = (
    Tensor.normal_, Tensor.uniform_, nn.init.normal_, nn.init.uniform_, nn.init.kaiming_normal_, nn.init.kaiming_uniform_,
)  # fmt: skip
_Module = TypeVar("_Module", bound=nn.Module)


class _WithoutDraws(TorchFunctionMode):
    """Leave the first weights undrawn: without memory, drawing them imports torch's compiler, a second; else it is in vain."""

    def __torch_function__(
        self, function: Any, types: Any, args: tuple[Any, ...] = (), kwargs: dict[str, Any] | None = None
    ) -> Any:
        given = kwargs or {}
        return given.get("tensor", *args[:1]) if function in _DRAWS else function(*args, **given)


def read_checkpoint(path: Path) -> dict[str, Any]:
    """Read a checkpoint: tensors and plain values.

    Raises:
        InputError: no such file, a damaged one, one that carries code, weights that are not finite, or no checkpoint of
            Lightning's.
    """
    if not path.is_file():
        raise InputError(
            f"there is no checkpoint {path}: expected a .ckpt file of a run, such as checkpoints/best.ckpt"
        )
    checkpoint: Any = read_tensors(path, _ADVICE, archive=True)
    parts = [checkpoint.get(key) for key in ("state_dict", "hyper_parameters")] if isinstance(checkpoint, dict) else []
    if not parts or not all(isinstance(part, dict) and all(isinstance(key, str) for key in part) for part in parts):
        raise InputError(f"{path} is not a run's checkpoint: expected one written by defectlab fit")
    check_finite(checkpoint["state_dict"], path, _ADVICE)
    read: dict[str, Any] = checkpoint
    return read


def data_state(checkpoint: dict[str, Any], path: Path) -> dict[str, Any]:
    """Return what the datamodule wrote into the checkpoint: see `ImageDataModule.describe`.

    Raises:
        InputError: it wrote nothing.
    """
    for value in checkpoint.values():
        if isinstance(value, dict) and {"class_names", "mean", "std", "image_size", "channels"} <= set(value):
            return value
    raise InputError(f"{path} does not know its classes: expected a checkpoint written by defectlab fit")


def thresholds_of(checkpoint: Mapping[str, Any], count: int) -> list[float]:
    """Return the thresholds of the classes of a multi-label task; InputError for what are none."""
    found = checkpoint.get("thresholds")
    if (
        not isinstance(found, list)
        or len(found) != count
        or not all(isinstance(x, float) and 0 <= x <= 1 for x in found)
    ):
        raise InputError(f"the checkpoint has the thresholds {str(found)[:60]}: expected {count} numbers from 0 to 1")
    return list(found)


def scorer_of(checkpoint: Mapping[str, Any]) -> NoveltyScorer | None:
    """Return the novelty scorer of a checkpoint; None of an older one, InputError for a damaged one."""
    state = checkpoint.get("novelty")
    return None if state is None else NoveltyScorer.from_state(state)


def card_of(checkpoint: dict[str, Any], path: Path) -> DataCard:
    """Return the data card of a checkpoint; InputError for one that cannot be used, or is of another number of classes."""
    try:
        card = DataCard.from_dict(data_state(checkpoint, path))
    except InputError as error:
        raise InputError(f"{path}: {error}") from None
    described = {"num_classes": len(card.class_names), "in_channels": card.channels, "image_size": card.image_size}
    for name, value in described.items():
        given = checkpoint["hyper_parameters"].get(name)
        if given is not None and given != value and given != list(sides(card.image_size)):
            raise InputError(f"{path}: by its data card {name} is {value}, by its network {str(given)[:20]}")
    return card


def build_like(
    make: Callable[[], _Module], state: Mapping[str, Any], path: Path, load: Callable[[_Module], object], ours: bool
) -> _Module:
    """Build a module and load it, in evaluation mode on the CPU, if its tensors have the names and shapes of `state`.

    That is told before memory is taken for them. A constructor that is not `ours` may need numbers, and is then called
    once, for good. The caller's random numbers stay as they were: the first weights are random.

    Raises:
        InputError: another network, or arguments that its class refuses.
    """
    try:
        with torch.random.fork_rng(devices=[]):
            try:
                with torch.device("meta"), _WithoutDraws():
                    planned = make()
            except Exception:
                if ours:
                    raise
            else:
                if mismatch := first_mismatch(state, planned.state_dict()):
                    raise InputError(mismatch)
            with _WithoutDraws() if ours else nullcontext():
                module = make()
        load(module)
    except InputError as error:
        raise InputError(f"{path} cannot be loaded: {error}") from None
    except Exception as error:  # of any constructor, for any arguments
        raise InputError(
            f"{path} does not fit its network in this version ({type(error).__name__}: {first_line(error)[:150]}): use the "
            "version of defectlab that wrote it, or train again"
        ) from None
    return module.eval()
