"""`defectlab test`."""

from defectlab.cli.evaluation import evaluate

__all__ = ["run"]


def run(words: list[str]) -> int:
    """The figures of a checkpoint on the test images."""
    return evaluate("test", words)
