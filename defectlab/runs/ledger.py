"""Count how often each test split was read: a figure that was looked at many times was chosen, not measured."""

import time
from pathlib import Path

READS_FILE = "test_reads.csv"


def log_test_evaluation(root: Path, split_hash: str, run: str, accuracy: float) -> int:
    """Add a line to `root/test_reads.csv`, and return how many there are with this hash.

    One short line is appended in one write, so that runs which end at the same time keep each other's.

    Raises:
        OSError: the file cannot be read or written.
    """
    path = root / READS_FILE
    if path.exists() and not path.is_file():
        raise OSError(f"{path} is no file")
    name = '"{}"'.format(run.replace('"', '""')) if set(run) & set(',"\n\r') else run
    line = f"{time.strftime('%Y-%m-%d %H:%M:%S')},{split_hash},{name},{accuracy:.6f}\n"
    with path.open("ab+") as file:
        whole = file.tell() == 0 or (file.seek(-1, 2), file.read(1))[1] == b"\n"
        head = "" if file.tell() else "time,split_hash,run,accuracy\n"
        file.write(f"{'' if whole else chr(10)}{head}{line}".encode(errors="surrogateescape"))
        file.seek(0)
        return sum(row.split(b",")[1:2] == [split_hash.encode()] for row in file)
