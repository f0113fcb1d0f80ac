"""Parse a command's arguments by LightningCLI, with defectlab's groups and errors of one line."""

import logging
import os
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import asdict
from inspect import signature
from pathlib import Path
from typing import Any

import jsonargparse
import jsonargparse.typing
import yaml
from lightning.fabric.utilities.exceptions import MisconfigurationException
from lightning.pytorch import Trainer
from lightning.pytorch.cli import LightningArgumentParser, LightningCLI

from defectlab.data import ImageDataModule
from defectlab.data.pipeline.split_table import SplitTable
from defectlab.data.pipeline.splits import WHOLE
from defectlab.data.sources.files import is_address
from defectlab.engine.configs import read_arguments
from defectlab.engine.host import as_guest
from defectlab.engine.imports import check_imports, import_folders, own_network
from defectlab.engine.messages import check_empty_sections, explain, innermost
from defectlab.engine.start_choice import StartChoice, StartSettings
from defectlab.engine.trainer import TRAINER_ERRORS, as_list, check_trainer, trainer_error, trainer_parts
from defectlab.errors import InputError
from defectlab.networks.weights import width_of
from defectlab.runs import RunFolder
from defectlab.runs.create import claim_run_folder, new_run_folder, remove_made
from defectlab.runs.locate import checkpoint_of
from defectlab.tasks import ClassificationTask
from defectlab.tasks.hparams import NetworkSpec, named_classes
from defectlab.utils._compat import check_cli, cli_parser, cli_section
from defectlab.utils.cpu import CPUSettings

jsonargparse.typing.register_type(NetworkSpec, NetworkSpec.as_dict, own_network, fail_already_registered=False)

_log = logging.getLogger(__name__)

# Of the data to the model.
LINKS = {
    "num_classes": "num_classes",
    "channels": "in_channels",
    "image_size": "image_size",
    "tiles": "tiles",
    "multilabel": "multilabel",
}
# Settings of the data that leave the split as it is.
_NOT_OF_SPLIT = {
    "root", "image_size", "channels", "batch_size", "eval_batch_size", "on_bad_image", "augmentation", "mean", "std",
    "class_names", "transform", "labels", "label_columns", "fit", "scale", "pad_value", "tiles", "white_level", "black_level",
    "alpha",
}  # fmt: skip
_COMMANDS = {
    "fit": {"model", "train_dataloaders", "val_dataloaders", "datamodule"},
    "validate": {"model", "dataloaders", "datamodule"},
    "test": {"model", "dataloaders", "datamodule"},
}


