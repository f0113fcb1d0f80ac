"""Read a task and its data card from a .ckpt file without running code from it."""

import inspect
import pickle
import warnings
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch
import yaml

from defectlab.errors import InputError
from defectlab.tasks.base import ClassificationTask
from defectlab.tasks.hparams import add_import_folders, find_class, find_network, named_classes
from defectlab.utils.card import DataCard
from defectlab.utils.text import first_line


def read_checkpoint(path: Path) -> dict[str, Any]:
    """Read a checkpoint: tensors and plain values.

    Raises:
        InputError: no such file, a damaged one, one that carries code, or no checkpoint of Lightning's.
    """
    if not path.is_file():
        raise InputError(
            f"there is no checkpoint {path}: expected a .ckpt file of a run, such as checkpoints/best.ckpt"
        )
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # torch's remarks on the pickle protocol of foreign files
            checkpoint = torch.load(path, map_location="cpu", weights_only=True)
    except pickle.UnpicklingError:
        raise InputError(
            f"{path} holds Python objects besides tensors and plain values, which can run code, or is damaged: it was "
            "refused and nothing in it was run; expected a checkpoint written by defectlab fit"
        ) from None
    except Exception as error:  # a damaged file makes torch.load raise anything
        raise InputError(
            f"{path} is no readable checkpoint ({first_line(error)[:100]}): expected a whole .ckpt file; use another checkpoint "
            "of the run, or train again"
        ) from None
    if not isinstance(checkpoint, dict) or not {"state_dict", "hyper_parameters"} <= set(checkpoint):
        raise InputError(f"{path} is not a run's checkpoint: expected one written by defectlab fit")
    return checkpoint


def check_fit(task: ClassificationTask, checkpoint: dict[str, Any], path: Path) -> None:
    """Refuse a checkpoint of another network before anything is read or written for it.

    Raises:
        InputError: another class count, or a tensor that is missing, too many or of another shape.
    """
    task.on_load_checkpoint(checkpoint)
    ours, theirs = (
        {name: tuple(tensor.shape) for name, tensor in state.items()}
        for state in (task.state_dict(), checkpoint["state_dict"])
    )
    for name in [*ours, *theirs]:
        if ours.get(name) != theirs.get(name):
            found, expected = (shapes.get(name, "absent") for shapes in (theirs, ours))
            raise InputError(
                f"{path} is of another network than the config's: {name} is {found}, expected {expected}; "
                "give the config that it was trained with"
            )


def data_state(checkpoint: dict[str, Any], path: Path) -> dict[str, Any]:
    """Return what the datamodule wrote into the checkpoint: see `ImageDataModule.describe`.

    Raises:
        InputError: it wrote nothing.
    """
    for value in checkpoint.values():
        if isinstance(value, dict) and {"class_names", "mean", "std", "image_size", "channels"} <= set(value):
            return value
    raise InputError(f"{path} does not know its classes: expected a checkpoint written by defectlab fit")


def load_task(path: str | Path) -> tuple[ClassificationTask, DataCard]:
    """Load the task of a checkpoint, in evaluation mode on the CPU, and its data card.

    A user's classes are found if they are imported already, or named by the config.yaml of the checkpoint's run folder.

    Raises:
        InputError: as `read_checkpoint`; or a class that may not be used, or does not fit the tensors.
    """
    path = Path(path)
    checkpoint = read_checkpoint(path)
    try:
        card = DataCard.from_dict(data_state(checkpoint, path))
    except InputError as error:
        raise InputError(f"{path}: {error}") from None
    given = checkpoint["hyper_parameters"]
    trusted = _trusted(path)
    try:
        cls = find_class(str(checkpoint.get("task", "")), ClassificationTask, trusted)
        arguments = {name: value for name, value in given.items() if name in inspect.signature(cls).parameters}
        if isinstance(arguments.get("network"), Mapping):
            arguments["network"] = find_network(arguments["network"], trusted)
        elif "network" in arguments and arguments["network"] is None:
            raise InputError("its network was given as a module, which the class alone does not make")
    except InputError as error:
        raise InputError(f"{path} cannot be loaded: {error}") from None
    try:
        with torch.random.fork_rng(devices=[]):  # its first weights are random: the caller's numbers are left alone
            task: ClassificationTask = cls(**arguments)
        task.on_load_checkpoint(checkpoint)
        task.load_state_dict(checkpoint["state_dict"])
    except InputError:
        raise
    except (TypeError, ValueError, RuntimeError) as error:
        raise InputError(
            f"{path} does not fit {cls.__name__} of this version ({' '.join(str(error).split())[:150]}): use the "
            "version of defectlab that wrote it, or train again"
        ) from None
    return task.eval(), card


def _trusted(path: Path) -> set[str]:
    """Return the class paths in the run folder's config, and add its import folders to Python's import path."""
    config = path.resolve().parent.parent / "config.yaml"
    try:
        content = yaml.safe_load(config.read_text(encoding="utf-8"))
    except (OSError, ValueError, yaml.YAMLError):
        return set()
    if isinstance(content, dict):
        add_import_folders(content.get("python_path") or [])
    return named_classes(content)
