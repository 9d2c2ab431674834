"""Figures of win rates: which are drawn, what they say in words, and where a line breaks."""

import re

from exptilt.reports.figures.win_rate_figures import judge_figures, policy_colours
from exptilt.run_folder.estimate_record import Estimate
from exptilt.run_folder.judged_record import JudgeColumn, JudgedCell


def cell(policy, temperature=None, rate=0.6, **more):
    found = None if rate is None else Estimate(value=rate, low=rate - 0.05, high=rate + 0.05, level=0.95, n=100)
    ends = {"lower_bound": Estimate(value=0.4), "upper_bound": Estimate(value=0.8)}
    return JudgedCell(
        title=f"{policy} {temperature} {more}", policy=policy, against="chosen", temperature=temperature, win_rate=found, **ends, **more
    )  # fmt: skip


def figures(*cells):
    judge = JudgeColumn(name="m", cells=tuple(cells))
    return {figure.title: figure for figure in judge_figures(judge, policy_colours(cells))}


def test_each_figure_needs_its_own_axis():
    plain = figures(cell("a"), cell("b", rate=0.4))
    assert list(plain) == ["Win rates"]
    assert "a: 0.60 [0.55, 0.65]" in plain["Win rates"].alt
    warm = figures(*(cell("a", t) for t in (0.0, 0.5, 1.0)))
    assert list(warm) == ["Win rate against temperature"]
    kl = Estimate(value=2.0, low=1.8, high=2.2)
    trained = [cell("a", 1.0, step=step, final=step == 20, kl=kl) for step in (10, 20)]
    assert list(figures(*trained)) == ["Win rate against steps of training", "Win rate, and what it cost in KL"]
    both = figures(*trained, *(cell("a", 0.5, step=step, final=step == 20) for step in (10, 20)))
    assert [title for title in both if "steps" in title] == [
        "Win rate against steps of training, T=1", "Win rate against steps of training, T=0.5",
    ]  # fmt: skip
    assert "2" in both["Win rate, and what it cost in KL"].alt


def test_a_rate_that_is_not_known_breaks_its_line_and_shows_bounds():
    drawn = figures(cell("a", 0.0), cell("a", 0.5, None), cell("a", 1.0))["Win rate against temperature"]
    whole = figures(cell("a", 0.0), cell("a", 0.5), cell("a", 1.0))["Win rate against temperature"]
    assert "more than 5 %" in drawn.note
    assert "more than 5 %" not in whole.note
    assert "at sampling temperature 0.5" not in drawn.alt

    def longest_line(svg):
        return max(
            len(re.findall(r"-?[\d.]+ -?[\d.]+", path)) for path in re.findall(r'd="(M[^"C]*)"', svg) if "z" not in path
        )

    assert longest_line(whole.svg) == 3
    assert longest_line(drawn.svg) == 2


def test_one_figure_has_its_own_ids_on_a_page():
    shown = [cell("a", t, data=data) for t in (0.0, 1.0) for data in ("one", "two")]
    ids = re.findall(r'\bid="([^"]+)"', "".join(f.svg + (f.narrow or "") for f in figures(*shown).values()))
    assert len(ids) == len(set(ids))
    assert ids
