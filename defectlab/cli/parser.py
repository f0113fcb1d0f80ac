"""LightningCLI with one command a parser, defectlab's groups, and errors of one line."""

import inspect
import itertools
import os
import re
import time
from difflib import get_close_matches
from pathlib import Path
from typing import Any

import jsonargparse
from lightning.pytorch import LightningModule, Trainer
from lightning.pytorch.callbacks import LearningRateMonitor, RichProgressBar
from lightning.pytorch.cli import LightningArgumentParser, LightningCLI
from torch import nn

import defectlab.data
import defectlab.networks
import defectlab.tasks
from defectlab.cli.checkpoint_io import AtomicCheckpointIO
from defectlab.cli.loggers import EpochCSVLogger, EventsLogger
from defectlab.data import ImageDataModule
from defectlab.data.augment import Augmentation
from defectlab.errors import InputError
from defectlab.report.tensorboard import AugmentedSheet
from defectlab.runtime import CPUSettings
from defectlab.tasks import ClassificationTask, OptimizerSettings, SchedulerSettings

__all__ = ["DefectCLI"]

_RUN_VARIABLE = "DEFECTLAB_RUN"
_COMMANDS = {
    "fit": {"model", "train_dataloaders", "val_dataloaders", "datamodule"},
    "validate": {"model", "dataloaders", "datamodule"},
    "test": {"model", "dataloaders", "datamodule"},
}


class DefectCLI(LightningCLI):
    """Parse one command's arguments and build data, model and trainer; what runs is the caller's affair.

    Args:
        command: fit, validate or test.
        words: its arguments, configs already found.
        run: the run folder that the command writes to; None for a new one under `trainer.default_root_dir`.
        name: of the config, for a new run folder.
    """

    def __init__(self, command: str, words: list[str], run: Path | None = None, name: str = "run") -> None:
        self.command = command
        self.run = run
        self.name = name
        strict = {"exit_on_error": False}
        try:
            super().__init__(
                ClassificationTask,
                ImageDataModule,
                save_config_callback=None,
                seed_everything_default=0,
                trainer_defaults={"num_sanity_val_steps": 0, "default_root_dir": "runs"},
                parser_kwargs={**strict, command: strict},
                subclass_mode_model=True,
                subclass_mode_data=True,
                args=[command, *words],
                auto_configure_optimizers=False,
            )
        except jsonargparse.ArgumentError as error:
            raise InputError(explain(str(error))) from None

    def subcommands(self) -> dict[str, set[str]]:  # type: ignore[override]
        """The one command alone: a parser takes a third of a second to build."""
        return {self.command: _COMMANDS[self.command]}

    def add_arguments_to_parser(self, parser: LightningArgumentParser) -> None:
        """CPU settings, and what the model learns from the data."""
        parser.add_class_arguments(CPUSettings, "cpu")
        for source, target in (("num_classes",) * 2, ("channels", "in_channels"), ("image_size",) * 2):
            parser.link_arguments(f"data.{source}", f"model.init_args.{target}", apply_on="instantiate")

    def parse_arguments(self, parser: LightningArgumentParser, args: Any) -> None:
        """Parse; the parent would warn about a list of arguments."""
        self.config = parser.parse_args(args)

    def _parse_ckpt_path(self) -> None:
        """A checkpoint brings tensors, the config everything else; its own weights file is not needed again."""
        config = self.config[self.command]
        if config.ckpt_path is not None and "weights" in (config.model.init_args or {}):
            config.model.init_args.weights = None

    def before_instantiate_classes(self) -> None:
        """Settings of the process come before the first tensor."""
        CPUSettings(**self.config[self.command].cpu.as_dict()).apply()

    def instantiate_trainer(self, **kwargs: Any) -> Trainer:
        """A trainer that writes into the run folder alone."""
        config = self._get(self.config_init, "trainer")
        if self.run is None:
            self.run = new_run_folder(Path(config["default_root_dir"]), self.name)
        callbacks = list(config["callbacks"] or [])
        loggers: Any = config["logger"]
        if loggers in (None, True):
            loggers = False
            if self.command == "fit" and not config["fast_dev_run"]:
                loggers = [EventsLogger(self.run.parent, "", self.run.name), EpochCSVLogger(self.run / "metrics.csv")]
                callbacks += [LearningRateMonitor(), AugmentedSheet()]
        if config["enable_progress_bar"] is not False:
            callbacks.append(ProgressBar())
        plugins = config["plugins"] or []
        return super().instantiate_trainer(
            default_root_dir=str(self.run),
            logger=loggers,
            callbacks=callbacks,
            plugins=[*(plugins if isinstance(plugins, list) else [plugins]), AtomicCheckpointIO()],
            enable_model_summary=False,
            **kwargs,
        )

    def _run_subcommand(self, subcommand: str) -> None:
        """Nothing: the caller runs what it needs."""

    def dump(self) -> str:
        """The whole config as YAML: this text alone repeats the run."""
        parser, config = self._parser(self.command), self.config[self.command].clone()
        for key in ("config", "ckpt_path", "weights_only"):
            config.pop(key, None)
        return str(parser.dump(config, skip_none=False, skip_validation=True))


