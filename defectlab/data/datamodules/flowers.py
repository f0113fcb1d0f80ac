"""Oxford 102 Flowers (Nilsback & Zisserman 2008): photographs of 102 kinds of flowers, 40 to 258 of each.

1,020 are for training and 1,020 for validation, ten a class each, and 6,149 for the test. The images were found on
the web by the authors of the paper; no licence comes with them.
"""

from collections.abc import Sequence
from difflib import get_close_matches
from functools import cached_property
from pathlib import Path
from typing import Literal

import numpy as np
from torchvision import datasets

from defectlab.data.datamodules.folder import ImageFolderDataModule
from defectlab.data.pipeline.augment import Augmentation
from defectlab.data.sources.archive import check_regular
from defectlab.data.sources.fetch import fetch_by_torchvision
from defectlab.data.sources.layouts import Listing
from defectlab.errors import InputError
from defectlab.utils.image_format import Size

# In the order of the labels. torchvision 0.21 does not have them.
FLOWERS = (
    "pink primrose", "hard-leaved pocket orchid", "canterbury bells", "sweet pea", "english marigold",
    "tiger lily", "moon orchid", "bird of paradise", "monkshood", "globe thistle", "snapdragon", "colt's foot",
    "king protea", "spear thistle", "yellow iris", "globe-flower", "purple coneflower", "peruvian lily",
    "balloon flower", "giant white arum lily", "fire lily", "pincushion flower", "fritillary", "red ginger",
    "grape hyacinth", "corn poppy", "prince of wales feathers", "stemless gentian", "artichoke", "sweet william",
    "carnation", "garden phlox", "love in the mist", "mexican aster", "alpine sea holly", "ruby-lipped cattleya",
    "cape flower", "great masterwort", "siam tulip", "lenten rose", "barbeton daisy", "daffodil", "sword lily",
    "poinsettia", "bolero deep blue", "wallflower", "marigold", "buttercup", "oxeye daisy", "common dandelion",
    "petunia", "wild pansy", "primula", "sunflower", "pelargonium", "bishop of llandaff", "gaura", "geranium",
    "orange dahlia", "pink-yellow dahlia?", "cautleya spicata", "japanese anemone", "black-eyed susan",
    "silverbush", "californian poppy", "osteospermum", "spring crocus", "bearded iris", "windflower",
    "tree poppy", "gazania", "azalea", "water lily", "rose", "thorn apple", "morning glory", "passion flower",
    "lotus", "toad lily", "anthurium", "frangipani", "clematis", "hibiscus", "columbine", "desert-rose",
    "tree mallow", "magnolia", "cyclamen", "watercress", "canna lily", "hippeastrum", "bee balm", "ball moss",
    "foxglove", "bougainvillea", "camellia", "mallow", "mexican petunia", "bromelia", "blanket flower",
    "trumpet creeper", "blackberry lily",
)  # fmt: skip
_FOLDER = "flowers-102"  # torchvision's, under the root
_PARTS = {"trnid": "train", "valid": "val", "tstid": "test"}
_LABELS, _SPLIT = "imagelabels.mat", "setid.mat"
_CONTENT = f"jpg/image_00001.jpg to image_08189.jpg, {_LABELS} and {_SPLIT}"


class FlowersDataModule(ImageFolderDataModule):
    """All 102 kinds of flowers or some of them, in the official split; the test set stays whole.

    Args:
        root: folder with `jpg`, `imagelabels.mat` and `setid.mat`, or with `flowers-102` that holds them;
            torchvision downloads them to the latter, checksums and all, if they are in neither: 345 MB.
        classes: names of some classes, in the order that their labels get; None takes all. The three with the
            most images are petunia (258), passion flower (251) and wallflower (196).

    The other arguments are those of `ImageFolderDataModule`.

    Raises:
        InputError: a class that is none of the 102, or fewer than two.
    """

    def __init__(
        self,
        root: str = "data",
        classes: Sequence[str] | None = None,
        image_size: Size = 128,
        channels: int = 3,
        batch_size: int = 32,
        eval_batch_size: int = 128,
        seed: int = 0,
        on_bad_image: Literal["error", "skip"] = "error",
        augmentation: Augmentation | None = None,
        mean: Sequence[float] | float | None = None,
        std: Sequence[float] | float | None = None,
    ) -> None:
        super().__init__(
            root, image_size, channels, batch_size, eval_batch_size, seed, val_size=0, on_bad_image=on_bad_image,
            augmentation=augmentation, mean=mean, std=std, class_names=FLOWERS if classes is None else _checked(classes), fit="stretch",
        )  # fmt: skip

    @property
    def location(self) -> str:
        """Return the folder that holds the files."""
        return str(self._find() or self.root)

    def _find(self) -> Path | None:
        root = Path(self.root).expanduser()
        for folder in (root, root / _FOLDER):
            if (folder / "jpg").is_dir() and (folder / _LABELS).is_file() and (folder / _SPLIT).is_file():
                return folder
        return None

    def prepare_data(self) -> None:
        """Download the set by torchvision unless it is there: as a whole, or not at all.

        Raises:
            InputError: that fails.
        """
        if self._find() is None:
            target = Path(self.root).expanduser() / _FOLDER
            by_hand = f"put {_CONTENT} into it, or set data.root to their folder"
            fetch_by_torchvision(lambda root: datasets.Flowers102(root, download=True), target, by_hand)

    @cached_property
    def _arrays(self) -> None:
        return None

    def _list(self) -> Listing:
        """List the images of the classes asked for."""
        folder = self._find()
        if folder is None:
            raise InputError(f"no {_CONTENT} under {self.root}: call prepare_data() first, or set data.root")
        official = _numbers(folder / _LABELS, "labels", 1, len(FLOWERS))
        label_of = {FLOWERS.index(name) + 1: label for label, name in enumerate(self.class_names)}
        found = [
            (folder / "jpg" / f"image_{number:05d}.jpg", label_of[official[number - 1]], part)
            for key, part in _PARTS.items()
            for number in _numbers(folder / _SPLIT, key, 1, len(official))
            if official[number - 1] in label_of
        ]
        files, labels, splits = (list(column) for column in zip(*found, strict=True))
        return Listing(root=folder, files=files, labels=labels, class_names=list(self.class_names), splits=splits)


def _checked(classes: Sequence[str]) -> tuple[str, ...]:
    for name in classes:
        if name not in FLOWERS:
            near = get_close_matches(name, FLOWERS, n=1)
            hint = f"did you mean {near[0]}?" if near else f"expected names such as {FLOWERS[50]}"
            raise InputError(f"data.classes: there is no class {name}: {hint}")
    if len(set(classes)) < max(2, len(classes)):
        raise InputError(f"data.classes is {', '.join(classes) or 'empty'}: expected two or more names, each once")
    return tuple(classes)


def _numbers(file: Path, key: str, low: int, high: int) -> list[int]:
    """Read the row of whole numbers under `key` in a MATLAB file."""
    from scipy.io import loadmat

    check_regular(file)
    try:
        values = np.asarray(loadmat(file)[key]).ravel()
    except Exception as error:  # a damaged file makes scipy raise nearly anything; KeyError if it has no such row
        reason = " ".join(str(error).split())
        raise InputError(f"{file}: no readable row {key} ({reason}); replace it by the set's own") from None
    if not len(values) or values.dtype.kind not in "uif" or values.min() < low or values.max() > high:
        raise InputError(f"{file}: {key} is not a row of numbers from {low} to {high}; replace it by the set's own")
    return [int(value) for value in values]
