"""Train a run anew with the corruptions that break it, and compare both networks."""

import logging
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from os import PathLike
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import yaml

from defectlab.data import Augmentation
from defectlab.data.datamodules.loaders import Part
from defectlab.engine.configs import override_words
from defectlab.engine.fit import returned, run_fit
from defectlab.engine.host import as_guest
from defectlab.engine.restore import Restored, restore
from defectlab.errors import InputError
from defectlab.evaluate.corruptions import Corruption
from defectlab.evaluate.robustness import CASES, CorruptionAccuracy, Robustness, evaluate_corrupted, predict_corrupted
from defectlab.figures.style import save_png
from defectlab.metrics.decisions import Labels, are_right
from defectlab.metrics.statistics import holm, mcnemar, paired_interval
from defectlab.runs import RunFolder, csv_text, write_text
from defectlab.tasks import PretrainedTask
from defectlab.utils.yamls import read_yaml

_log = logging.getLogger(__name__)
_LOWER_IS_STRONGER = ("snr", "jpeg", "lowest_contrast")
_SELDOM = {"snr", "illumination", "blur", "defocus", "motion_blur", "lowest_contrast", "gamma", "shot_snr", "jpeg"}
_CHANCE, _LONGER = 0.3, 3  # as neu_robust.yaml: three images in ten get each of them, in three times the epochs
_Right = npt.NDArray[np.bool_]  # (cases, images)
_OWN = ("--data.root", "--trainer.", "--model.", "--cpu.", "--seed_everything")


@dataclass(frozen=True, kw_only=True)
class HardenedAccuracy(CorruptionAccuracy):
    """Accuracy of a run on its test images, and `after` of the run that was hardened, also balanced, in [0, 1].

    `drop` below the clean accuracy, on validation images and with a 95 % interval, says what broke. Of the test images
    `before_only` and `after_only` are right by one run alone; `p` is McNemar's. `p_holm` is adjusted over the clean
    images and a level of each corruption, the worst that broke, else the last; None for others.
    """

    drop: float
    drop_low: float
    drop_high: float
    after: float
    after_balanced: float
    before_only: int
    after_only: int
    p: float
    p_holm: float | None


@dataclass(frozen=True, repr=False)
class Hardening:
    """What broke a run, and what training with it came to; where nothing broke, nothing was trained.

    `augmentation` is data.augmentation of the new `run`. The `rows` are the clean images, then each corruption at each
    level; `before` and `after` are the same as `robustness` has them.
    """

    augmentation: dict[str, Any]
    run: RunFolder | None = None
    rows: Sequence[HardenedAccuracy] = ()
    before: Robustness | None = None
    after: Robustness | None = None

    @property
    def comparison(self) -> list[HardenedAccuracy]:
        """Return the rows that are tested together."""
        return [row for row in self.rows if row.p_holm is not None]

    @property
    def broken(self) -> list[HardenedAccuracy]:
        """Return the worst level of each corruption that costs more than the noise of the validation images."""
        return [row for row in self.comparison if row.drop_low > 0]

    @property
    def not_mended(self) -> list[str]:
        """Return what broke and is not better on the test images, with p below .05 after Holm."""
        return [row.corruption for row in self.broken if row.after <= row.accuracy or (row.p_holm or 0) >= 0.05]

    def __repr__(self) -> str:
        return f"Hardening: {len(self.broken)} corruptions broke the run, {len(self.not_mended)} are not mended"

    def write(self, folder: str | PathLike[str]) -> None:
        """Write harden.csv and harden.png."""
        write_text(Path(folder) / "harden.csv", csv_text(HardenedAccuracy, self.rows))
        if self.before is not None:
            save_png(self.before.figure(self.after), Path(folder) / "harden.png", self.before.synthetic)


