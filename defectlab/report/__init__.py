"""The report of a run folder: figures, tables and one self-contained page."""

from defectlab.report.page import NO_TEST_PART, write_report

__all__ = ["NO_TEST_PART", "write_report"]
