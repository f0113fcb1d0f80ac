"""A starting point of training: what may be chosen from, and what was chosen by which figures."""

from collections.abc import Sequence
from dataclasses import asdict, dataclass, field
from os import PathLike
from pathlib import Path
from typing import Any, Literal

from defectlab.data.pipeline.fitting import FitChoice
from defectlab.data.pipeline.split_table import SplitTable
from defectlab.errors import InputError, check_at_least
from defectlab.networks.pretrained import Stages
from defectlab.runs import csv_text, write_text
from defectlab.utils.image_format import Size
from defectlab.utils.text import html_table


@dataclass(frozen=True, kw_only=True)
class Start:
    """A backbone and its weights; see the arguments of `PretrainedTask`."""

    weights: str
    backbone: str = "mobilenet_v3_small"
    width: float = 1.0
    stages: Stages = "middle"

    def __str__(self) -> str:
        return f"{self.weights} ({self.backbone}, width {self.width:g}, {self.stages})"


@dataclass(frozen=True)
class StartImages:
    """How images come to a network; see the arguments of `ImageFolderDataModule`."""

    image_size: Size | Literal["auto"] = "auto"
    fit: FitChoice = "auto"


@dataclass(frozen=True, kw_only=True)
class StartSettings:
    """What a starting point is chosen from, and how.

    Args:
        candidates: backbones and weights, the preferred one of two that are alike first; what cannot be had is left out.
        images: ways of the images to the network; each candidate is tried with each.
        folds: of the training and validation images by which it is chosen.
        repeats: of the division into folds.
        tolerance: balanced accuracy in [0, 1] by which a choice may fall behind the best to be an earlier one of the list.
    """

    candidates: list[Start]
    images: list[StartImages] = field(default_factory=lambda: [StartImages()])
    folds: int = 5
    repeats: int = 2
    tolerance: float = 0.001

    def __post_init__(self) -> None:
        for name in ("candidates", "images"):
            if not getattr(self, name):
                raise InputError(f"choose.{name} is empty: expected one or more to choose from; or choose: null")
        check_at_least("choose.folds", self.folds, 2)
        check_at_least("choose.repeats", self.repeats, 1)
        if not 0 <= self.tolerance < 1:
            raise InputError(f"choose.tolerance is {self.tolerance}: expected balanced accuracy from 0, such as 0.001")


@dataclass(frozen=True, kw_only=True)
class StartRow:
    """One candidate: balanced accuracy in [0, 1] on the inner folds, and how far it is behind the best, paired by image.

    `sd` is over the folds, `behind_se` the standard error of `behind`, `seconds` the time that features and folds took; all
    of them are None where it was left out, for the reason `left_out`.
    """

    weights: str
    backbone: str
    width: float
    stages: str
    images: str
    balanced_accuracy: float | None = None
    sd: float | None = None
    behind: float | None = None
    behind_se: float | None = None
    seconds: float | None = None
    chosen: bool = False
    left_out: str = ""

    @property
    def text(self) -> str:
        """Return what it is in words."""
        return f"{self.weights}, {self.backbone} {self.width:g}, {self.stages} stages, {self.images}"


@dataclass(frozen=True, kw_only=True)
class CurvePoint:
    """Balanced accuracy in [0, 1] of the chosen starting point by labelled images, and its sd."""

    labelled: int
    balanced_accuracy: float
    sd: float
    extrapolated: bool


@dataclass(frozen=True, kw_only=True, repr=False)
class StartChoice:
    """The starting point that was chosen: `settings` of model and data, the `rows` it was chosen from, the best first.

    `curve` ends at twice the labels, extrapolated; `gain` is what they bring there, in [0, 1], and its sd. `split` is the
    division of the images to keep, where it hangs on their pixels, or one was given.
    """

    settings: dict[str, dict[str, Any]]
    rows: Sequence[StartRow]
    curve: Sequence[CurvePoint]
    gain: tuple[float, float]
    split: SplitTable | None = None

    @property
    def chosen(self) -> StartRow:
        """Return the row that was chosen."""
        return next(row for row in self.rows if row.chosen)

    def __str__(self) -> str:
        """Return the table, what was left out, and what more labels would bring."""
        lines = ["starting point   balanced, inner folds   behind the best   seconds"]
        for row in self.rows:
            if row.left_out:
                lines.append(f"  left out: {row.text}: {row.left_out}")
                continue
            assert row.balanced_accuracy is not None and row.sd is not None and row.seconds is not None  # noqa: PT018
            assert row.behind is not None and row.behind_se is not None  # noqa: PT018
            behind = f"{row.behind:6.2%} ± {row.behind_se:.2%}" if row.behind_se else " " * 14
            lines.append(
                f"{'*' if row.chosen else ' '} {row.balanced_accuracy:.2%} ± {row.sd:.2%}   {behind}   {row.seconds:5.1f} s   {row.text}"
            )
        now, then = self.curve[-2:]
        return "\n".join(lines) + (
            f"\ntwice as many labels ({then.labelled} for {now.labelled}): about {self.gain[0]:+.1%} ± {self.gain[1]:.1%} "
            f"balanced, {now.balanced_accuracy:.1%} to {then.balanced_accuracy:.1%}, extrapolated from a quarter, a half and all"
        )

    def __repr__(self) -> str:
        return f"StartChoice of {self.chosen.text}, of {len(self.rows)} candidates"

    def _repr_html_(self) -> str:
        """Return a table for a notebook."""
        return html_table(repr(self), self.rows)

    def describe(self) -> dict[str, Any]:
        """Return the choice, the runner-up's margin and the gain of more labels, for metrics.json."""
        return {
            **asdict(self.chosen),
            "runner_up": next((asdict(row) for row in self.rows if not row.chosen and not row.left_out), None),
            "gain_of_twice_the_labels": {"mean": self.gain[0], "sd": self.gain[1]},
        }

    def write(self, folder: str | PathLike[str]) -> None:
        """Write starting_points.csv and learning_curve.csv."""
        write_text(Path(folder) / "starting_points.csv", csv_text(StartRow, self.rows))
        write_text(Path(folder) / "learning_curve.csv", csv_text(CurvePoint, self.curve))
