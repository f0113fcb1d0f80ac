"""Tables of figures for the terminal."""

from collections.abc import Collection, Sequence

from rich.console import Console
from rich.markup import escape
from rich.measure import Measurement
from rich.table import Table


def new_table(
    title: str, columns: Sequence[str], left: Collection[int] = (0,), wraps: bool = True, boxed: bool = True
) -> Table:
    """Return a table without rows; its columns hold numbers, but for those at the places `left`."""
    table = Table(title=escape(title), title_justify="left", pad_edge=boxed)
    if not boxed:
        table.box = None
    for place, name in enumerate(columns):
        table.add_column(escape(name), justify="left" if place in left else "right", no_wrap=not wraps, overflow="fold")
    return table


def print_wide(table: Table) -> None:
    """Print a table as wide as it is: a number that is cut off is worse than a line that is folded."""
    console = Console()
    endless = console.options.update(width=10_000)
    Console(width=max(console.width, Measurement.get(console, endless, table).maximum)).print(table)
