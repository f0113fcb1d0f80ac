"""Find the network that a name means: of a run folder, a checkpoint, or a config."""

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from torch import nn

from defectlab.engine.experiment import without_run
from defectlab.errors import InputError
from defectlab.runs import RunFolder
from defectlab.runs.locate import checkpoint_of
from defectlab.tasks.checkpoint import load_task
from defectlab.utils.resources import shipped_configs


@dataclass(frozen=True, kw_only=True)
class NetworkRef:
    """A network, its image (C, H, W) and number of classes, and the runs that tested it."""

    name: str
    network: nn.Module
    image: tuple[int, int, int]
    classes: int
    runs: tuple[RunFolder, ...] = ()


def is_config(name: str) -> bool:
    """Return whether a name means a config rather than a run folder or a checkpoint."""
    path = Path(name)
    is_named_so = path.suffix in (".yaml", ".yml") or f"{name}.yaml" in shipped_configs()
    return not path.is_dir() and path.suffix != ".ckpt" and (is_named_so or path.is_file())


def resolve_network(name: str, more: Sequence[str]) -> NetworkRef:
    """Load the network of a run folder or a .ckpt file, or build that of a config with further arguments of fit.

    A config's pretrained weights are neither read nor downloaded.

    Raises:
        InputError: nothing of that name, or arguments of fit for what is no config.
    """
    if is_config(name):
        with without_run(name, more, read_weights=False) as cli:
            data = cli.datamodule
            image = data.image_format.shape
            return NetworkRef(name=Path(name).name, network=cli.model.network, image=image, classes=data.num_classes)
    if more:
        raise InputError(f"{name} has its settings already: leave {' '.join(more)} out, or name a config")
    task, card = load_task(checkpoint_of(name))
    run = Path(name).resolve() if Path(name).is_dir() else None
    shown = "/".join(run.parts[-2:]) if run is not None else Path(name).name
    return NetworkRef(
        name=shown, network=task.network, image=card.shape, classes=len(card.class_names),
        runs=() if run is None else (RunFolder(run),),
    )  # fmt: skip
