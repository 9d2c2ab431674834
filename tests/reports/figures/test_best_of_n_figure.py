"""The best of n by other rewards: its figure, its table, and when the true reward is said to fall."""

from __future__ import annotations

from typing import Any

import pytest
from rich.console import Console

from exptilt.reports.figures.best_of_n_figure import _in_true_units, best_of_n_figure, best_of_n_rows
from exptilt.reports.report_terminal import best_of_n_table
from exptilt.run_folder.frontier_record import BestOfNByReward, Frontier


def line(name: str, gold: list[float], fall: float, *, is_true: bool = False) -> dict[str, Any]:
    best = max(range(len(gold)), key=gold.__getitem__)
    return {
        "name": name,
        "is_true": is_true,
        "kl": [0.1 * place for place in range(len(gold))],
        "kl_bound": [0.2 * place for place in range(len(gold))],
        "chosen_by": [4.0 * place for place in range(len(gold))],
        "chosen_by_sd": 2.0,
        "gold": gold,
        "low": [value - 0.02 for value in gold],
        "high": [value + 0.02 for value in gold],
        "best_n": best + 1,
        "best": {"value": gold[best], "low": gold[best] - 0.02, "high": gold[best] + 0.02},
        "end": {"value": gold[-1], "low": gold[-1] - 0.02, "high": gold[-1] + 0.02},
        "fall": {"value": fall, "low": fall - 0.05, "high": fall + 0.05},
    }


LINES = [
    line("true", [0.5, 0.6, 0.7, 0.8], 0.0, is_true=True),
    line("length", [0.5, 0.6, 0.55, 0.4], -0.2),
    line("unsure", [0.5, 0.52, 0.51, 0.5], -0.02),
    line("rises", [0.5, 0.6, 0.65, 0.7], 0.0),
]


def test_the_true_reward_falls_only_where_other_prompts_show_it(frontier: dict[str, Any]) -> None:
    frontier["best_of_n_by"] = LINES
    read = Frontier.from_dict(frontier)
    rows = best_of_n_rows(read)
    assert [row.cells[-1] for row in rows] == ["no", "yes, past n = 2", "not distinguishable", "no"]
    assert rows[1].cells[1:4] == ("2", "0.100, at most 0.200", "0.400 [0.380, 0.420] at n = 4")
    assert rows[0].colour == "var(--ink)"
    assert len({row.colour for row in rows}) == 4
    figure = best_of_n_figure(read)
    assert figure is not None
    assert "Chosen by length: highest 0.600 at n = 2, 0.400 at n = 4." in figure.alt
    assert "rises" in figure.svg
    assert best_of_n_figure(read.model_copy(update={"best_of_n_by": ()})) is None
    console = Console(width=80, record=True, file=None, quiet=False)
    with console.capture() as shown:
        console.print(best_of_n_table(read))
    assert "length" in shown.get()
    assert max(len(row) for row in shown.get().splitlines()) <= 80


def test_the_reward_that_chooses_is_drawn_in_its_own_standard_deviations_from_the_same_start() -> None:
    true, other = (BestOfNByReward.from_dict(one) for one in (LINES[0] | {"chosen_by_sd": 0.5}, LINES[1]))
    # 4 units of a reward whose spread is 2 are two spreads: 1.0 where the true reward's spread is 0.5.
    assert _in_true_units(other, [true, other]) == pytest.approx([0.5, 1.5, 2.5, 3.5])


def test_columns_of_unequal_length_are_refused() -> None:
    with pytest.raises(ValueError, match="must have one length"):
        BestOfNByReward.from_dict(LINES[0] | {"kl_bound": [0.0]})
