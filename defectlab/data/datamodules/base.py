"""The one datamodule between Lightning and every data set: arguments, split, statistics, checkpoint."""

import logging
from abc import abstractmethod
from collections.abc import Callable, Sequence
from dataclasses import asdict, fields, replace
from math import prod
from typing import Any

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor

from defectlab.data.datamodules.loaders import ON_DEVICE_BYTES, ImageLoaders, Part
from defectlab.data.pipeline.augment import Augmentation
from defectlab.data.pipeline.division import Division, check_classes
from defectlab.data.pipeline.groups import group_names
from defectlab.data.pipeline.loader import Sampling, check_sampling
from defectlab.data.pipeline.split_table import SplitTable, apply_table, content_hash, make_table
from defectlab.data.pipeline.splits import WHOLE, Split, parse_fold, split_hash
from defectlab.data.pipeline.statistics import given_statistics, is_grey
from defectlab.data.sources.backing import check_batch
from defectlab.data.sources.depth import tell_narrow
from defectlab.data.sources.files import check_names
from defectlab.data.sources.images import ImageSet
from defectlab.data.sources.lazy import as_lazy
from defectlab.errors import InputError, check_at_least
from defectlab.utils.card import DataCard
from defectlab.utils.image_format import LEVELS, READING, ImageFormat, Size, Tiles, checked_size, sides
from defectlab.utils.text import listed

log = logging.getLogger(__name__)

_MAX_SEED = 2**32 - 1  # NumPy's largest


