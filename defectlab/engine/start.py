"""Choose a starting point: the backbone, weights and images whose frozen features tell the training images apart best."""

import logging
import os
import time
from collections.abc import Mapping, Sequence
from dataclasses import asdict
from os import PathLike, fspath
from pathlib import Path

import numpy as np
import numpy.typing as npt
import torch

from defectlab.data.datamodules.base import ImageDataModule
from defectlab.data.pipeline.division import groups_of
from defectlab.data.pipeline.duplicates import near_duplicates
from defectlab.data.pipeline.split_table import SplitTable
from defectlab.engine.configs import override_words, read_arguments
from defectlab.engine.experiment import DefectCLI
from defectlab.engine.host import as_guest
from defectlab.engine.probe import SHARES, inner_folds, learning_curve, out_of_fold_hits, resampled_weights
from defectlab.engine.start_choice import Start, StartChoice, StartRow, StartSettings
from defectlab.errors import InputError
from defectlab.networks.backbones import BACKBONES
from defectlab.networks.weights import imagenet_file
from defectlab.tasks import PretrainedTask
from defectlab.utils.progress import later_rank, progress_bar

_log = logging.getLogger(__name__)
_FIGURES = ("balanced_accuracy", "se", "behind", "behind_se")
_ALIKE = 0.001  # balanced accuracy by which an earlier candidate may be behind the best


def choose_start(
    config: str | PathLike[str],
    candidates: Sequence[Start] | None = None,
    *,
    overrides: Sequence[str] | Mapping[str, object] = (),
    progress: bool = False,
) -> StartChoice:
    """Choose a starting point of training by cross-validation of frozen features on the training and validation images.

    Features are kept in the cache, also for training. The candidate whose linear probes have the highest balanced accuracy on
    inner folds is chosen, or an earlier one that is behind by 0.1 points at most. Labels of test images play no part.

    Args:
        config: YAML file or name of a shipped one, of a PretrainedTask.
        candidates: what to choose from; None for those in the section `choose` of the config.
        overrides: arguments of `fit`, as words or as values by dotted or nested name.
        progress: draw bars for work of more than a second.

    Raises:
        InputError: no candidate can be had, or there are none for such a task or data.
    """
    own = {} if candidates is None else {"choose.candidates": [asdict(start) for start in candidates]}
    with as_guest(progress):
        choice = settle_start(("--config", fspath(config), *override_words(overrides), *override_words(own)))[2]
    if choice is None:
        raise InputError(f"{fspath(config)} has no section choose: expected one, or candidates to choose from")
    return choice


def settle_start(
    words: Sequence[str], split: SplitTable | None = None
) -> tuple[Sequence[str], SplitTable | None, StartChoice | None]:
    """Return the arguments of `fit` with the starting point that their section `choose` asks for, if they have one.

    Beside them are the split to keep, also while it is chosen, and the choice.
    """
    asked = any(section.get("choose") for section in read_arguments(words).sections)
    if not asked and not any(word.startswith("--choose") for word in words):
        return words, split, None
    with as_guest():
        base = _built(words, read_weights=False)
        settings = base.config_init["fit"].choose
        if settings is None:
            return words, split, None
        _check(base)
        choice, split = _choose(words, settings, split)
    return (*words, "--choose", "null", *override_words(choice.chosen.settings)), split, choice


