"""The report's conclusion and frontier table in a terminal."""

from __future__ import annotations

import re
from pathlib import Path

from rich.table import Table
from rich.text import Text

from exptilt.reports.figures.best_of_n_figure import best_of_n_rows
from exptilt.reports.report_inputs import read_inputs
from exptilt.reports.tables.page_sections import frontier_rows
from exptilt.reports.words.conclusion import conclusion_of
from exptilt.run_folder.frontier_record import Frontier

_NOTE = re.compile(r" \(covers [^)]*\)")
"""What stands behind the intervals of few prompts; here the line below the table says it once."""
_STYLES = {"good": "green", "bad": "red", "unsure": "default", "none": "dim"}


def frontier_table(frontier: Frontier) -> Table:
    """Policies of a frontier.json with reward, KL and share of the optimum, in 80 columns, for `rich.print`."""
    table = Table(box=None, pad_edge=False, padding=(0, 1, 0, 0), header_style="dim", caption_justify="left")
    table.add_column("policy", min_width=12)
    for name in (frontier.reward_name, "KL, nats", "of the optimum"):
        table.add_column(name, justify="right")
    rows = frontier_rows(frontier)
    for row in rows:
        reward, kl, _above, share, *_ = row.cells  # what fits in 80 columns; the page has all of it
        cells = (_NOTE.sub("", cell) for cell in (reward, kl, share.replace(" *", "*")))
        table.add_row(Text(row.name), *map(Text, cells))
    told = f"Intervals cover other {frontier.prompts}, not other seeds of the training."
    shown = [one for point in frontier.ends for one in (point.reward, point.kl, point.fraction) if one is not None]
    measured = [one.coverage for one in shown if one.interval and one.coverage is not None]
    if measured:
        told += f"\nWith so many {frontier.prompts} at least {100 * min(measured):.0f} % of such intervals held the truth when measured."
    if any(cell.endswith("*") for row in rows for cell in row.cells):
        told += "\n* few samples carry the optimum there: the interval spans two corrections"
    table.caption = told
    return table


def best_of_n_table(frontier: Frontier) -> Table:
    """The best of n samples of the reference by each reward, judged by the true one, in 80 columns."""
    table = Table(box=None, pad_edge=False, padding=(0, 1, 0, 0), header_style="dim")
    table.add_column("best of n by", min_width=12)
    for name in (f"{frontier.reward_name} at best", "n", "all", "falls?"):
        table.add_column(name, justify="right", no_wrap=True)
    for row in best_of_n_rows(frontier):
        best, n, _kl, end, fell = row.cells  # what fits in 80 columns; the page has all of it
        table.add_row(Text(row.name), Text(best), Text(n), Text(end.split(" at n")[0]), Text(fell.split(",")[0]))
    return table


def run_summary(folder: Path) -> Table:
    """The conclusion on a run folder or a frontier folder: question, answer and the sentence behind it.

    Raises:
        CheckpointError: if the folder is neither, or a file in it is broken.
    """
    conclusion = conclusion_of(read_inputs([folder]))
    table = Table(box=None, pad_edge=False, show_header=False)
    table.add_column(style="dim")
    table.add_column()
    table.add_column()
    for answer in conclusion.answers:
        table.add_row(answer.question, Text(answer.answer, style=_STYLES[answer.tone]), Text(answer.detail))
    return table
