from __future__ import annotations

from collections.abc import Callable
from io import StringIO
from pathlib import Path
from typing import Any

import pytest
from rich.console import Console

from exptilt.errors import CheckpointError
from exptilt.reports.report_terminal import frontier_table, run_summary
from exptilt.run_folder.frontier_record import Frontier
from exptilt.run_folder.record_reader import checked


def printed(table: Any) -> str:
    console = Console(file=StringIO(), width=140, no_color=True)
    console.print(table)
    file = console.file
    assert isinstance(file, StringIO)
    return file.getvalue()


def test_the_frontier_table_has_a_row_for_each_policy(frontier: dict[str, Any]) -> None:
    frontier["points"][0]["name"] = "[bold]DPO[/bold]"
    text = printed(frontier_table(Frontier.from_dict(frontier)))
    assert "[bold]DPO[/bold]" in text  # a name is text, not markup
    row = next(line for line in text.splitlines() if line.startswith("DPO beta=0.1"))
    assert "0.860 [0.846, 0.874]" in row
    assert "1.24 [1.14, 1.34]" in row
    assert "91.0 % [87.5, 94.5]" in row
    assert "the interval spans two corrections" in text


def test_names_and_coverage_stay_in_eighty_columns(frontier: dict[str, Any]) -> None:
    """Few prompts and shares without bound: intervals wrap, names do not vanish, and the line below has the coverage."""
    few = {"value": -1597.1, "low": -56520.2, "high": 5661.0, "level": 0.95, "n": 6, "coverage": 0.912}
    point = frontier["points"][0] | {"reward": few, "fraction": few}
    table = frontier_table(Frontier.from_dict(frontier | {"points": [point, *frontier["points"][1:]]}))
    console = Console(file=StringIO(), width=80, no_color=True)
    console.print(table)
    text = console.file.getvalue()  # type: ignore[attr-defined]
    assert max(map(len, text.splitlines())) <= 80
    assert point["name"][:8] in text
    assert "covers" not in text
    assert "With so many prompts at least 91 % of such intervals held the truth" in " ".join(text.split())


def test_a_frontier_that_is_none_is_refused() -> None:
    with pytest.raises(CheckpointError, match=r"frontier: points\.0\.kl"):
        checked(Frontier, {"points": [{"name": "x", "reward": 1}]}, "frontier")


def test_the_summary_answers_the_questions(make_run: Callable[..., Path]) -> None:
    text = printed(run_summary(make_run()))
    assert "Yes, better than a coin" in text
    assert "3.42 nats" in text
