"""Load a task and its data card from a .ckpt file without running code from it."""

import inspect
from collections.abc import Collection, Mapping
from pathlib import Path
from typing import Any

from defectlab.errors import InputError
from defectlab.tasks.base import ClassificationTask
from defectlab.tasks.contents import build_like, card_of, data_state, read_checkpoint
from defectlab.tasks.hparams import add_import_folders, find_class, find_network, named_classes, without_downloads
from defectlab.utils.card import DataCard
from defectlab.utils.tensors import first_mismatch
from defectlab.utils.typed import check_arguments
from defectlab.utils.yamls import read_yaml

__all__ = ["check_fit", "data_state", "load_task", "read_checkpoint"]

_NEVER = {"weights": None, "compile": False}  # arguments that would open a file, or start a compiler


def check_fit(task: ClassificationTask, checkpoint: dict[str, Any], path: Path) -> None:
    """Refuse a checkpoint of another network before anything is read or written for it.

    Raises:
        InputError: another class count, or a tensor that is missing, too many or of another shape.
    """
    task.on_load_checkpoint(checkpoint)
    if mismatch := first_mismatch(checkpoint["state_dict"], task.state_dict()):
        raise InputError(
            f"{path} is of another network than the config's: {mismatch}; give the config that it was trained with"
        )


def load_task(path: str | Path, allow: Collection[str] = ()) -> tuple[ClassificationTask, DataCard]:
    """Load the task of a checkpoint, in evaluation mode on the CPU, and its data card.

    A checkpoint is data: it makes Python import nothing but defectlab, opens no file of weights and starts no compiler.
    A user's classes are found if they are imported already, named by the config.yaml of the checkpoint's run folder, or
    allowed by name.

    Args:
        path: of a .ckpt file.
        allow: import paths of classes and functions that it may name, such as `mine.networks.Net`.

    Raises:
        InputError: as `read_checkpoint`; or a class that may not be used, or does not fit the tensors.
    """
    path = Path(path)
    checkpoint = read_checkpoint(path)
    card = card_of(checkpoint, path)
    allowed = {*allow, *_named_by_run(path)}
    try:
        cls = find_class(str(checkpoint.get("task", ""))[:200], ClassificationTask, allowed)
        given = {k: v for k, v in checkpoint["hyper_parameters"].items() if k in inspect.signature(cls).parameters}
        given |= {name: value for name, value in _NEVER.items() if name in given}
        network = given.pop("network", None)
        check_arguments(cls, given)
        if isinstance(network, Mapping):
            given["network"] = find_network(without_downloads(network), allowed)
        elif "network" in inspect.signature(cls).parameters:
            raise InputError("its network was given as a module, which the class alone does not make")
    except InputError as error:
        raise InputError(f"{path} cannot be loaded: {error}") from None
    classes = (cls, getattr(given.get("network"), "func", cls))
    ours = all(str(one.__module__).startswith("defectlab.") for one in classes)

    def load(task: ClassificationTask) -> None:
        task.on_load_checkpoint(checkpoint)
        task.load_state_dict(checkpoint["state_dict"])

    task: ClassificationTask = build_like(lambda: cls(**given), checkpoint["state_dict"], path, load, ours)
    return task, card


def _named_by_run(path: Path) -> set[str]:
    """Return the class paths in the run folder's config, and add its import folders to Python's import path."""
    config = path.resolve().parent.parent / "config.yaml"
    try:
        content = read_yaml(config)
    except InputError:
        return set()
    if isinstance(content, dict):
        add_import_folders(content.get("python_path") or [])
    return named_classes(content)
