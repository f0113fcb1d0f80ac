"""Count how often each test split was read: a figure that was looked at many times was chosen, not measured."""

import csv
import time
from pathlib import Path

_FILE = "test_reads.csv"


def log_test_evaluation(root: Path, split_hash: str, run: str, accuracy: float) -> int:
    """Add a line to `root/test_reads.csv`, and return how many there are with this hash.

    One short line is appended in one write, so that runs which end at the same time keep each other's.
    """
    path = root / _FILE
    line = f"{time.strftime('%Y-%m-%d %H:%M:%S')},{split_hash},{run},{accuracy:.6f}\n"
    with path.open("a", encoding="utf-8", newline="") as file:
        file.write(line if file.tell() else f"time,split_hash,run,accuracy\n{line}")
    with path.open(encoding="utf-8", newline="") as file:
        return sum(row["split_hash"] == split_hash for row in csv.DictReader(file))
