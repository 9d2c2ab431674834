"""`exptilt report`: one page about one or several runs."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from exptilt.errors import ConfigError
from exptilt.reports.mask_page import write_mask_report
from exptilt.reports.page import write_report
from exptilt.settings.any_recipe import is_run_on_masks


def report(runs: Sequence[Path], output: Path | None = None) -> None:
    """Write the page and tell where it is.

    Args:
        runs: run folders.
        output: file to write; by default the first run's report.html.
    """
    of_masks = [run for run in runs if is_run_on_masks(run)]
    if of_masks and len(runs) > 1:
        raise ConfigError(f"{of_masks[0]}: is a run on masks; the report of such a run is a page of its own")
    print(write_mask_report(runs[0], output) if of_masks else write_report(runs, output))