class ProgressBar(RichProgressBar):
    """Lightning's, without the version number that is no number here."""

    def get_metrics(self, trainer: Trainer, pl_module: LightningModule) -> dict[str, int | str | float | dict[str, float]]:
        """What stands at the end of the bar."""
        metrics = super().get_metrics(trainer, pl_module)
        metrics.pop("v_num", None)
        return metrics


def new_run_folder(root: Path, name: str) -> Path:
    """A path that does not exist yet: root/name/YYYYmmdd-HHMMSS; every process of one run gets the same."""
    if "LOCAL_RANK" in os.environ and _RUN_VARIABLE in os.environ:
        return Path(os.environ[_RUN_VARIABLE])
    stamp = time.strftime("%Y%m%d-%H%M%S")
    run = root / name / stamp
    for number in itertools.count(2):
        if not run.exists():
            break
        run = root / name / f"{stamp}-{number}"
    os.environ[_RUN_VARIABLE] = str(run)  # for the processes that DDP starts from this one
    return run


def explain(message: str) -> str:
    """One line from jsonargparse's report: where, what, and the nearest right name."""
    place = _first(r"Problem with given class_path '([\w.]+)'", message)
    key = _first(r"(?:Option|option|nested key|Key) ['\"]([^'\"]+)['\"]", message)
    if key is None:
        key = _first(r"[Uu]nrecognized arguments?:? (?:--)?([\w.]+)", message)
    if key is not None:
        group = _first(r"Group '([\w.]+)'", message)
        where = ".".join(part for part in (_short(place), group) if part)
        near = _near(key.split(".")[-1], _parameters(place, group))
        return f"unknown key {key}{f' of {where}' if where else ''}{near}"
    name = _first(r"(?:dot import path string|import path|class_path)[:\s]+'?([\w.]+)'?", message)
    if name is not None and place != name:
        return f"there is no class {name}{_near(name.split('.')[-1], _classes())}"
    return message


def _first(pattern: str, text: str) -> str | None:
    found = re.findall(pattern, text)
    return found[-1] if found else None


def _short(path: str | None) -> str | None:
    return path.rsplit(".", 1)[-1] if path else None


def _near(name: str, names: list[str]) -> str:
    near = get_close_matches(name, names, n=1, cutoff=0.5)
    return f": did you mean {near[0]}?" if near else f": expected one of {', '.join(sorted(names))}"


def _classes() -> list[str]:
    packages = (defectlab.data, defectlab.tasks, defectlab.networks)
    return [name for package in packages for name in package.__all__ if name[0].isupper()]


def _parameters(place: str | None, group: str | None) -> list[str]:
    """Names that would have been right at a place."""
    groups: dict[str, Any] = {
        "optimizer": OptimizerSettings, "scheduler": SchedulerSettings, "augmentation": Augmentation,
        "trainer": Trainer, "cpu": CPUSettings,
    }  # fmt: skip
    if group and group.split(".")[-1] in groups:
        return list(inspect.signature(groups[group.split(".")[-1]]).parameters)
    if place:
        for package in (defectlab.data, defectlab.tasks, defectlab.networks):
            cls = getattr(package, place.rsplit(".", 1)[-1], None)
            if isinstance(cls, type) and issubclass(cls, ImageDataModule | ClassificationTask | nn.Module):
                return list(inspect.signature(cls).parameters)
    return [*inspect.signature(Trainer).parameters, "trainer", "model", "data", "cpu", "seed_everything", "config"]
