"""Write explain.html, its sheets as PNGs, and the same for TensorBoard."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from matplotlib.figure import Figure
from PIL import Image
from torch.utils.tensorboard import SummaryWriter

from defectlab.figures.style import save_png
from defectlab.report.render import Picture, write_page

_SUFFIX = ".explain"  # tells our event files from those of a run
_SHEETS = (
    "probabilities",
    "filters",
    "feature_maps",
    "attribution",
    "boxes",
    "units",
    "embedding",
)  # each has its text in the template


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
        notes: paragraphs for the reader, such as what was left out.
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
    shown = [(sheet.name, Picture(folder / f"{sheet.name}.png")) for sheet in sheets]
    write_page(
        page, "explain.html", {"name": name, "synthetic": synthetic, "notes": notes, "sheets": shown, "part": part}
    )
    return page
