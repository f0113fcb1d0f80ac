"""`defectlab validate`."""

from defectlab.cli.test import run_evaluation


def run(words: list[str]) -> int:
    """Print the metrics of a checkpoint on the validation images."""
    return run_evaluation("validate", words)
