"""A run folder as one page: figures, numbers with intervals, a verdict in words. Reads files; never imports torch."""

from exptilt.reports.page import write_report

__all__ = ["write_report"]