class ImageDataModule(ImageLoaders):
    """A set of labelled images as one uint8 tensor, divided into train, val and test.

    The loaders yield `(images, labels)`: float32 `(N, C, H, W)` of mean 0 and sd 1, augmented for training, on
    the trainer's device; int64 `(N,)`, or float32 `(N, num_classes)` with MixUp or CutMix. A concrete class reads
    the images in `load`; its docstring names the arguments that it adds or takes otherwise.

    Args:
        image_size: side in pixels of the square that images are stretched to, or [height, width]; nothing is cut off.
        channels: 1 (grey), 3 (RGB), or those of images that have exactly so many.
        batch_size: images per step and process in training.
        eval_batch_size: images per step and process in evaluation; on a CPU fewer where they are large.
        seed: of the split, the order and the augmentation; a whole number from 0.
        val_size: fraction (below 1) or number of images held out for validation; of the training images where the
            source gives a split without validation.
        test_size: fraction (below 1) or number of images held out for the final test, of the training images where the
            source gives a split without test; null takes a fifth where it gives no split, and nothing where it gives
            train and val alone; 0 takes none. Images that are given as test are always all kept.
        split: `auto` keeps a split that the source gives, `random` divides all images anew, `2/5` takes the second of
            five folds as test part; over all folds every image is tested once; `time` trains on the past, by the times
            of `labels`, and tests on the latest images; `test` takes all images as test part.
        group_by: what stays on one side of every split and fold: a column of `labels`, or a pattern on an image's name with
            one group in parentheses, such as `coil_(\\d+)_`; `auto` takes the group of `labels` if it gives one, null
            nothing. Sizes are then met as far as groups allow.
        sampling: `shuffled` takes each training image once an epoch; `balanced` takes as many, equally many of each class, rare
            ones again and again; `sqrt_balanced` by the square root of the classes' numbers of images. Of several classes
            on one image the rarest counts.
        group_duplicates: keep images of the same place, such as overlapping crops (`near_duplicates`), in the same part
            of the split, whose sizes then may differ from those asked for.
        augmentation: of the training images; null for none.
        mean: one value for pixels in [0, 1], or one per channel; null measures the training part.
        std: one value for pixels in [0, 1], or one per channel; null measures the training part.
        transform: of a training batch `(N, C, H, W)` of floats in [0, 1], after `augmentation`; any callable that keeps the
            shape, such as torchvision's v2 transforms, which draw once for the whole batch.

    Raises:
        InputError: an argument out of range, or images that cannot be read or split as asked.
    """

    def __init__(
        self,
        *,
        image_size: Size,
        channels: int,
        batch_size: int,
        eval_batch_size: int,
        seed: int,
        val_size: int | float,
        test_size: int | float | None,
        augmentation: Augmentation | None,
        mean: Sequence[float] | float | None,
        std: Sequence[float] | float | None,
        split: str = "auto",
        group_duplicates: bool = False,
        transform: Callable[[Tensor], Tensor] | None = None,
        group_by: str | None = "auto",
        sampling: Sampling = "shuffled",
    ) -> None:
        super().__init__()
        if augmentation is not None and not isinstance(augmentation, Augmentation):
            raise InputError(
                f"data.augmentation is a {type(augmentation).__name__}: expected an Augmentation; give a transform of the "
                "batch, such as one of torchvision's v2, as data.transform"
            )
        check_at_least("data.batch_size", batch_size, 1)
        check_at_least("data.eval_batch_size", eval_batch_size, 1)
        ImageFormat(image_size=1, channels=channels)  # it refuses other numbers of channels
        if not 0 <= seed <= _MAX_SEED:
            raise InputError(f"data.seed is {seed}: expected a whole number from 0 to {_MAX_SEED}")
        parse_fold(split)  # it refuses what is none
        check_sampling(sampling)
        self.sampling: Sampling = sampling
        self._statistics = given_statistics(mean, std, channels)
        self._size = checked_size(image_size, "data.image_size")
        self.channels = channels
        self.batch_size = batch_size
        self.eval_batch_size = eval_batch_size
        self.seed = seed
        self.val_size = val_size
        self.test_size = test_size
        self.split = split
        self.group_duplicates = group_duplicates
        self.group_by = group_by
        self.augmentation = augmentation
        self.transform = transform
        self._kept: SplitTable | None = None
        self._table: SplitTable | None = None
        self._old_hash = ""
        self._trained: dict[str, Any] | None = None  # levels of a checkpoint

    @property
    def image_format(self) -> ImageFormat:
        """Return how an image becomes pixels, as far as that is known before any is read."""
        return ImageFormat(image_size=self._size, channels=self.channels)

    @property
    def image_size(self) -> Size:
        """Return the side of the images in pixels, or height and width."""
        return self.image_format.image_size

    @property
    def multilabel(self) -> bool:
        """Return whether an image may have several of the classes, or none."""
        return False

    @property
    def tiles(self) -> Tiles | None:
        """Return the tiles of the images that a network is to look at, None where it looks at whole images."""
        return None

    @abstractmethod
    def load(self) -> ImageSet:
        """Read every image, with one channel where all would be equal; called once per process, after `prepare_data`."""

    def setup(self, stage: str | None = None) -> None:
        """Read, split and measure the images, once."""
        if self._data is not None:
            return
        check_batch(self.image_size, self.batch_size, prod(self.image_format.shape))
        data = self.load().reordered(self.class_names)
        if (data.labels.ndim == 2) != self.multilabel:
            raise InputError(
                f"{self.location} has one class an image, and data asks for several: expected a file of labels or boxes that "
                "gives them (data.labels), or leave data.label_columns.several out"
            )
        check_names(self.location, data.class_names)
        known = self._known(data.files, data.splits)
        if len(known) < len(data.files):
            data = data.select(np.array(known, dtype=np.int64))
        names = data.label_texts
        data.records = replace(data.records, groups=self._group_names(data))
        if self._kept is None:
            parts = self.divide(data)
            table = make_table(parts, names, data.files, self._told(data), data.records.groups)
        else:
            table = self._kept
            parts = apply_table(table, names, data.files, self._told(data))
        used = np.sort(np.concatenate((parts.train, parts.val, parts.test)))
        if len(used) < len(data.labels):  # what augmentation does hangs on an image's place among those used
            data = data.select(used)
            parts = Split(*(np.searchsorted(used, part) for part in (parts.train, parts.val, parts.test)))
        # Grey images stored as RGB: a third of the memory, and of the work to augment them.
        images = data.images
        if as_lazy(images) is None and images.shape[1] > 1 and images.nbytes <= ON_DEVICE_BYTES and is_grey(images):
            data.images = images[:, :1].contiguous()
        if self.image_size != 1 and (flat := data.flat()):
            log.warning(
                "%s: %d of %d images are of one grey value and show nothing (%s)",
                self.location, len(flat), len(data.files), listed([data.files[index] for index in flat]),
            )  # fmt: skip
        tell_narrow(data.images, parts.train, self.location)
        if self._statistics is None and len(parts.train):  # else a checkpoint brings them
            mean, std = data.statistics(parts.train)
            copies = self.channels // len(mean)
            self._statistics = mean * copies, std * copies
        self._data, self._parts, self._table = data, parts, table
        self._old_hash = split_hash(parts, data.strata)
        self._card = None if self._statistics is None else self._make_card(*self._statistics)

    def keep_split(self, table: SplitTable) -> None:
        """Divide the images as `table` does; call it before `setup`.

        `setup` then leaves out images that the table does not have, with a warning that names the first; it raises
        InputError for images of the table that are missing or have another content or label.

        Raises:
            InputError: the images are read already.
        """
        if self._data is not None:
            raise InputError("the data set is read already: call keep_split() before setup()")
        self._kept = table

    @property
    def measures(self) -> bool:
        """Return whether mean and sd are measured, neither given nor of a checkpoint."""
        return self._statistics is None

    def split_table(self) -> SplitTable:
        """Return the part, label, size and content of every image that is used; call `setup` first."""
        if self._table is None:
            raise InputError("the data set is not split yet: call setup() first")
        return self._table

    def _told(self, data: ImageSet) -> Callable[[int], tuple[int, str]]:
        """Return what tells one image from another: of generated ones the settings, as machines round differently."""
        if data.index is not None:
            return data.index.told
        content = data.content or (lambda index: data.images[index].numpy().tobytes())
        if data.content is None and self.source == "synthetic":
            content = lambda index: f"{self.location}\0{data.files[index]}".encode()  # noqa: E731
        return lambda index: (len(told := content(index)), content_hash(told))

    def _known(self, files: Sequence[str], splits: Sequence[str] | None) -> list[int]:
        """Return which files are in the split that is kept, all without one; a warning counts and names the others."""
        if self._kept is None:
            return list(range(len(files)))
        known = {row.file for row in self._kept.rows}
        if known.isdisjoint(files):
            raise InputError(
                f"{self.location} has none of the {len(known)} images of the run: give the folder they are in"
            )
        unused = "test" if self.test_size == 0 and self.split == "auto" else None  # a given test part is left out
        new = [
            file for file, part in zip(files, splits or [""] * len(files), strict=True)
            if file not in known and part != unused
        ]  # fmt: skip
        if new:
            log.warning(
                "%s has %d images that are not in the run's split: they are left out (%s)",
                self.location, len(new), listed(new),
            )  # fmt: skip
        return [index for index, file in enumerate(files) if file in known]

    def _training_rows(self, data: ImageSet) -> Sequence[int]:
        """Return which images of a set without pixels are to train on, as far as that is known before they are read.

        Images that turn out to be bad, or are kept with others, may change it.
        """
        if self._kept is not None:
            train = {row.file for row in self._kept.rows if row.part == "train"}
            return [index for index, file in enumerate(data.files) if file in train]
        try:
            planned = data.reordered(self.class_names)
            groups = group_names(self.group_by, planned.files, planned.records)
            planned = replace(planned, records=replace(planned.records, groups=groups))
            return list(self._division.divide(planned, planned=True).train.tolist())
        except InputError:  # it is told when they are divided
            return range(len(data.files))

    def _group_names(self, data: ImageSet) -> npt.NDArray[Any] | None:
        """Return the group of each image, of a kept split as that has it; a warning tells of names that look grouped."""
        if self._kept is not None:
            kept = {row.file: row.group for row in self._kept.rows}
            return np.array([kept[file] for file in data.files]) if any(kept.values()) else None
        return self._division.group_names(data)

    @property
    def _division(self) -> Division:
        return Division(
            split=self.split, val_size=self.val_size, test_size=self.test_size, seed=self.seed, group_by=self.group_by,
            group_duplicates=self.group_duplicates, location=self.location,
        )  # fmt: skip

    def divide(self, data: ImageSet) -> Split:
        """Split the images as the arguments say, so that there are images of every class to train on."""
        parts = self._division.divide(data)
        if self.split != WHOLE and not self.generated:
            check_classes(parts, data, self.location)
        return parts

    def _make_card(self, mean: Sequence[float], std: Sequence[float]) -> DataCard:
        means, deviations = (tuple(float(value) for value in values) for values in (mean, std))
        return DataCard(
            class_names=tuple(self.class_names), mean=means, std=deviations, source=self.source,
            split_hash=self.split_table().hash, multilabel=self.multilabel, **{**vars(self.image_format), **self.data.reading},
        )  # fmt: skip

    def describe(self) -> dict[str, Any]:
        """Return the plain values that metrics.json and the checkpoint keep."""
        parts: tuple[Part, ...] = ("train", "val", "test")
        return {
            "source": self.source,
            "root": self.location,
            "class_names": list(self.class_names),
            "counts": {p: dict(zip(self.class_names, self.class_counts(p), strict=True)) for p in parts},
            "split_hash": self.card.split_hash,
            **({"multilabel": True} if self.multilabel else {}),
            "mean": list(self.card.mean),
            "std": list(self.card.std),
            "image_size": self.image_size if isinstance(self.image_size, int) else list(self.image_size),
            "tiles": None if self.tiles is None else asdict(self.tiles),
            "channels": self.channels,
            **{name: getattr(self.card, name) for name in ("fit", "scale", "pad_value", *READING)},
            "skipped": [str(skipped) for skipped in self.data.skipped],
            "group_by": None if self.data.records.groups is None else self.group_by,
            "groups": {part: len(set(self.groups(part) or ())) for part in parts},
        }

    def state_dict(self) -> dict[str, Any]:
        """Return what a checkpoint keeps of the data: `describe()`."""
        return self.describe()

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        """Take over the checkpoint's normalisation; warn if its split is another one.

        Raises:
            InputError: the checkpoint was trained on other classes or another number of channels.
        """
        if list(state_dict["class_names"]) != list(self.class_names):
            raise InputError(
                f"the checkpoint knows the classes {', '.join(state_dict['class_names'])}, the data has "
                f"{', '.join(self.class_names)}: use the data set that the checkpoint was trained on"
            )
        if state_dict.get("multilabel", False) != self.multilabel:
            own, other = ("several", "one") if self.multilabel else ("one", "several")
            raise InputError(
                f"an image has {own} of the classes here, {other} where the checkpoint was trained: see "
                "data.label_columns.several"
            )
        channels = state_dict["channels"]
        if channels != self.channels:
            raise InputError(
                f"data.channels is {self.channels}, the checkpoint was trained with {channels}: use the same"
            )
        trained = {field.name: state_dict[field.name] for field in fields(ImageFormat) if field.name in state_dict}
        trained_on, here_on = ImageFormat(**trained).geometry, self.image_format.geometry
        if trained_on != here_on:
            log.warning("the checkpoint was trained on images of %s, here they are of %s", trained_on, here_on)
        self._statistics = state_dict["mean"], state_dict["std"]
        known, self._trained = self._trained, {name: state_dict[name] for name in LEVELS if name in state_dict}
        if self._data is None:
            return
        levels = {"black_level": 0.0, **self._trained}
        white, here = levels.get("white_level"), self.data.reading
        found = here.get("white_level")
        # A network of 8 bits takes what needs no question: all 16 bits, or floats.
        same = all(here.get(name, levels.get(name)) == levels.get(name) for name in ("white_level", "black_level"))
        if known is None and found is not None and not (same or (white is None and found in (1, 255, 65535))):
            text = "it was trained on images of 8 bits" if white is None else f"{white:g} is for the checkpoint"
            raise InputError(
                f"{self.location}: {found:g} is white, and {here['black_level']:g} black, but {text}: give data.white_level "
                "and data.black_level, or convert them"
            )
        self._card = self._make_card(*self._statistics)
        trained_split = state_dict["split_hash"]
        split = self._old_hash if len(trained_split) == len(self._old_hash) else self._card.split_hash
        if trained_split != split and self.split != WHOLE:
            log.warning(
                "the checkpoint was trained with another split of the data (%s, here %s): images evaluated "
                "here may be among those it was trained on", trained_split, split,
            )  # fmt: skip


def resized(images: Tensor, size: Size) -> Tensor:
    """Return images `(N, C, H, W)` stretched to a size, of the same type."""
    if images.shape[2:] == sides(size):
        return images
    return torch.nn.functional.interpolate(images, sides(size), mode="bilinear", antialias=True)


def check_class_names(names: Sequence[str] | None) -> tuple[str, ...] | None:
    """Return `names`; InputError for fewer than two, or one given twice."""
    if names is not None and len(set(names)) < max(2, len(names)):
        raise InputError(f"data.class_names is {', '.join(names) or 'empty'}: expected two or more names, each once")
    check_names("data.class_names", names or ())
    return None if names is None else tuple(names)
