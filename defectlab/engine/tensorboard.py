"""Add figures and hyper-parameters to the trainer's loggers, beside the curves that Lightning draws."""

from collections.abc import Mapping, Sequence
from typing import Any

from lightning.pytorch.loggers import TensorBoardLogger
from matplotlib.figure import Figure
from torch import Tensor

from defectlab.engine.loggers import attempt
from defectlab.figures.fonts import choose_fonts
from defectlab.figures.runs import confusion_matrix_figure
from defectlab.figures.tiles import image_sheet
from defectlab.metrics.classification import SplitMetrics
from defectlab.utils.card import DataCard


def _add_figure(loggers: Sequence[Any], name: str, figure: Figure, step: int) -> None:
    """Log a figure by every logger that can: TensorBoard's, W&B's and MLflow's ways."""
    choose_fonts(figure)
    for logger in loggers:
        attempt(logger, _draw, logger, name, figure, step)


def _draw(logger: Any, name: str, figure: Figure, step: int) -> None:
    if hasattr(logger.experiment, "add_figure"):
        logger.experiment.add_figure(name, figure, step, close=False)
    elif hasattr(logger, "log_image"):
        logger.log_image(name, [figure], step=step)
    elif hasattr(logger.experiment, "log_figure"):
        logger.experiment.log_figure(logger.run_id, figure, f"{name}.png")


def add_augmented(loggers: Sequence[Any], images: Tensor, card: DataCard) -> None:
    """Log training images `(N, C, H, W)` as the network sees them, brought back to [0, 1]."""
    _add_figure(loggers, "images/augmented", image_sheet(card.denormalise(images).clamp(0, 1).cpu()), 0)


def add_figures(
    loggers: Sequence[Any], results: dict[str, SplitMetrics], rankings: Mapping[str, Figure | None],
    misclassified: Figure | None, step: int,
) -> None:  # fmt: skip
    """Log confusion matrix and ranking curves of each evaluated part, and the misclassified images if there are any."""
    for stage, ranking in rankings.items():
        if ranking is not None:
            _add_figure(loggers, f"{stage}/ranking", ranking, step)
    for stage, result in results.items():
        supports = [row["support"] for row in result["per_class"].values()]
        figure = confusion_matrix_figure(result["confusion_matrix"], list(result["per_class"]), supports)
        _add_figure(loggers, f"{stage}/confusion_matrix", figure, step)
    if misclassified is not None:
        _add_figure(loggers, "images/misclassified", misclassified, step)


def add_hparams(loggers: Sequence[Any], config: dict[str, Any], stage: str, result: SplitMetrics) -> None:
    """Log what was set and the metrics of one part, for the HPARAMS tab."""
    metrics = {
        f"hp/{stage}_{name}": float(result[name]) for name in ("accuracy", "balanced_accuracy", "macro_f1", "loss")
    }
    for logger in loggers:
        if isinstance(logger, TensorBoardLogger):
            attempt(logger, logger.log_hyperparams, _flat(config), metrics)
            attempt(logger, lambda: logger.experiment.close())  # noqa: B023 (called at once)
        else:
            attempt(logger, logger.log_hyperparams, _flat(config))
            final = {name.replace("hp/", "final/"): value for name, value in metrics.items()}
            attempt(logger, logger.log_metrics, final)
            attempt(logger, logger.save)


def _flat(config: dict[str, Any], prefix: str = "") -> dict[str, Any]:
    values: dict[str, Any] = {}
    for key, value in config.items():
        name = prefix + key.removeprefix("init_args.")
        if isinstance(value, dict):
            inner = "" if key == "init_args" else f"{name}."
            values |= _flat(value, (prefix if key == "init_args" else "") + inner)
        else:
            values[name] = value if isinstance(value, bool | int | float | str) else str(value)
    return values
