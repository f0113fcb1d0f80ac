"""Tell whether runs were made with the same images, by the content that each has kept in split.csv."""

from collections.abc import Sequence

from defectlab.data.pipeline.split_table import SplitTable
from defectlab.errors import InputError
from defectlab.runs import RunFolder
from defectlab.utils.text import listed


def check_same_images(runs: Sequence[RunFolder], files: Sequence[str] | None = None) -> None:
    """Raise InputError where an image of one run is another in the next, or is not there; runs without a split are left out.

    Args:
        runs: finished ones, of data that lay under any roots.
        files: the images that matter; None for all, of every part.
    """
    wanted = None if files is None else set(files)
    kept = ((run, SplitTable.read(run.split_csv).rows) for run in runs if run.split_csv.is_file())
    known = [
        (run, {row.file: (row.label, row.hash) for row in rows if wanted is None or row.file in wanted})
        for run, rows in kept
    ]
    for run, own in known[1:]:
        first = known[0][1]
        other = sorted(file for file in {*first, *own} if first.get(file) != own.get(file))
        if other:
            raise InputError(
                f"{run.path} was made with other images than {known[0][0].path}: {len(other)} of {len(first)} were added, "
                f"removed or changed ({listed(other)}); put the data back, and make anew what was made with the other data"
            )
