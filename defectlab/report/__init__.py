"""The report of a run folder: figures, tables and one self-contained page."""

from defectlab.report.page import write_report

__all__ = ["write_report"]
