"""Every private part of a dependency, each with a check of the shape it relies on: a change raises one line.

Heavy packages are imported inside the functions, as every package of defectlab's uses this module.
"""

from __future__ import annotations

import atexit
import inspect
import os
import re
import sys
import threading
from collections.abc import Callable, Mapping
from importlib import import_module, metadata
from pathlib import Path
from typing import TYPE_CHECKING, Any

from torch import nn

if TYPE_CHECKING:
    import subprocess

    import lightning.pytorch as pl
    from lightning.pytorch.callbacks import WeightAveraging
    from lightning.pytorch.cli import LightningArgumentParser, LightningCLI
    from torch.optim.swa_utils import AveragedModel

try:
    # Named in torch's notes on extending it, though its module is private.
    from torch.utils._python_dispatch import TorchDispatchMode as TorchDispatchMode
except ImportError:  # pragma: no cover
    raise ImportError("torch.utils._python_dispatch.TorchDispatchMode is gone: install an older torch") from None


def _require(found: bool, package: str, part: str) -> None:
    """Raise RuntimeError, which names the part of the release, unless it was found."""
    if not found:
        raise RuntimeError(
            f"{package} {metadata.version(package)} has no {part} as defectlab expects it: install an older {package}, "
            "or a newer defectlab"
        )


def _takes(function: Any, *names: str) -> bool:
    return callable(function) and list(inspect.signature(function).parameters)[: len(names)] == list(names)


# Python


def end_process(status: int) -> None:
    """End the process when its `atexit` functions are done: taking torch apart takes 0.4 s and 130 MB.

    It returns, for the ordinary end, where threads still work, output cannot be written, or Python has no such functions.
    """
    working = any(not thread.daemon for thread in threading.enumerate() if thread is not threading.main_thread())
    if working or not hasattr(atexit, "_run_exitfuncs"):
        return
    atexit._run_exitfuncs()
    try:
        sys.stdout.flush()
        sys.stderr.flush()
    except (OSError, ValueError):  # Python tells it
        return
    os._exit(status)


# Lightning's command line


def check_cli(cli: type[LightningCLI]) -> None:
    """Check that the methods which DefectCLI overrides are still those that Lightning calls."""
    called = cli.__init__.__code__.co_names  # in the bytecode: an installation may come without its source
    for name, arguments in (("_parse_ckpt_path", ("self",)), ("_run_subcommand", ("self", "subcommand"))):
        _require(_takes(getattr(cli, name, None), *arguments) and name in called, "lightning", f"cli.{name}")
    _require(_takes(getattr(cli, "subcommands", None)), "lightning", "cli.subcommands")


def cli_section(cli: LightningCLI, config: Any, key: str) -> Any:
    """Return a section of the one command's config."""
    _require(_takes(getattr(type(cli), "_get", None), "self", "config", "key"), "lightning", "cli._get")
    return cli._get(config, key)


def cli_parser(cli: LightningCLI, command: str) -> LightningArgumentParser:
    """Return the parser of a command."""
    _require(_takes(getattr(type(cli), "_parser", None), "self", "subcommand"), "lightning", "cli._parser")
    return cli._parser(command)


# Lightning's trainer


def script_children(trainer: pl.Trainer) -> list[subprocess.Popen[bytes]] | None:
    """Return the processes that Lightning started for this one; None where it starts none."""
    from lightning.pytorch.strategies.launchers import _SubprocessScriptLauncher

    launcher = trainer.strategy.launcher
    if not isinstance(launcher, _SubprocessScriptLauncher):
        return None
    _require(isinstance(getattr(launcher, "procs", None), list), "lightning", "_SubprocessScriptLauncher.procs")
    return list(launcher.procs)


def starts_by_copying(trainer: pl.Trainer) -> bool:
    """Return whether Lightning trains in processes that it copies this one to: spawned or forked."""
    from lightning.pytorch.strategies.launchers import _MultiProcessingLauncher

    return isinstance(trainer.strategy.launcher, _MultiProcessingLauncher)


