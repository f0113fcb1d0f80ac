"""Parse a command's arguments by LightningCLI, with defectlab's groups and errors of one line."""

import shutil
from collections.abc import Iterator, Sequence
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any

import jsonargparse
import jsonargparse.typing
import yaml
from lightning.fabric.utilities.exceptions import MisconfigurationException
from lightning.pytorch import Trainer
from lightning.pytorch.callbacks import ModelCheckpoint
from lightning.pytorch.cli import LightningArgumentParser, LightningCLI

from defectlab.callbacks.progress import EpochLines
from defectlab.data import ImageDataModule
from defectlab.engine.checkpoint_io import AtomicCheckpointIO
from defectlab.engine.configs import (
    check_imports,
    config_sections,
    import_folders,
    own_network,
    resolve_config_arguments,
    upgraded,
)
from defectlab.engine.host import as_guest
from defectlab.engine.loggers import EpochCSVLogger, EventsLogger
from defectlab.engine.messages import explain, unknown_key
from defectlab.errors import InputError
from defectlab.runs.create import claim_run_folder, new_run_folder
from defectlab.runs.locate import checkpoint_of
from defectlab.tasks import ClassificationTask
from defectlab.tasks.hparams import NetworkSpec
from defectlab.utils._compat import check_cli, cli_parser, cli_section
from defectlab.utils.cpu import CPUSettings

jsonargparse.typing.register_type(NetworkSpec, NetworkSpec.as_dict, own_network, fail_already_registered=False)

LINKS = {"num_classes": "num_classes", "channels": "in_channels", "image_size": "image_size"}  # data to model
_COMMANDS = {
    "fit": {"model", "train_dataloaders", "val_dataloaders", "datamodule"},
    "validate": {"model", "dataloaders", "datamodule"},
    "test": {"model", "dataloaders", "datamodule"},
}


