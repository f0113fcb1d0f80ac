"""A table of labels for the solar cells of the package elpv-dataset, with the module that each cell is likely to be of.

    python benchmarks/elpv_table.py elpv.csv

Bad is a cell whose probability of a defect is above a half. The package does not say which cells are of one module; they come
in order, module after module of one type, so that blocks of 60 in each run of one type stand for modules. Prints `data.root`.
"""

import argparse
import csv
from importlib.util import find_spec
from itertools import groupby
from pathlib import Path

CELLS = 60  # of a module


def main() -> None:
    p = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    p.add_argument("output", type=Path)
    given = p.parse_args()
    package = find_spec("elpv_dataset")
    if package is None or package.origin is None:
        raise SystemExit("the package is not there: pip install elpv-dataset")
    root = Path(package.origin).parent / "data"
    rows = [line.split() for line in (root / "labels.csv").read_text(encoding="utf-8").splitlines()]
    with given.output.open("w", newline="", encoding="utf-8") as file:
        table = csv.writer(file)
        table.writerow(("file", "label", "block"))
        for number, (_, cells) in enumerate(groupby(rows, key=lambda row: row[2])):
            for place, (name, probability, _) in enumerate(cells):
                table.writerow((name, "bad" if float(probability) > 0.5 else "good", f"{number}-{place // CELLS}"))
    print(root)


if __name__ == "__main__":
    main()
