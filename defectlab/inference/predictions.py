"""The predictions for many images, as a table."""

from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass
from os import PathLike
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from defectlab.data.sources.skipped import Skipped
from defectlab.errors import InputError
from defectlab.inference.decision import Flagged, Threshold
from defectlab.metrics.decisions import NO_CLASS, confidence_of, decide, join_names, label_texts
from defectlab.runs.predictions import write_prediction_table
from defectlab.utils.image_format import Box
from defectlab.utils.text import html_table

_SHOWN = 10  # rows of a repr


@dataclass(frozen=True, kw_only=True, repr=False, eq=False)
class Predictions:
    """Predictions for N images.

    Args:
        files: N names; `image 0` and so on for arrays.
        class_names: in the order of the columns of `probabilities`.
        probabilities: (N, C), float64; of an ensemble the mean.
        skipped: images that could not be read.
        synthetic: whether a network was trained on generated images alone.
        checkpoint: fingerprint of the network, see `RunFolder.fingerprint`; None where it has none.
        threshold: that `max_error` has chosen on the validation images; None without.
        decision: N class names, or `review` for what is left to a person; None where nothing was asked.
        flagged: operating point, and which images are flagged; None where nothing was to be flagged.
        sets: N sets of class names, the likeliest first, which hold the true one as often as promised; None without.
        thresholds: of a multi-label task the probability of each class from which it is predicted, (C,); else None.
        novelty: how strange each image is, (N,) float32, see `NoveltyScorer`; None where that was not asked.
        novelty_p: its p-value among the run's validation images, (N,); None without `novelty`.
        novel: which images are like none that the network knows, (N,), at the share of false alarms asked; or None.
        tiles: N boxes (left, top, width, height) in pixels of the image, of the tile that spoke most for the class; None
            of a network without tiles.
    """

    files: tuple[str, ...]
    class_names: tuple[str, ...]
    probabilities: npt.NDArray[np.float64]
    skipped: tuple[Skipped, ...] = ()
    synthetic: bool = False
    checkpoint: str | None = None
    threshold: Threshold | None = None
    flagged: Flagged | None = None
    decision: tuple[str, ...] | None = None
    sets: tuple[tuple[str, ...], ...] | None = None
    tiles: tuple[Box, ...] | None = None
    thresholds: tuple[float, ...] | None = None
    novelty: npt.NDArray[np.float32] | None = None
    novelty_p: npt.NDArray[np.float64] | None = None
    novel: npt.NDArray[np.bool_] | None = None

    @property
    def predicted(self) -> list[str]:
        """The likeliest class of each image; of a multi-label task those that reach their threshold, joined by `|`."""
        return label_texts(decide(self.probabilities, self.thresholds), self.class_names)

    @property
    def confidence(self) -> npt.NDArray[np.float64]:
        """Probability of what is predicted, (N,): of several classes that of exactly these, were they independent."""
        return confidence_of(self.probabilities, self.thresholds)

    @property
    def extra(self) -> dict[str, list[str]]:
        """Columns of N texts: `decision`, `tile` with its four numbers, `novelty_p` and `novel`, `set` joined by `|`."""
        columns = {} if self.decision is None else {"decision": list(self.decision)}
        if self.tiles is not None:
            columns["tile"] = [" ".join(map(str, box)) for box in self.tiles]
        if self.novelty_p is not None and self.novel is not None:
            columns["novelty_p"] = [f"{p:.6g}" for p in self.novelty_p]
            columns["novel"] = ["yes" if novel else "no" for novel in self.novel]
        if self.sets is None:
            return columns
        return {**columns, "set": [join_names(names) for names in self.sets]}

    @property
    def rows(self) -> list[dict[str, Any]]:
        """Return a dict an image, with the columns of `write_csv`, for `pandas.DataFrame`."""
        columns: dict[str, Sequence[Any]] = {
            "file": self.files,
            "predicted": self.predicted,
            "confidence": self.confidence.tolist(),
            **{f"p_{name}": self.probabilities[:, k].tolist() for k, name in enumerate(self.class_names)},
            **{f"t_{name}": [t] * len(self) for name, t in zip(self.class_names, self.thresholds or (), strict=False)},
            **self.extra,
        }
        return [dict(zip(columns, row, strict=True)) for row in zip(*columns.values(), strict=True)]

    def write_csv(self, path: str | PathLike[str]) -> None:
        """Write `file,predicted,confidence,p_<class>...`, then what `extra` has."""
        write_prediction_table(
            Path(path), self.files, None, self.probabilities, self.class_names, self.extra, thresholds=self.thresholds
        )

    def __len__(self) -> int:
        return len(self.files)

    def _repr_html_(self) -> str:
        """Return a table for a notebook."""
        return html_table(repr(self).splitlines()[0], self.rows)

    def __repr__(self) -> str:
        predicted = [name or NO_CLASS for name in self.predicted]
        counts = ", ".join(f"{count} {name}" for name, count in Counter(predicted).most_common())
        lines = [f"Predictions of {len(self)} images: {counts}"]
        for i, (file, name, p) in enumerate(zip(self.files, predicted, self.confidence[:_SHOWN], strict=False)):
            more = "".join(f", {column} {texts[i]}" for column, texts in self.extra.items())
            lines.append(f"{file}: {name} {p:.1%}{more}")
        lines += ["…"] if len(self) > _SHOWN else []
        return "\n".join(lines)


class BadImages(InputError):
    """Some images cannot be read; `predictions` are those of the others."""

    def __init__(self, predictions: Predictions) -> None:
        self.predictions = predictions
        bad = predictions.skipped
        super().__init__(
            f"{len(bad)} of {len(bad) + len(predictions)} images cannot be read, the first is {bad[0]}: the others were "
            "predicted; mend it, or set on_bad_image to skip"
        )