class DefectCLI(LightningCLI):
    """Parse one command's arguments and build data, model and trainer; the caller runs them.

    Args:
        command: fit, validate or test.
        words: its arguments, configs already found.
        run: run folder that the command writes to; None for a new one.
        name: name of the config, for a new run folder.
        read_weights: whether to read or download pretrained weights; without, they are random.
        output: path of a new run folder; None for one under `trainer.default_root_dir` with the name and the time.
        progress: whether to print a line an epoch, unless the config says no.
    """

    def __init__(
        self,
        command: str,
        words: list[str],
        run: Path | None = None,
        name: str | None = None,
        read_weights: bool = True,
        output: Path | None = None,
        progress: bool = True,
    ) -> None:
        self.command = command
        self.read_weights = read_weights
        self.run = run.resolve() if run else None
        self.name = name
        self.progress = progress
        self._output = output
        self._made: list[Path] = []
        self.weights: str | None = None  # as given, also where a checkpoint takes their place
        strict = {"exit_on_error": False, "allow_abbrev": False}
        check_cli(LightningCLI)
        try:
            super().__init__(
                ClassificationTask,
                ImageDataModule,
                save_config_callback=None,
                seed_everything_default=0,
                trainer_defaults={"num_sanity_val_steps": 0, "default_root_dir": "runs"},
                parser_kwargs={**strict, "prog": "defectlab", command: dict(strict)},
                subclass_mode_model=True,
                subclass_mode_data=True,
                args=[command, *upgraded(words)],
                auto_configure_optimizers=False,
            )
        except jsonargparse.ArgumentError as error:
            check_imports(words)
            raise InputError(explain(str(error))) from None

    def subcommands(self) -> dict[str, set[str]]:  # type: ignore[override]
        """The one command alone: a parser takes a third of a second to build."""
        return {self.command: _COMMANDS[self.command]}

    def add_arguments_to_parser(self, parser: LightningArgumentParser) -> None:
        """Add CPU settings, and what the model learns from the data."""
        parser.add_class_arguments(CPUSettings, "cpu")
        parser.add_argument("--python_path", type=list[str] | None, help="folders that own modules are imported from")
        for source, target in LINKS.items():
            parser.link_arguments(f"data.{source}", f"model.init_args.{target}", apply_on="instantiate")

    def parse_arguments(self, parser: LightningArgumentParser, args: Any) -> None:
        """Parse, where the parent would warn about a list of arguments, and refuse what would be ignored."""
        given = config_sections(args)
        self.config = parser.parse_args(args)
        config = self.config[self.command]
        for sections in given:
            _check_empty_sections(sections, config)
        for part in ("model", "data"):
            if config[part] is None:
                raise InputError(f"the config has no {part}: expected a section {part} with class_path and init_args")
        # metrics.json and config.yaml are read from other folders too.
        for arguments, name in ((config.data.init_args, "root"), (config.model.init_args, "teacher")):
            if arguments is not None and arguments.get(name) is not None:
                arguments[name] = str(Path(arguments[name]).expanduser().absolute())
        self._find_teacher(config.trainer.callbacks)
        seed = config.seed_everything
        if not isinstance(seed, bool) and not 0 <= seed < 2**32:
            raise InputError(f"seed_everything is {seed}: expected a whole number from 0 to {2**32 - 1}, or true")
        for source, target in LINKS.items():
            if (config.model.init_args or {}).get(target) is not None:
                raise InputError(f"model.{target} comes from the data: leave it out, or change data.{source}")

    def _find_teacher(self, callbacks: Any) -> None:
        """Replace a teacher's run folder by its best checkpoint, absolute: config.yaml is read from other folders too."""
        for callback in callbacks if isinstance(callbacks, list) else [callbacks]:
            arguments: Any = getattr(callback, "init_args", None) or {}
            if self.command == "fit" and callback.class_path.endswith(".Distillation") and arguments.get("teacher"):
                arguments.teacher = str(checkpoint_of(str(arguments.teacher)).resolve())

    def _parse_ckpt_path(self) -> None:
        """Drop initial weights where a checkpoint replaces them."""
        config = self.config[self.command]
        arguments = config.model.init_args or {}
        self.weights = arguments.get("weights")
        if "weights" in arguments and (config.ckpt_path is not None or not self.read_weights):
            config.model.init_args.weights = None

    def before_instantiate_classes(self) -> None:
        """Settings of the process come before the first tensor."""
        CPUSettings(**self.config[self.command].cpu.as_dict()).apply()

    def instantiate_classes(self) -> None:
        """Build everything; what a constructor refuses comes wrapped in jsonargparse's text."""
        try:
            super().instantiate_classes()
        except BaseException as error:
            self.discard()
            if "can't allocate memory" in str(error):
                raise MemoryError from None
            if isinstance(error, ValueError | TypeError | MisconfigurationException):
                raise InputError(_innermost(error)) from None
            raise

    def instantiate_trainer(self, **kwargs: Any) -> Trainer:
        """Build a trainer that writes into the run folder alone."""
        config = cli_section(self, self.config_init, "trainer")
        if self.run is None:
            if self._output is not None:
                self.run, self._made = claim_run_folder(self._output)
            else:
                root = Path(config["default_root_dir"]).expanduser().resolve()
                self.run, self._made = new_run_folder(root, self.name or "run")
        callbacks = listed(config["callbacks"])
        given = config["logger"]
        loggers = listed(given)
        if self.command == "fit" and given is not False and not config["fast_dev_run"] and not config["barebones"]:
            loggers = [*run_loggers(self.run), *loggers]
        if not self.progress:
            kwargs["enable_progress_bar"] = False
        elif config["enable_progress_bar"] is not False and not config["barebones"]:
            callbacks.append(EpochLines())
        if self.command == "fit" and config["enable_checkpointing"] is not False and not config["barebones"]:
            callbacks = with_checkpoints(callbacks, self.run / "checkpoints", "val/loss")
        try:
            return super().instantiate_trainer(
                default_root_dir=str(self.run),
                logger=loggers or False,
                callbacks=callbacks,
                plugins=[*listed(config["plugins"]), AtomicCheckpointIO()],
                enable_model_summary=False,
                **kwargs,
            )
        except (ValueError, TypeError, MisconfigurationException) as error:
            raise InputError(f"trainer: {' '.join(str(error).split())[:250]}") from None

    def _run_subcommand(self, subcommand: str) -> None:
        """Nothing: the caller runs what it needs."""

    def discard(self) -> None:
        """Remove the folders that were made for this run."""
        if self.run in self._made:
            shutil.rmtree(self.run, ignore_errors=True)
        for folder in self._made:
            with suppress(OSError):  # gone, or not empty
                folder.rmdir()

    def resolved(self) -> jsonargparse.Namespace:
        """Return the config with what `auto` came to and absolute paths: it repeats the run, from any folder."""
        config: jsonargparse.Namespace = self.config[self.command].clone()
        for key in ("config", "ckpt_path", "weights_only"):
            config.pop(key, None)
        shown = yaml.safe_load(cli_parser(self, self.command).dump(config, skip_validation=True))
        if folders := import_folders(shown):
            config.python_path = folders
        else:
            config.pop("python_path", None)
        model: Any = config.model.init_args or {}
        data = config.data.init_args
        if "weights" in model and self.weights is not None:
            is_file = Path(self.weights).expanduser().is_file()
            model.weights = str(Path(self.weights).expanduser().absolute()) if is_file else self.weights
        if "source" in data:  # what `auto` came to
            data.source = self.datamodule.source
        if "root" in data and self.datamodule.source == "real":
            data.root = str(Path(self.datamodule.location).expanduser().absolute())
        return config

    def dump(self) -> str:
        """Return the resolved config as YAML."""
        return str(cli_parser(self, self.command).dump(self.resolved(), skip_none=False, skip_validation=True))