def setup_training_data(trainer: pl.Trainer) -> None:
    """Set up the training loader before Lightning does, which then keeps it."""
    _require(_takes(getattr(trainer.fit_loop, "setup_data", None)), "lightning", "fit_loop.setup_data")
    trainer.fit_loop.setup_data()


def rebuild_optimizers(trainer: pl.Trainer) -> None:
    """Call the task's `configure_optimizers` again."""
    _require(
        _takes(getattr(trainer.strategy, "setup_optimizers", None), "trainer"), "lightning", "strategy.setup_optimizers"
    )
    trainer.strategy.setup_optimizers(trainer)


def limit_steps(trainer: pl.Trainer, steps: int) -> None:
    """Set the number of optimiser steps that training ends after, -1 for none."""
    loop = getattr(trainer.fit_loop, "epoch_loop", None)
    _require(getattr(loop, "max_steps", None) == trainer.max_steps, "lightning", "fit_loop.epoch_loop.max_steps")
    trainer.fit_loop.epoch_loop.max_steps = steps


def finds_unused_parameters(strategy: Any) -> bool:
    """Return whether a DDP strategy looks for parameters without a gradient."""
    _require(isinstance(getattr(strategy, "_ddp_kwargs", None), dict), "lightning", "DDPStrategy._ddp_kwargs")
    return bool(strategy._ddp_kwargs.get("find_unused_parameters"))


def relocate_checkpoints(state: dict[str, Any], folder: Path) -> None:
    """Move the paths in a ModelCheckpoint's state to the folder that its checkpoint lies in now.

    In another folder than its own ModelCheckpoint would forget its best score.
    """
    keys = ("best_model_path", "kth_best_model_path", "last_model_path")
    _require({*keys, "dirpath", "best_k_models"} <= state.keys(), "lightning", "ModelCheckpoint.state_dict")
    state["dirpath"] = str(folder)
    for key in keys:
        if state[key]:
            state[key] = str(folder / Path(state[key]).name)
    state["best_k_models"] = {str(folder / Path(path).name): score for path, score in state["best_k_models"].items()}


# Lightning's WeightAveraging


def averaged_model(callback: WeightAveraging) -> AveragedModel | None:
    """Return the average; None before `setup`."""
    _require(hasattr(callback, "_average_model"), "lightning", "WeightAveraging._average_model")
    return callback._average_model


def drop_averaged_model(callback: WeightAveraging) -> None:
    """Remove the average."""
    averaged_model(callback)
    callback._average_model = None


def last_averaged_step(callback: WeightAveraging) -> int:
    """Return the step of the last update."""
    _require(hasattr(callback, "_latest_update_step"), "lightning", "WeightAveraging._latest_update_step")
    return int(callback._latest_update_step)


def add_averaged_step(callback: WeightAveraging, step: int) -> None:
    """Set the step of the last update."""
    last_averaged_step(callback)
    callback._latest_update_step = step


# torch and torchvision


def without_length(state: Mapping[str, Any]) -> dict[str, Any]:
    """Return the state of a OneCycleLR without what depends on the length of the run."""
    length = ("total_steps", "_schedule_phases")
    _require(set(length) <= state.keys(), "torch", "OneCycleLR.state_dict with total_steps and _schedule_phases")
    return {name: value for name, value in state.items() if name not in length}


def operator_name(operator: Any) -> str:
    """Return the name of an ATen operator without its overload, such as `conv2d`."""
    name = getattr(getattr(operator, "overloadpacket", None), "__name__", None)
    _require(isinstance(name, str), "torch", "OpOverload.overloadpacket")
    return str(name)


def torchvision_models() -> Any:
    """Return `torchvision.models`, with `get_model` and `get_model_weights` of the backbones at least.

    Without what torchvision imports beside: 1.3 s and 170 MB. The ordinary import serves where torchvision is imported
    already, and where its files are not as `_torchvision` expects them.
    """
    if "torchvision" not in sys.modules:
        try:
            return import_module("defectlab.utils._torchvision").models
        except Exception:  # whatever another release does
            pass
    return import_module("torchvision.models")


