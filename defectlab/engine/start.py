"""Choose a starting point: the backbone, weights and images whose frozen features tell the training images apart best."""

import logging
import os
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass, replace
from inspect import signature
from os import PathLike, fspath
from pathlib import Path
from statistics import stdev
from typing import Any

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor

from defectlab.data.datamodules.base import ImageDataModule
from defectlab.data.pipeline.duplicates import near_duplicates
from defectlab.data.pipeline.groups import Groups
from defectlab.data.pipeline.split_table import SplitTable
from defectlab.engine.configs import override_words, read_arguments
from defectlab.engine.experiment import DefectCLI
from defectlab.engine.host import as_guest
from defectlab.engine.probe import (
    SHARES,
    Folds,
    class_shares,
    inner_folds,
    learning_curve,
    standard_error,
    tested_right,
)
from defectlab.engine.start_choice import CurvePoint, Start, StartChoice, StartRow, StartSettings
from defectlab.errors import InputError
from defectlab.networks.backbones import BACKBONES
from defectlab.tasks import PretrainedTask
from defectlab.utils._compat import torchvision_models
from defectlab.utils.image_format import ImageFormat, Tiles
from defectlab.utils.progress import later_rank, progress_bar

_log = logging.getLogger(__name__)


def choose_start(
    config: str | PathLike[str],
    settings: StartSettings | None = None,
    *,
    overrides: Sequence[str] | Mapping[str, object] = (),
    progress: bool = False,
) -> StartChoice:
    """Choose a starting point of training by inner cross-validation of frozen features on training and validation images.

    The features of each candidate are computed once, and kept in the cache for runs with the same images. A linear probe is
    cross-validated on them; the choice is the best by balanced accuracy, or an earlier candidate that is behind by
    `settings.tolerance` at most. Images of the test part are never looked at with their labels.

    Args:
        config: YAML file or name of a shipped one, of a PretrainedTask.
        settings: what to choose from; None for those of the config, its section `choose`.
        overrides: arguments of `fit`, as words or as values by dotted or nested name.
        progress: draw bars for work of more than a second.

    Raises:
        InputError: no candidate can be had, or a task or data that none can be chosen for.
    """
    with as_guest(progress):
        return _choose(("--config", fspath(config), *override_words(overrides)), settings, None)


def settle_start(
    words: Sequence[str], split: SplitTable | None = None
) -> tuple[tuple[str, ...], SplitTable | None, StartChoice | None]:
    """Return the arguments of `fit` with the starting point that they ask for, the split to keep, and the choice.

    Without a section `choose` all stay as they are. `split` divides the images while it is chosen, too.
    """
    sections = read_arguments(words).sections
    asked = [section["choose"] for section in sections if "choose" in section]
    if not any(word.startswith("--choose") for word in words) and (not asked or asked[-1] is None):
        return tuple(words), split, None
    with as_guest():
        choice = _choose(words, None, split)
    return (*words, "--choose", "null", *override_words(choice.settings)), choice.split or split, choice


def _choose(words: Sequence[str], settings: StartSettings | None, split: SplitTable | None) -> StartChoice:
    base = _built(words, read_weights=False)
    settings = settings or base.config_init["fit"].choose
    if settings is None:
        raise InputError("the config has no section choose: expected one, or settings to choose by")
    _check(base)
    trials = _Trials(words, settings, split)
    takes = signature(type(base.datamodule)).parameters
    with progress_bar("trying starting points", len(settings.images) * len(settings.candidates)) as advance:
        for images in settings.images:
            trials.add({name: value for name, value in asdict(images).items() if name in takes}, advance)
    return trials.choice()


def _built(words: Sequence[str], read_weights: bool = True) -> DefectCLI:
    """Build what the words of fit describe, for no run."""
    words = [*words, "--trainer.logger", "false"]
    return DefectCLI("fit", words, run=Path(os.devnull), read_weights=read_weights, keep_split=False)


def _check(base: DefectCLI) -> None:
    """Raise InputError for what no starting point can be chosen for."""
    task, data = base.model, base.datamodule
    if not isinstance(task, PretrainedTask):
        raise InputError(f"choose is for PretrainedTask, and model is {type(task).__name__}: set choose to null")
    if data.multilabel:
        raise InputError("choose compares by one class an image, and data gives several: set choose to null")
    if base.config["fit"].ckpt_path is not None:
        raise InputError(
            "choose picks the weights to begin with, and ckpt_path goes on with others: set choose to null"
        )
    if base.trainer.world_size > 1 or later_rank() is not None:
        raise InputError(
            "choose works in one process: fit with --trainer.devices 1, or give several the config.yaml of such a run"
        )


def _check_cached(start: Start) -> None:
    """Raise InputError for weights that would be downloaded: nobody has asked for these in particular."""
    if start.weights == "imagenet" and start.backbone in BACKBONES:
        url = torchvision_models().get_model_weights(start.backbone).DEFAULT.url
        file = Path(torch.hub.get_dir()) / "checkpoints" / url.rpartition("/")[2]
        if not file.exists():
            raise InputError(f"{file} is not there: put it there from {url}, or fit once with these weights")


@dataclass(frozen=True, kw_only=True)
class _Trial:
    """A candidate that was tried: how often each image was recognised (N,), and the features of all images of the set."""

    row: StartRow
    given: dict[str, dict[str, Any]]
    right: npt.NDArray[np.float64]
    features: Tensor


