"""explain.html: every sheet with a sentence on how to read it; the same sheets for TensorBoard."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from matplotlib.figure import Figure
from PIL import Image
from torch.utils.tensorboard import SummaryWriter

from defectlab.figures.style import save_png
from defectlab.report.render import Picture, write_page

__all__ = ["Sheet", "write_sheets"]

_SUFFIX = ".explain"  # tells our event files from those of a run
_SHEETS: dict[str, tuple[str, str]] = {
    "probabilities": (
        "What it says",
        "The longer a bar, the surer the network; the bars of an image add up to 100 % over all classes, of "
        "which the five likeliest are drawn where there are more than ten. Blue is the "
        "predicted class, orange where that is wrong, and the true class is in bold where it is known.",
    ),
    "filters": (
        "What its filters are",
        "Each tile is a filter, a small pattern of weights that slides over the image and answers where the image looks "
        "like it. Red weights add, blue ones subtract, white ones ignore; red beside blue answers to an edge between "
        "them. Filters that see three channels are shown in colour, where mid-grey ignores.",
    ),
    "feature_maps": (
        "What becomes of an image",
        "From top to bottom the image passes through the layers; the size says channels × height × width. Bright is a "
        "strong answer (in maps with both signs, red above and blue below zero). Early maps look like the image, late "
        "ones say roughly where something was found.",
    ),
    "attribution": (
        "Where it looks",
        "Brighter pixels mattered more for the predicted class; each map is scaled by itself. Gradient: which pixels would "
        "change the answer most; SmoothGrad: the same, averaged over noisy copies; Integrated Gradients: summed on the "
        "way from the mean of the training images to this one; Grad-CAM: which region the last maps answered to, which "
        "says little where a network flattens its maps before the last layers; HiResCAM: what each place of these maps "
        "added to the answer, which holds there, too. Trust what several of them agree on.",
    ),
    "boxes": (
        "Is that true",
        "Of the test images with boxes around their defects: how often the brightest pixel of a map lies in a box of the "
        "true class (dot, with its 95 % interval). It should be right of all three kinds of chance: a point anywhere (red), "
        "the centre of the image (cross), and the brightest pixels of other images of the class (orange). Where the "
        "orange mark is level with the dot, the map knows where defects of this class usually are, not where this one is. "
        "Below: how like a map stays when the weights are shuffled. A method that is flagged shows the image, not the "
        "network.",
    ),
    "units": (
        "What excites a unit",
        "A unit is one channel of a layer; shown is, for each class, the unit that sets it apart most. Each row shows the "
        "test images with the unit's largest values (the number below them), whatever their class, roughly where ringed: what "
        "the images of a row have in common is what the unit answers to.",
    ),
    "embedding": (
        "How it orders the test images",
        "Each point is a test image, as the last layer sees it; what lies close together looks alike to the network. "
        "Classes that form islands of their own are easy; a cross is a mistake. TensorBoard's projector turns the same "
        "points in three dimensions, with the images themselves.",
    ),
}


@dataclass(frozen=True)
class Sheet:
    """A figure by name: probabilities, filters, feature_maps, attribution, boxes, units or embedding."""

    name: str
    figure: Figure


def write_sheets(
    folder: Path,
    name: str,
    sheets: Sequence[Sheet],
    notes: Sequence[str],
    synthetic: bool,
    part: str = "test",
    more_events: Callable[[SummaryWriter], None] | None = None,
) -> Path:
    """Write explain.html, a PNG a sheet and TensorBoard's events into `folder`; return the page's path.

    What an earlier call has left there is replaced, sheets that are no longer made included; other files stay.

    Args:
        folder: made if it is absent.
        name: of what is explained, for the title.
        sheets: in the order of the page.
        notes: what the reader should know, such as what was left out; a paragraph each.
        synthetic: whether the network was trained on generated images, which every sheet then says.
        part: of the data that the images are from, `test` or `validation`.
        more_events: called with the writer, to add what is no sheet.
    """
    folder.mkdir(parents=True, exist_ok=True)
    earlier = list(folder.glob(f"events.out.tfevents.*{_SUFFIX}"))
    with SummaryWriter(str(folder), filename_suffix=_SUFFIX) as writer:
        for sheet in sheets:
            path = folder / f"{sheet.name}.png"
            save_png(sheet.figure, path, synthetic)
            with Image.open(path) as png:
                writer.add_image(f"explain/{sheet.name}", np.asarray(png.convert("RGB")), 0, dataformats="HWC")
        if more_events is not None:
            more_events(writer)
    for file in earlier:
        file.unlink(missing_ok=True)
    for gone in set(_SHEETS) - {sheet.name for sheet in sheets}:
        (folder / f"{gone}.png").unlink(missing_ok=True)

    page = folder / "explain.html"
    shown = []
    for sheet in sheets:
        title, explanation = (words.replace("test image", f"{part} image") for words in _SHEETS[sheet.name])
        shown.append((title, explanation, Picture(folder / f"{sheet.name}.png")))
    write_page(page, "explain.html", {"name": name, "synthetic": synthetic, "notes": notes, "sheets": shown})
    return page
