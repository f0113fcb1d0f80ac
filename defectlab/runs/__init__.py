"""Read and write run folders and their files."""

from defectlab.runs.crossvals import CROSSVAL_FILE, read_crossval
from defectlab.runs.ensembles import fingerprint_of, members_of, read_own_table, write_members
from defectlab.runs.events import read_scalars
from defectlab.runs.folder import RunFolder, find_runs, lacks_test_part, open_run
from defectlab.runs.ledger import log_test_evaluation
from defectlab.runs.metrics import RunMetrics
from defectlab.runs.predictions import PredictionTable, aligned_tables, read_prediction_table, write_prediction_table
from defectlab.utils.machine import environment
from defectlab.utils.text import csv_text, write_text

__all__ = [
    "CROSSVAL_FILE",
    "PredictionTable",
    "RunFolder",
    "RunMetrics",
    "aligned_tables",
    "csv_text",
    "environment",
    "find_runs",
    "fingerprint_of",
    "lacks_test_part",
    "log_test_evaluation",
    "members_of",
    "open_run",
    "read_crossval",
    "read_own_table",
    "read_prediction_table",
    "read_scalars",
    "write_members",
    "write_prediction_table",
    "write_text",
]  # fmt: skip