class DefectCLI(LightningCLI):
    """Parse one command's arguments and build data, model and trainer; the caller runs them.

    Args:
        command: fit, validate or test.
        words: its arguments.
        run: folder of the run that the command goes on with; None for a new one.
        read_weights: whether to read or download pretrained weights; without, they are random.
        output: path of a new run folder; None for one under `trainer.default_root_dir` with the name and the time.
        progress: whether to print a line an epoch, unless the config says no.
        keep_split: whether the data is divided as in `run`.
    """

    def __init__(
        self,
        command: str,
        words: Sequence[str],
        run: Path | None = None,
        read_weights: bool = True,
        output: Path | None = None,
        progress: bool = True,
        keep_split: bool = True,
    ) -> None:
        self.command = command
        self.read_weights = read_weights
        self.run = run.resolve() if run else None
        self.progress = progress
        self.made: list[Path] = []  # folders that were not there before
        self._output = output
        self._keeps_split = keep_split and run is not None
        self._arguments = read_arguments(words)
        self.name = self._arguments.name
        self.changed = any(  # beside the first config
            word.startswith("--") and word != "--ckpt_path" for word in self._arguments.words[2:]
        )
        self.choice: StartChoice | None = None  # that the words of fit were settled by
        self.weights: str | None = None  # as given, also where a checkpoint takes their place
        if not self._arguments.sections and "--print_config" not in words:
            wanted = "a config" if command == "fit" else "a run folder, or --config and --ckpt_path"
            raise InputError(f"{command} needs {wanted}; `defectlab configs` lists those that are shipped")
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
                args=[command, *self._arguments.words],
                auto_configure_optimizers=False,
            )
        except jsonargparse.ArgumentError as error:
            check_imports(self._arguments)
            raise InputError(explain(str(error))) from None

    def subcommands(self) -> dict[str, set[str]]:  # type: ignore[override]
        """The one command alone: a parser takes a third of a second to build."""
        return {self.command: _COMMANDS[self.command]}

    def add_arguments_to_parser(self, parser: LightningArgumentParser) -> None:
        """Add CPU settings, and what the model learns from the data."""
        parser.add_class_arguments(CPUSettings, "cpu")
        parser.add_argument("--python_path", type=list[str] | None, help="folders that own modules are imported from")
        parser.add_argument("--choose", type=StartSettings | None, help="what a starting point is chosen from")
        for source, target in LINKS.items():
            parser.link_arguments(f"data.{source}", f"model.init_args.{target}", apply_on="instantiate")

    def parse_arguments(self, parser: LightningArgumentParser, args: Any) -> None:
        """Parse, where the parent would warn about a list of arguments, and refuse what would be ignored."""
        self.config = parser.parse_args(args)
        config = self.config[self.command]
        for sections in self._arguments.sections:
            check_empty_sections(sections, config)
        for part in ("model", "data"):
            if config[part] is None:
                raise InputError(f"the config has no {part}: expected a section {part} with class_path and init_args")
        if config.choose is not None and (self.command != "fit" or self._keeps_split):
            raise InputError("choose is for a new fit, whose config.yaml holds what was chosen: leave it out here")
        data, model = config.data.init_args or {}, config.model.init_args or {}
        for name, what in (("root", "images"), ("labels", "labels")):
            if data.get(name) in ("", []):
                raise InputError(f"data.{name} is empty: expected the folder or the file of the {what}")
        # metrics.json and config.yaml are read from other folders too.
        for arguments, name in ((data, "root"), (model, "teacher")):
            if arguments.get(name) is not None:
                arguments[name] = _absolute(arguments[name])
        labels = data.get("labels")
        if labels not in (None, "boxes") and Path(labels).expanduser().exists():  # else it lies below the root
            data["labels"] = _absolute(labels)
        self._settle_callbacks(config.trainer.callbacks)
        saved = (self._arguments.sections or [{}])[0].get("data", {}).get("init_args") or {}
        goes_on = self.run is not None and RunFolder(self.run).config.is_file()
        if data.get("fit") == "auto" and goes_on and "fit" not in saved:
            data["fit"] = "stretch"  # a run of before there was a choice
        seed = config.seed_everything
        if not isinstance(seed, bool) and not (isinstance(seed, int) and 0 <= seed < 2**32):
            raise InputError(f"seed_everything is {seed}: expected a whole number from 0 to {2**32 - 1}, or true")
        for source, target in LINKS.items():
            if model.get(target) not in (None, False):
                raise InputError(f"model.{target} comes from the data: leave it out, or change data.{source}")

    def _settle_callbacks(self, given: Any) -> None:
        """Make paths absolute, as config.yaml is read from other folders too, and tell of callbacks that were dropped."""
        callbacks = [callback for callback in as_list(given) if hasattr(callback, "class_path")]
        for callback in callbacks:
            arguments: Any = getattr(callback, "init_args", None) or {}
            if callback.class_path.endswith(".ModelCheckpoint") and arguments.get("dirpath"):
                arguments.dirpath = str(Path(arguments.dirpath).expanduser().absolute())
            if self.command == "fit" and callback.class_path.endswith(".Distillation") and arguments.get("teacher"):
                arguments.teacher = str(checkpoint_of(str(arguments.teacher)).resolve())
        last = [(sections.get("trainer") or {}).get("callbacks") for sections in self._arguments.sections]
        named = {path.rpartition(".")[2] for path in named_classes([item for item in last if isinstance(item, list)])}
        dropped = named - {callback.class_path.rpartition(".")[2] for callback in callbacks}
        if self.command == "fit" and dropped:
            _log.warning(
                "trainer.callbacks drops %s of the config: write callbacks+ to add to them", ", ".join(sorted(dropped))
            )

    def _parse_ckpt_path(self) -> None:
        """Drop initial weights where a checkpoint replaces them."""
        config = self.config[self.command]
        arguments = config.model.init_args or {}
        self.weights = arguments.get("weights")
        if "weights" in arguments and (config.ckpt_path is not None or not self.read_weights):
            config.model.init_args.weights = None
            if arguments.get("width") == "auto":
                config.model.init_args.width = width_of(self.weights, arguments.get("backbone", ""))
            if arguments.get("cache_features") == "auto" and config.ckpt_path is not None:  # of a run of before
                tiles = (config.data.init_args or {}).get("tiles")
                config.model.init_args.cache_features = self.weights is not None and tiles is not None

    def before_instantiate_classes(self) -> None:
        """Settings of the process come before the first tensor."""
        CPUSettings(**self.config[self.command].cpu.as_dict()).apply()

    def instantiate_classes(self) -> None:
        """Build everything; what a constructor refuses comes wrapped in jsonargparse's text."""
        try:
            super().instantiate_classes()
            tiled = self.model is not None and getattr(self.datamodule, "tiles", None) is not None
            if tiled and "tiles" not in signature(type(self.model)).parameters:
                self.datamodule.drop_tiles(type(self.model).__name__)
        except BaseException as error:
            self.discard()
            if "can't allocate memory" in str(error):
                raise MemoryError from None
            if isinstance(error, ValueError | TypeError | MisconfigurationException | ModuleNotFoundError):
                raise InputError(innermost(error)) from None
            raise

        table = None if self.run is None else RunFolder(self.run).split_csv
        # A resumed run refuses another split; a test with one warns, as its images were trained on.
        if self._keeps_split and table is not None and table.is_file() and not self._divides_anew():
            self.datamodule.keep_split(SplitTable.read(table))

    def _divides_anew(self) -> bool:
        """Return whether a test's setting over the run's own divides the images anew, or takes all of a set."""
        if self.command == "fit":
            return False
        saved, now = self._arguments.sections[0]["data"], self.config[self.command].data
        return (
            now.init_args.get("split") == WHOLE
            or now.class_path != saved["class_path"]
            or any(
                now.init_args.get(key, value) != value
                for key, value in (saved.get("init_args") or {}).items()
                if key not in _NOT_OF_SPLIT
            )
        )

    def instantiate_trainer(self, **kwargs: Any) -> Trainer:
        """Build a trainer that writes into the run folder alone."""
        config = cli_section(self, self.config_init, "trainer")
        if self.run is None:
            if self._output is not None:
                self.run, self.made = claim_run_folder(self._output)
            else:
                root = Path(config["default_root_dir"]).expanduser().resolve()
                self.run, self.made = new_run_folder(root, self.name or "run")
        trains = self.command == "fit"
        parts = trainer_parts(self.run, config, progress=self.progress, monitor="val/loss", trains=trains)
        try:
            trainer = super().instantiate_trainer(**{**parts, **kwargs})
        except TRAINER_ERRORS as error:
            raise trainer_error(error) from None
        check_trainer(trainer)
        return trainer

    def _run_subcommand(self, subcommand: str) -> None:
        """Nothing: the caller runs what it needs."""

    def discard(self) -> None:
        """Remove the folders that were made for this run, unless it was trained."""
        run = self.run
        remove_made(self.made, keep=run is None or any(run.glob("checkpoints/*")) or (run / "metrics.json").exists())

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
        # What `auto` came to.
        for name in ("width", "cache_features", "symmetric"):
            if model.get(name) == "auto":
                model[name] = self.model.hparams[name]
        if "source" in data:
            data.source = "synthetic" if self.datamodule.generated else "real"
        if "fit" in data:
            found = self.datamodule
            data.image_size, data.fit, data.scale = found.image_size, found.fit, found.image_format.scale
            data.tiles = None if found.tiles is None else asdict(found.tiles)
        if "root" in data and not self.datamodule.generated:
            data.root = _absolute(self.datamodule.location if isinstance(data.root, str | None) else data.root)
        return config

    def dump(self) -> str:
        """Return the resolved config as YAML."""
        return str(cli_parser(self, self.command).dump(self.resolved(), skip_none=False, skip_validation=True))


def _absolute(path: Any) -> Any:
    """Return a path, or each of several, as an absolute one."""
    if is_address(path):
        return path
    if isinstance(path, str | Path):
        return str(Path(path).expanduser().absolute())
    return [str(Path(one).expanduser().absolute()) for one in path]


@contextmanager
def without_run(config: str, more: Sequence[str], read_weights: bool = True) -> Iterator[DefectCLI]:
    """Build what a config and arguments of fit describe, and leave no run folder and no trace in the host."""
    with as_guest():
        words = ["--config", config, *more, "--trainer.logger", "false"]
        yield DefectCLI("fit", words, run=Path(os.devnull), read_weights=read_weights, keep_split=False)