def _choose(
    words: Sequence[str], settings: StartSettings, split: SplitTable | None
) -> tuple[StartChoice, SplitTable | None]:
    tried: list[tuple[Start, float, torch.Tensor, npt.NDArray[np.float64]]] = []  # seconds, features, how often right
    left_out: list[StartRow] = []
    data: ImageDataModule | None = None
    with progress_bar("trying starting points", len(settings.candidates)) as advance:
        for start in settings.candidates:
            began = time.perf_counter()
            try:
                _check_cached(start)
                cli = _built([*words, *override_words(start.settings)])
            except InputError as error:
                left_out.append(StartRow(**asdict(start), left_out=str(error)))
                _log.warning("choose goes on, %s", str(left_out[-1]).strip())
                continue
            if data is None or (data.image_format, data.tiles) != (cli.datamodule.image_format, cli.datamodule.tiles):
                data = cli.datamodule
                if split is not None:
                    data.keep_split(split)
                data.trainer = cli.trainer  # which knows the device
                data.prepare_data()
                data.setup("fit")
                if not tried:
                    places, labels, groups = _pool_of(data)
                    folds = inner_folds(labels, groups, settings.folds, data.seed)
                if data.group_duplicates:  # they are found in pixels, which another image_size changes
                    split = data.split_table()
            features = cli.model.to(cli.trainer.strategy.root_device).cache_embeddings(data)
            data.clear_features()
            right = out_of_fold_hits(features[places].cpu().numpy(), labels, groups, folds)
            tried.append((start, time.perf_counter() - began, features, right))
            advance(1)
    if not tried:
        raise InputError(f"choose.candidates: none of {len(left_out)} can be had; {str(left_out[0]).strip()}")
    weights = resampled_weights(labels, groups)
    scores = np.minimum(weights @ np.stack([right for *_, right in tried], axis=1), 1)  # which rounding may exceed
    best, chosen = int(scores[0].argmax()), int((scores[0] >= scores[0].max() - _ALIKE).argmax())
    behind = scores[:, [best]] - scores
    figures = np.stack((scores[0], scores[1:].std(axis=0), behind[0], behind[1:].std(axis=0)), axis=1).tolist()
    rows = [
        StartRow(**asdict(start), **dict(zip(_FIGURES, row, strict=True)), seconds=seconds, chosen=i == chosen)
        for i, ((start, seconds, *_), row) in enumerate(zip(tried, figures, strict=True))
    ]
    *_, features, right = tried[chosen]
    own = features[places].cpu().numpy()
    fewer = [out_of_fold_hits(own, labels, groups, folds, share) for share in SHARES[:-1]]
    curve, gain_se = learning_curve(np.stack([*fewer, right]), weights)
    trained = round(float(np.mean([len(train) for train, _ in folds])))
    points = dict(zip([round(share * trained) for share in (*SHARES, 2)], curve, strict=True))
    return StartChoice([*sorted(rows, key=lambda row: row.behind or 0.0), *left_out], points, gain_se), split


def _built(words: Sequence[str], read_weights: bool = True) -> DefectCLI:
    """Build what the words of fit describe, for no run."""
    words = [*words, "--trainer.logger", "false"]
    return DefectCLI("fit", words, run=Path(os.devnull), read_weights=read_weights, keep_split=False)


def _check(base: DefectCLI) -> None:
    """Raise InputError for what no starting point can be chosen for."""
    task, given = base.model, base.config_init["fit"]
    wrong = {
        "it judges one class an image, and data gives several": base.datamodule.multilabel,
        "it is of fixed features, and model.pooling is attention": task.hparams.get("pooling") == "attention",
        "ckpt_path brings weights of its own": given.ckpt_path is not None,
        "it works in one process, and trainer asks for more": base.trainer.world_size > 1 or later_rank() is not None,
        f"it is for PretrainedTask, and model is {type(task).__name__}": not isinstance(task, PretrainedTask),
    }
    for text in (text for text, found in wrong.items() if found):
        raise InputError(f"no starting point can be chosen, as {text}: change that, or set choose to null")


def _check_cached(start: Start) -> None:
    """Raise InputError for weights that would be downloaded: nobody has asked for these in particular."""
    if start.weights == "imagenet" and start.backbone in BACKBONES:
        file, url = imagenet_file(start.backbone)
        if not file.exists():
            raise InputError(f"{file} is not there: put it there from {url}, or fit once with these weights")


def _pool_of(data: ImageDataModule) -> tuple[npt.NDArray[np.int64], npt.NDArray[np.int64], npt.NDArray[np.int64]]:
    """Return the places (N,) in the set of the images to choose by, their labels, and what its split keeps together."""
    images = data.data
    groups = groups_of(images)
    if data.group_duplicates:
        groups = groups.joined(near_duplicates(images.images))
    places = np.concatenate((data.parts.train, data.parts.val))
    return places, images.labels.numpy()[places], np.unique(groups.codes[places], return_inverse=True)[1]
