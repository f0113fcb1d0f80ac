"""`defectlab validate`."""

from functools import partial

from defectlab.cli.test import run_evaluation

run = partial(run_evaluation, "validate")
