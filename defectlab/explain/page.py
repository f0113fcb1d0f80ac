"""Write explain.html, its sheets as PNGs, and the same for TensorBoard."""

from collections.abc import Callable, Mapping, Sequence
from pathlib import Path

import numpy as np
from matplotlib.figure import Figure
from PIL import Image
from torch.utils.tensorboard import SummaryWriter

from defectlab.errors import InputError
from defectlab.figures.style import save_png
from defectlab.report.render import Picture, write_page

_SUFFIX = ".explain"  # tells our event files from those of a run
_EVENTS = f"events.out.tfevents.*{_SUFFIX}"
SHEETS = (  # in the order of the page; each has its text in the template
    "probabilities", "filters", "feature_maps", "attribution", "boxes", "units", "neighbours",
    "embedding",
)  # fmt: skip


def write_sheets(
    folder: Path, name: str, sheets: Mapping[str, Figure], notes: Sequence[str], synthetic: bool, part: str = "test",
    more_events: Callable[[SummaryWriter], None] | None = None,
) -> Path:  # fmt: skip
    """Write explain.html, a PNG a sheet and TensorBoard's events into `folder`; return the page's path.

    What an earlier call has left there is replaced, sheets that are no longer made included; other files stay.

    Args:
        folder: made if it is absent.
        name: name of what is explained, for the title.
        sheets: figures by name, out of `SHEETS`.
        notes: paragraphs for the reader, such as what was left out.
        synthetic: whether the network was trained on generated images, which every sheet then says.
        part: part of the data that the images are from, `test` or `validation`.
        more_events: called with the writer, to add what is no sheet.
    """
    shown = [sheet for sheet in SHEETS if sheet in sheets]
    for sheet in shown:
        save_png(sheets[sheet], folder / f"{sheet}.png", synthetic)
    for gone in set(SHEETS) - set(shown):
        (folder / f"{gone}.png").unlink(missing_ok=True)
    page, pictures = folder / "explain.html", [(sheet, Picture(folder / f"{sheet}.png")) for sheet in shown]
    values = {"name": name, "synthetic": synthetic, "notes": notes, "sheets": pictures, "part": part}
    write_page(page, "explain.html", values)
    earlier = set(folder.glob(_EVENTS))
    try:
        with SummaryWriter(str(folder), filename_suffix=_SUFFIX) as writer:
            for sheet in shown:
                with Image.open(folder / f"{sheet}.png") as png:
                    writer.add_image(f"explain/{sheet}", np.asarray(png.convert("RGB")), 0, dataformats="HWC")
            if more_events is not None:
                more_events(writer)
    except OSError as error:
        earlier = set(folder.glob(_EVENTS)) - earlier
        raise InputError(f"events in {folder} cannot be written ({error.strerror}); choose another place") from None
    finally:
        for file in earlier:
            file.unlink(missing_ok=True)
    return page