@dataclass(frozen=True, kw_only=True)
class _Pool:
    """The images that a choice looks at, `indices` (N,) into the set; their labels, groups and folds."""

    indices: npt.NDArray[np.int64]
    labels: npt.NDArray[np.int64]
    groups: npt.NDArray[np.int64]
    folds: Folds

    def probe(self, features: Tensor, share: float = 1.0) -> tuple[npt.NDArray[np.float64], list[float]]:
        """Probe the features of all images of the set, see `tested_right`."""
        own = features[torch.from_numpy(self.indices)].cpu().numpy()
        return tested_right(own, self.labels, self.folds, self.groups, share)


def _pool_of(data: ImageDataModule, settings: StartSettings) -> _Pool:
    """Return the training and validation images of a set, and folds that keep together what its split keeps."""
    images = data.data
    names = np.asarray(images.files if images.records.groups is None else images.records.groups)
    unique, codes = np.unique(names, return_inverse=True)
    if data.group_duplicates:
        own = Groups(codes=codes, names=unique.tolist(), by="", class_names=data.class_names)
        codes = own.joined(near_duplicates(images.images)).codes
    indices = np.concatenate((data.parts.train, data.parts.val))
    labels, groups = images.labels.numpy()[indices], np.unique(codes[indices], return_inverse=True)[1]
    folds = inner_folds(labels, groups, settings.folds, settings.repeats, data.seed)
    return _Pool(indices=indices, labels=labels, groups=groups, folds=folds)


class _Trials:
    """What was tried so far, and what was left out."""

    def __init__(self, words: Sequence[str], settings: StartSettings, split: SplitTable | None) -> None:
        self._words, self._settings, self._split = words, settings, split
        self._trials: list[_Trial] = []
        self._left_out: list[StartRow] = []
        self._seen: list[tuple[ImageFormat, Tiles | None]] = []
        self._pool: _Pool | None = None

    def add(self, images: dict[str, Any], advance: Callable[[int], None]) -> None:
        """Try each candidate on images with these settings of the data."""
        data: ImageDataModule | None = None
        for start in self._settings.candidates:
            began, given = time.perf_counter(), {"model": asdict(start), "data": images}
            row = StartRow(**given["model"] | {"stages": str(start.stages)}, images=" ".join(map(str, images.values())))
            try:
                _check_cached(start)
                cli = _built([*self._words, *override_words(given)])
            except InputError as error:
                self._leave_out(replace(row, left_out=str(error)))
                continue
            finally:
                advance(1)
            if data is None:
                data = self._read(cli)
                if data is None:
                    return
            assert self._pool is not None
            features = cli.model.to(cli.trainer.strategy.root_device).cache_embeddings(data)
            data.clear_features()
            right, scores = self._pool.probe(features)
            row = replace(
                row, images=data.image_format.geometry + ("" if data.tiles is None else ", in tiles"),
                balanced_accuracy=float(class_shares(self._pool.labels) @ right), sd=stdev(scores),
                seconds=time.perf_counter() - began,
            )  # fmt: skip
            self._trials.append(_Trial(row=row, given=given, right=right, features=features))

    def _leave_out(self, row: StartRow) -> None:
        """Note and tell why a candidate is left out, once for all images."""
        if all(replace(row, images=other.images) != other for other in self._left_out):
            _log.warning("choose goes on without %s: %s", row.text, row.left_out)
            self._left_out.append(row)

    def _read(self, cli: DefectCLI) -> ImageDataModule | None:
        """Read the images of a candidate; None where earlier settings came to the same images."""
        data: ImageDataModule = cli.datamodule
        if (data.image_format, data.tiles) in self._seen:
            return None
        self._seen.append((data.image_format, data.tiles))
        if self._split is not None:
            data.keep_split(self._split)
        data.trainer = cli.trainer  # which knows the device
        data.prepare_data()
        data.setup("fit")
        if self._pool is None:
            self._pool = _pool_of(data, self._settings)
            if data.group_duplicates:  # they are found in pixels, which another image_size changes
                self._split = data.split_table()
        return data

    def choice(self) -> StartChoice:
        """Choose, and measure what more labels would bring."""
        pool = self._pool
        if pool is None:
            first = self._left_out[0]
            raise InputError(f"choose.candidates: none can be had, {first.text}: {first.left_out}")
        scores = [trial.row.balanced_accuracy or 0.0 for trial in self._trials]
        best = self._trials[int(np.argmax(scores))]
        chosen = next(i for i, score in enumerate(scores) if score >= max(scores) - self._settings.tolerance)
        rows = [
            replace(
                trial.row, behind=max(scores) - score, chosen=i == chosen,
                behind_se=standard_error(best.right - trial.right, pool.labels, pool.groups),
            )
            for i, (trial, score) in enumerate(zip(self._trials, scores, strict=True))
        ]  # fmt: skip
        found = self._trials[chosen]
        right = np.stack([pool.probe(found.features, share)[0] for share in SHARES[:-1]] + [found.right])
        mean, sd = learning_curve(right, pool.labels, pool.groups, seed=0)
        trained = float(np.mean([len(train) for train, _ in pool.folds]))
        curve = [
            CurvePoint(
                labelled=round(share * trained), balanced_accuracy=float(mean[i]), sd=float(sd[i]), extrapolated=share > 1
            )
            for i, share in enumerate((*SHARES, 2.0))
        ]  # fmt: skip
        return StartChoice(
            settings=found.given, rows=[*sorted(rows, key=lambda row: row.behind or 0.0), *self._left_out], curve=curve,
            gain=(float(mean[-1]), float(sd[-1])), split=self._split,
        )  # fmt: skip
