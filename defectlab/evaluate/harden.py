"""Train a run anew with the corruptions that break it, and compare both networks."""

from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, replace
from os import PathLike
from pathlib import Path
from typing import Any

import yaml

from defectlab.data import Augmentation
from defectlab.engine.configs import override_words
from defectlab.engine.fit import returned, run_fit
from defectlab.engine.host import as_guest
from defectlab.engine.restore import Restored, restore
from defectlab.errors import InputError
from defectlab.evaluate.robustness import CASES, CorruptionAccuracy, Judged, Robustness, count_right, judge_corrupted
from defectlab.figures.style import save_png
from defectlab.metrics.statistics import holm, mcnemar, paired_interval
from defectlab.runs import RunFolder, csv_text, write_text
from defectlab.tasks import PretrainedTask
from defectlab.utils.yamls import read_yaml

_LOWER_IS_STRONGER = ("snr", "jpeg", "lowest_contrast")
_SELDOM = {"snr", "illumination", "blur", "defocus", "motion_blur", "lowest_contrast", "gamma", "shot_snr", "jpeg"}
_CHANCE, _LONGER = 0.3, 3  # as neu_robust.yaml: three images in ten get each of them, in three times the epochs
_OWN = ("--data.root", "--trainer.", "--model.", "--cpu.", "--seed_everything")


@dataclass(frozen=True, kw_only=True)
class HardenedAccuracy(CorruptionAccuracy):
    """Accuracy of a run on its test images, and `after` on the same of the run that was hardened, in [0, 1].

    `drop` below the clean accuracy, on validation images and with a 95 % interval, says what broke. Of the test images
    `before_only` and `after_only` are right by one run alone; `p` is McNemar's. `p_holm` is adjusted over the clean
    images and a level of each corruption, the worst that broke, else the last; None for others.
    """

    drop: float
    drop_low: float
    drop_high: float
    after: float
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
        validated = judge_corrupted(before, "val", progress)
        broken = {
            corruption.name: (corruption, level)
            for (corruption, level), worse in zip(CASES, validated, strict=True)
            if corruption and paired_interval(*_alone(validated[0], worse), len(worse))[0] > 0
        }
        if not broken:
            return Hardening({})
        settings = _propose(before, list(broken.values()))
        overlay = folder.path / "harden.yaml"
        write_text(overlay, _overlay(before, read_yaml(folder.config), settings))
        new = returned(*run_fit(["--config", str(overlay), *words], None, progress, before.data.split_table()))
        tested = [judge_corrupted(restored, "test", progress) for restored in (before, restore(new, words))]
    old, after = (count_right(right, before.data) for right in tested)
    rows = [_row(row, validated[0], *right) for row, *right in zip(old.rows, validated, *tested, strict=True)]
    worst = {corruption: corruption.levels[-1] for corruption, _ in CASES if corruption} | dict(broken.values())
    places = [place for place, (corruption, level) in enumerate(CASES) if level == (corruption and worst[corruption])]
    for place, p in zip(places, holm([rows[place].p for place in places]), strict=True):
        rows[place] = replace(rows[place], p_holm=p)
    return Hardening(settings, new, rows, old, after)


def _alone(first: Judged, second: Judged) -> tuple[int, int]:
    """Count the images that one of two alone has right."""
    return int((first & ~second).sum()), int((~first & second).sum())


def _row(row: CorruptionAccuracy, clean: Judged, worse: Judged, before: Judged, after: Judged) -> HardenedAccuracy:
    lost, only = _alone(clean, worse), _alone(before, after)
    low, high = paired_interval(*lost, len(clean))
    return HardenedAccuracy(
        **asdict(row), drop=(lost[0] - lost[1]) / len(clean), drop_low=low, drop_high=high, after=float(after.mean()),
        before_only=only[0], after_only=only[1], p=mcnemar(*only), p_holm=None,
    )  # fmt: skip


def _propose(restored: Restored, broken: Sequence[tuple[Any, Any]]) -> dict[str, Any]:
    """Return a run's own augmentation with what shows the broken levels; of two values of one setting the stronger."""
    own = restored.data.augmentation or Augmentation()
    settings, off = asdict(own), asdict(Augmentation())
    images = restored.data.pixels("val").float() / 255
    for corruption, level in broken:
        name, value = corruption.setting, corruption.strength(level, images)
        if name == "snr" and own.noise:  # one alone may be given: the sd that this is of a white image
            name, value = "noise", min(10 ** (-value / 20), 1.0)
        stronger = min if name in _LOWER_IS_STRONGER else max
        settings[name] = value if settings[name] is None else stronger(settings[name], value)
        if name in _SELDOM and not _SELDOM & set(own.operations):
            settings["chance"] = _CHANCE
    return {name: value for name, value in settings.items() if value != off[name]}


def _overlay(restored: Restored, config: Mapping[str, Any], settings: Mapping[str, Any]) -> str:
    sections: dict[str, Any] = {"base": "config.yaml", "data": {"init_args": {"augmentation": settings}}}
    if (config.get("trainer") or {}).get("max_epochs"):
        sections["trainer"] = {"max_epochs": _LONGER * config["trainer"]["max_epochs"]}
    if isinstance(restored.task, PretrainedTask) and restored.task.cache_features:
        sections["model"] = {"init_args": {"cache_features": False, "trainable": "head"}}
    return "# Made by `robustness RUN --harden` from what broke the run.\n" + yaml.safe_dump(sections, sort_keys=False)
