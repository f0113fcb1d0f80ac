"""`defectlab validate`."""

from defectlab.cli.evaluation import evaluate

__all__ = ["run"]


def run(words: list[str]) -> int:
    """The figures of a checkpoint on the validation images."""
    return evaluate("validate", words)
