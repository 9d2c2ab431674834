"""The policies on the way through rounds of sampling, labelling and training."""

from __future__ import annotations

from rich.table import Table
from rich.text import Text

from exptilt.run_folder.run_record import RoundRecord, RunRecord, SampledPolicy


def rounds_table(run: RunRecord) -> Table:
    """Every policy on the way, in 80 columns: its reward, KL from the first, length, and the rows trained on next."""
    table = Table(box=None, pad_edge=False, padding=(0, 2, 0, 0), header_style="dim")
    table.add_column("policy", no_wrap=True, min_width=len("after round 1"))
    for name in ("reward", "KL, nats", "tokens", "then rows"):
        table.add_column(name, justify="right")
    for row in round_rows(run):
        table.add_row(*(Text(cell) for cell in row))
    return table


def round_rows(run: RunRecord) -> list[tuple[str, ...]]:
    """The cells of that table, for terminal and page."""
    rows: list[tuple[str, ...]] = []
    for one in run.rounds:
        rows.append((_name(one.number - 1), *_cells(one.start, one.number == 1), _rows_of(one)))
    if run.after_rounds is not None and run.rounds:
        rows.append((_name(run.rounds[-1].number), *_cells(run.after_rounds, False), ""))
    return rows


def _name(rounds_done: int) -> str:
    return "at the start" if rounds_done == 0 else f"after round {rounds_done}"


def _cells(policy: SampledPolicy, is_first: bool) -> tuple[str, str, str]:
    length = "" if policy.length is None or policy.length.value is None else f"{policy.length.value:.1f}"
    kl = "0" if is_first else "" if policy.kl is None else str(policy.kl)
    return "" if policy.reward is None else str(policy.reward), kl, length


def _rows_of(one: RoundRecord) -> str:
    return "" if one.num_rows is None else f"{one.num_rows:,}"
