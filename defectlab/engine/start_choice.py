"""A starting point of training: what may be chosen from, and what was chosen by which figures."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Literal

from defectlab.data.pipeline.fitting import FitChoice
from defectlab.errors import InputError, check_at_least
from defectlab.networks.backbones import Stages
from defectlab.utils.image_format import Size
from defectlab.utils.text import html_table


@dataclass(frozen=True, kw_only=True)
class Start:
    """A backbone and its weights, see `PretrainedTask`, and how images come to it; None where the config says."""

    weights: str
    backbone: str = "mobilenet_v3_small"
    width: float | Literal["auto"] = 1.0
    stages: Stages = "middle"
    symmetric: bool = False
    image_size: Size | Literal["auto"] | None = None
    fit: FitChoice | None = None

    @property
    def settings(self) -> dict[str, Any]:
        """Return settings of fit by dotted name."""
        names = {"model": ("weights", "backbone", "width", "stages", "symmetric"), "data": ("image_size", "fit")}
        own = {f"{part}.{name}": getattr(self, name) for part, own in names.items() for name in own}
        return {name: value for name, value in own.items() if value is not None}


@dataclass(frozen=True)
class StartSettings:
    """What a starting point is chosen from, and by how many folds of the images to train on.

    Of two that are alike the first is chosen; a candidate that cannot be had is left out.
    """

    candidates: list[Start]
    folds: int = 5

    def __post_init__(self) -> None:
        if not self.candidates:
            raise InputError("choose.candidates is empty: expected one or more, or null for choose")
        check_at_least("choose.folds", self.folds, 2)


@dataclass(frozen=True, kw_only=True)
class StartRow(Start):
    """A candidate: balanced accuracy in [0, 1] on inner folds, and how far it is `behind` the best, paired by image.

    `se` and `behind_se` are their standard errors, `seconds` the time of features and folds. One that was `left_out`, for
    this reason, has none of them.
    """

    balanced_accuracy: float | None = None
    se: float | None = None
    behind: float | None = None
    behind_se: float | None = None
    seconds: float | None = None
    chosen: bool = False
    left_out: str = ""

    def __str__(self) -> str:
        name = f"{self.weights}, {self.backbone} {self.width}, {self.stages}{', symmetric' * self.symmetric}"
        name += "".join(
            f", {part} {value}" for part in ("image_size", "fit") if (value := getattr(self, part)) is not None
        )
        if self.left_out:
            return f"  left out: {name}: {self.left_out}"
        figures = f"{self.balanced_accuracy:8.2%} ± {self.se:6.2%} {self.behind:8.2%} ± {self.behind_se:6.2%} {self.seconds:7.1f} s"
        return f"{'*' if self.chosen else ' '} {figures}  {name}"


@dataclass(frozen=True, repr=False)
class StartChoice:
    """The starting point that was chosen, and by what: `rows` are the candidates, the best first.

    `curve` is its balanced accuracy in [0, 1] by labels, at twice those at hand extrapolated, which brings `gain`, of standard
    error `gain_se`.
    """

    rows: Sequence[StartRow]
    curve: Mapping[int, float]
    gain: float
    gain_se: float

    @property
    def chosen(self) -> StartRow:
        """Return the row that was chosen."""
        return next(row for row in self.rows if row.chosen)

    def __repr__(self) -> str:
        lines = ["  balanced, inner folds    behind the best      time  starting point"]
        lines += map(str, self.rows)
        (now, before), (then, after) = list(self.curve.items())[-2:]
        gain = f"{100 * self.gain:+.1f} ± {100 * self.gain_se:.1f} points ({before:.1%} to {after:.1%} balanced, extrapolated)"
        return "\n".join([*lines, f"twice as many labels, {then:,} for {now:,}: about {gain}"])

    def _repr_html_(self) -> str:
        """Return a table for a notebook."""
        return html_table(repr(self).splitlines()[-1], self.rows)