def vgg_features(configuration: str) -> nn.Sequential:
    """Return the layers of torchvision's VGG without BatchNorm: its constructor would draw the classifier, too."""
    vgg = torchvision_models().vgg
    found = _takes(getattr(vgg, "make_layers", None), "cfg", "batch_norm") and configuration in getattr(vgg, "cfgs", ())
    _require(found, "torchvision", "models.vgg.make_layers and cfgs")
    layers: nn.Sequential = vgg.make_layers(vgg.cfgs[configuration], batch_norm=False)
    return layers


def timm_filter(network: nn.Module) -> Callable[[dict[str, Any], nn.Module], dict[str, Any]]:
    """Return what brings tensors from a file to the names and image size of a network of timm's, which it takes, too."""
    found = getattr(sys.modules[type(network).__module__], "checkpoint_filter_fn", None)
    if found is None:
        return lambda state, network: state
    _require(_takes(found, "state_dict", "model"), "timm", "checkpoint_filter_fn")
    filter_: Callable[[dict[str, Any], nn.Module], dict[str, Any]] = found
    return filter_


# jsonargparse's sentences


class ArgumentMessage:
    """The parts of an error message of jsonargparse; a part that a release words differently is None or empty.

    Attributes:
        text: the whole message.
        head: its first report, which is of the innermost place.
        place: key of the argument, such as `model.optimizer`.
        class_paths: the classes whose arguments were parsed, the innermost last.
        unknown_key: below its group.
        missing_class: name of a class that does not exist.
        wrong_subclass: the class that was given, and the base that was expected.
        missing_arguments: their keys.
        no_sections: text that was given where a mapping was expected.
        expected_types: as `<class 'int'>` or `typing.Literal['a']`.
        given_value: the value that has none of these types.
        no_class_spec: value that was given in place of a class.
        stray_words: words that follow no option.
    """

    def __init__(self, message: str) -> None:
        self.text = " ".join(message.split())
        self.head = self.text.partition(" Given value type")[0]
        self.place = ".".join(dict.fromkeys(re.findall(r'Parser key "([^"]+)"', self.head)))
        self.class_paths = re.findall(r"Got value: Namespace\(class_path='([\w.]+)'", self.head) or re.findall(
            r"given class_path '([\w.]+)'", self.head
        )
        key, group = self._first(
            r"ption '([^']+)' is not accepted|does not accept option '([^']+)'|unrecognized arguments: --([^\s=]+)|"
            r"Unexpected config: (\w+):"
        ), self._first(r"Group '([\w.]+)'")  # fmt: skip
        self.unknown_key = f"{group}.{key}" if key and group else key
        self.missing_class = self._first(
            r"Expected a dot import path string: (\S+)|module '[\w.]+' has no attribute '(\w+)'|"
            r"No module named '([\w.]+)'"
        )
        wrong = re.search(r"Import path (\S+) does not correspond to a subclass of (\w+)", self.head)
        self.wrong_subclass = (wrong[1], wrong[2]) if wrong else None
        missing = self._first(r"the following arguments are required: ([\w., ]+?)(?: -|$)")
        self.missing_arguments = missing.split(", ") if missing else []
        self.no_sections = self._first(r"Unable to load config '?([^'\s]+)")
        expected = r"Expected a (typing\.Literal\[[^\]]*\]|<class '[\w.]+'>)"
        self.expected_types = re.findall(expected, self.head.partition(" Got value")[0])
        given = re.search(r"Given value: (.*?)(?: - |$)", self.text)
        self.given_value = self._first(r"Got value: (.*?)(?:\. Got value.*)?(?: - .*)?$") or (
            given[1] if given else None
        )
        self.no_class_spec = self._first(r"Expected an import path or a subclass spec, but got (\S+)\.")
        self.stray_words = self._first(r"^unrecognized arguments: (.*)")

    def _first(self, pattern: str) -> str | None:
        found = re.search(pattern, self.head)
        return next((group for group in found.groups() if group), None) if found else None