@contextmanager
def without_run(config: str, more: Sequence[str], read_weights: bool = True) -> Iterator[DefectCLI]:
    """Build what a config and arguments of fit describe, and leave no run folder and no trace in the host."""
    words, _ = resolve_config_arguments(["--config", config, *more])
    with as_guest():
        cli = DefectCLI("fit", [*words, "--trainer.logger", "false"], read_weights=read_weights)
        try:
            yield cli
        finally:
            cli.discard()


def _check_empty_sections(given: Any, config: Any, *place: str) -> None:
    """Raise InputError for an unknown key that holds an empty mapping: jsonargparse passes over it, like over any empty one."""
    if not isinstance(given, dict) or not isinstance(config, jsonargparse.Namespace):
        return
    for key, value in given.items():
        if value == {} and key not in config:
            shown = [part for part in place if part != "init_args"]
            raise InputError(unknown_key(shown, key, list(vars(config))))
        if key in config:
            _check_empty_sections(value, config[key], *place, key)


def listed(value: Any) -> list[Any]:
    """Return a setting that may be one object, several or a switch as a list of objects."""
    if value in (None, True, False):
        return []
    return list(value) if isinstance(value, list | tuple) else [value]


def run_loggers(folder: Path) -> list[Any]:
    """Build the loggers of every run: TensorBoard's events and metrics.csv."""
    return [EventsLogger(folder.parent, "", folder.name), EpochCSVLogger(folder / "metrics.csv")]


def with_checkpoints(callbacks: list[Any], folder: Path, monitor: str | None) -> list[Any]:
    """Add what writes best.ckpt, unless there is one, and last.ckpt; `save_last` would leave that as old as the best."""
    checkpoints = [callback for callback in callbacks if isinstance(callback, ModelCheckpoint)]
    if not checkpoints and monitor is not None:
        best = ModelCheckpoint(folder, filename="best", monitor=monitor, enable_version_counter=False)
        callbacks = [*callbacks, best]
    for callback in checkpoints:
        callback.dirpath = callback.dirpath or str(folder)
        callback.save_last = None
    # The last one to be called, so that it holds what the others have come to.
    return [*callbacks, ModelCheckpoint(folder, filename="last", enable_version_counter=False)]


def _innermost(error: Exception) -> str:
    """Return what a constructor said, out of the layers of jsonargparse, which keeps the text, not the error."""
    chain: list[BaseException] = [error]
    while (inner := chain[-1].__cause__ or chain[-1].__context__) is not None and inner not in chain:
        chain.append(inner)
    own = [link for link in chain if isinstance(link, InputError | MisconfigurationException)]
    if own:
        return " ".join(str(own[0]).split())
    lines = [line.strip(" -") for line in str(error).splitlines() if line.lstrip().startswith("- ")]
    return next((line for line in lines if not line.startswith("Does not validate")), " ".join(str(error).split()))
