"""`exptilt report`: one page about one or several runs."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from exptilt.reports.page import write_report


def report(runs: Sequence[Path], output: Path | None = None) -> None:
    """Write the page and tell where it is.

    Args:
        runs: run folders.
        output: file to write; by default the first run's report.html.
    """
    print(write_report(runs, output))
