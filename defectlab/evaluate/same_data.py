"""Tell whether runs were made with the same images, by the content that each has kept in split.csv."""

from collections.abc import Mapping, Sequence

from defectlab.data.pipeline.split_table import SplitTable
from defectlab.errors import InputError
from defectlab.runs import RunFolder
from defectlab.utils.text import listed


def image_contents(run: RunFolder) -> dict[str, str] | None:
    """Return label and hash of each image of a run's data by its file; None for a run that has kept no split."""
    if not run.split_csv.is_file():
        return None
    return {row.file: f"{row.label} {row.hash}" for row in SplitTable.read(run.split_csv).rows}


def check_same_images(runs: Sequence[RunFolder], files: Sequence[str] | None = None) -> None:
    """Raise InputError where an image of one run is another in the next, or is not there.

    Args:
        runs: finished ones, of data that lay under any roots.
        files: the images that matter; None for all, of every part.
    """
    known = [(run, contents) for run in runs if (contents := image_contents(run)) is not None]
    for run, contents in known[1:]:
        first, own = ((c if files is None else _some(c, files)) for c in (known[0][1], contents))
        other = sorted(file for file in {*first, *own} if first.get(file) != own.get(file))
        if other:
            raise InputError(
                f"{run.path} was made with other images than {known[0][0].path}: {len(other)} of {len(first)} were added, "
                f"removed or changed ({listed(other)}); put the data back, and make anew what was made with the other data"
            )


def _some(contents: Mapping[str, str], files: Sequence[str]) -> dict[str, str]:
    return {file: contents[file] for file in files if file in contents}