def harden(
    run: str | PathLike[str], overrides: Sequence[str] | Mapping[str, object] = (), progress: bool = False
) -> Hardening:
    """Find what breaks a run on validation images, train it anew with that, and compare both once on its test images.

    Before training, harden.yaml is written into the run folder: the run's config with the new augmentation, three times
    the epochs, and a frozen backbone in place of cached features, which nothing augments. Seed and split are the run's.

    Args:
        run: its folder.
        overrides: of the new training, such as `{"trainer.max_epochs": 24}`; `data.root` where the images have moved.
        progress: print a line an epoch, and draw bars for work of more than a second.

    Raises:
        InputError: no such run, one without a test part, data that takes no augmentation, or an override of other data.
    """
    words = override_words(overrides)
    if wrong := [word for word in words if word.startswith(("--", "-c")) and not word.startswith(_OWN)]:
        raise InputError(f"{wrong[0]} is not for harden, which keeps the run's data: expected one of {', '.join(_OWN)}")
    with as_guest(progress):
        folder = RunFolder(RunFolder.open(run).path.resolve())
        before = restore(folder, words)
        before.data.check_test_part()
        validated = _right(predict_corrupted(before, "val", progress), before, "val")
        lost = _alone(validated[:1], validated)
        drops = [paired_interval(*pair, validated.shape[1]) for pair in lost]
        worse = [case for case, (low, _) in zip(CASES, drops, strict=True) if low > 0]
        broken = {corruption: level for corruption, level in worse if corruption and level is not None}  # the worst
        if not broken:
            return Hardening({})
        settings = _propose(before, broken)
        sections: dict[str, Any] = {"base": "config.yaml", "data": {"init_args": {"augmentation": settings}}}
        epochs = (read_yaml(folder.config).get("trainer") or {}).get("max_epochs") or 0
        if epochs > 0:  # -1 is without end
            sections["trainer"] = {"max_epochs": _LONGER * epochs}
        if isinstance(before.task, PretrainedTask) and before.task.cache_features:
            _log.warning("cached features are not augmented: the frozen backbone is run in every step instead")
            own = {"cache_features": False, "trainable": "head", "symmetric": before.task.symmetric}
            sections["model"] = {"init_args": own}
        overlay = folder.path / "harden.yaml"
        write_text(overlay, yaml.safe_dump(sections, sort_keys=False))
        new = returned(*run_fit(["--config", str(overlay), *words], None, progress, before.data.split_table()))
        tested = [predict_corrupted(restored, "test", progress) for restored in (before, restore(new, words))]
    old, after = (evaluate_corrupted(predicted, before.data, "test") for predicted in tested)
    only = _alone(*(_right(predicted, before, "test") for predicted in tested))
    worst = {corruption: corruption.levels[-1] for corruption, _ in CASES if corruption} | broken
    places = [place for place, (corruption, level) in enumerate(CASES) if not corruption or level == worst[corruption]]
    adjusted = dict(zip(places, holm([mcnemar(*only[place]) for place in places]), strict=True))
    rows = [
        HardenedAccuracy(
            **asdict(row), drop=(lost[i][0] - lost[i][1]) / validated.shape[1], drop_low=drops[i][0], drop_high=drops[i][1],
            after=after.rows[i].accuracy, after_balanced=after.rows[i].balanced_accuracy, before_only=only[i][0], after_only=only[i][1], p=mcnemar(*only[i]),
            p_holm=adjusted.get(i),
        )
        for i, row in enumerate(old.rows)
    ]  # fmt: skip
    return Hardening(settings, new, rows, old, after)


def _right(predicted: Sequence[Labels], restored: Restored, part: Part) -> _Right:
    labels = restored.data.labels(part).numpy()
    return np.stack([are_right(found, labels) for found in predicted])


def _alone(first: _Right, second: _Right) -> list[tuple[int, int]]:
    """Count, case by case, the images that one of two alone has right."""
    return [
        (int((a & ~b).sum()), int((~a & b).sum())) for a, b in zip(*np.broadcast_arrays(first, second), strict=True)
    ]


def _propose(restored: Restored, broken: Mapping[Corruption, float]) -> dict[str, Any]:
    """Return a run's own augmentation with what shows the broken levels; of two values of one setting the stronger."""
    own = restored.data.augmentation or Augmentation()
    settings, off = asdict(own), asdict(Augmentation())
    images = restored.data.pixels("val").float() / 255
    for corruption, level in broken.items():
        name, value = corruption.setting, corruption.strength(level, images)
        if name == "snr" and own.noise:  # one alone may be given: the sd that this is of a white image
            name, value = "noise", min(10 ** (-value / 20), 1.0)
        stronger = min if name in _LOWER_IS_STRONGER else max
        settings[name] = value if settings[name] is None else stronger(settings[name], value)
        if name in _SELDOM and not _SELDOM & set(own.operations):
            settings["chance"] = _CHANCE
    return {name: value for name, value in settings.items() if value != off[name]}
