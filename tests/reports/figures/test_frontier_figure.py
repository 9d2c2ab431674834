"""Runs measured at several steps: their ends are judged, the rest is drawn on the way."""

from __future__ import annotations

import re
from typing import Any

import pytest

from exptilt.reports.figures.frontier_figure import colour_keys, frontier_figure
from exptilt.reports.tables.page_sections import frontier_rows
from exptilt.reports.words.frontier_words import above_optimum, frontier_conclusion
from exptilt.run_folder.frontier_record import Frontier


def point(name: str, step: int, kl: float, reward: float, *, final: bool) -> dict[str, Any]:
    interval = {"value": reward, "low": reward - 0.01, "high": reward + 0.01}
    found = {"name": name, "method": "DPO", "steps": step, "final": final, "run": name, "kl": kl, "reward": interval}
    return found | {"gain": {"value": reward - 0.5, "low": reward - 0.51, "high": reward - 0.49}}


@pytest.fixture
def frontier() -> Frontier:
    points = [
        point("a", 10, 0.5, 0.9, final=False),
        point("a", 20, 1.0, 0.7, final=True),
        point("b", 10, 0.2, 0.4, final=False),
        point("b", 20, 0.6, 0.6, final=True),
    ]
    start = {"value": 0.5, "low": 0.49, "high": 0.51}
    return Frontier.from_dict({"reference_reward": start, "points": points})


def test_the_table_and_the_verdict_are_about_the_ends(frontier: Frontier) -> None:
    assert [row.name for row in frontier_rows(frontier)] == ["reference", "a", "b"]
    conclusion = frontier_conclusion(frontier)
    assert conclusion.answers[0].answer == "Yes"
    assert conclusion.answers[1].answer == "a"
    assert "0.7" in conclusion.answers[1].detail
    assert colour_keys(frontier) == {"a": 0, "b": 1}


def test_checkpoints_on_the_way_are_drawn_and_counted_but_not_named_twice(frontier: Frontier) -> None:
    figure, ends = frontier_figure(frontier), frontier.model_copy(update={"points": frontier.ends})
    bare = frontier_figure(ends)
    assert figure is not None
    assert bare is not None
    assert "2 checkpoints on the way" in figure.note
    assert "on the way" not in bare.note
    assert len(re.findall("<use", str(figure.svg))) == len(re.findall("<use", str(bare.svg))) + 2
    assert figure.alt == bare.alt


def test_a_checkpoint_above_the_optimum_is_named_with_its_step(frontier: Frontier) -> None:
    points = [one.model_dump() for one in frontier.points]
    points[0]["above_optimum"] = {"value": 0.1, "low": 0.05, "high": 0.2}
    assert above_optimum(Frontier.from_dict({"points": points})) == ["a at step 10"]


def test_many_rivals_are_counted(frontier: Frontier) -> None:
    points = [point(f"run {number}", 20, 1.0, 0.7, final=True) for number in range(7)]
    answer = frontier_conclusion(frontier.model_copy(update={"points": Frontier.from_dict({"points": points}).points}))
    assert "do not set it apart from 6 others" in answer.answers[1].detail
