"""The owner's numbers, by hand and by simulated raters."""

from __future__ import annotations

import math
from dataclasses import replace

import numpy as np
import pytest

from exptilt.evaluation.judged.agreement import krippendorff_alpha
from exptilt.evaluation.judged.judgements import Judgements
from exptilt.evaluation.judged.win_rate import win_rates
from exptilt.evaluation.power import prompts_needed
from exptilt.people.desk import Marked
from exptilt.people.items import RIGHT, WRONG
from exptilt.people.standings import StandingsBoard, comparisons_to_settle
from exptilt.preferences import Comparison
from exptilt.run_folder.estimate_record import Estimate
from exptilt.votes.vote_records import Rater, Vote


def prefer(desk, person: str, want: str) -> None:
    """Vote for the answer that begins with a letter; "=" is a tie, "-" a skip."""
    work = desk.work(person)
    outcome = {"=": "tie", "-": "skip"}.get(want) or ("first" if work.answers[0].startswith(want) else "second")
    assert desk.take(person, work.showing.nonce, Marked(outcome=outcome)) == "stored"


def board(desk):
    return StandingsBoard(desk).of(desk.rules.questions[0])


def test_agreement_win_rate_and_disputes_by_hand(make_desk, items):
    desk = make_desk(items(4), wanted=2)
    for person, wants in (("anna", "zzyz"), ("ben", "zzzy")):
        for want in wants:
            prefer(desk, person, want)
    found = board(desk)
    assert (found.comparisons, found.finished, found.missing) == (4, 4, 0)
    # Sources are (chosen, rejected) and "z" is the chosen answer: 6 of 8 votes.
    (match,) = found.matches
    assert (match.one, match.other) == ("chosen", "rejected")
    assert match.rate.value == pytest.approx(
        0.75, abs=0.1
    )  # the mean of both orders, which hold 4 votes each or nearly so
    assert found.alpha.value == pytest.approx(krippendorff_alpha([[0, 0], [0, 0], [1, 0], [0, 1]]))
    assert {tuple(best for _, best in dispute.says) for dispute in found.disputes} == {(0, 1), (1, 0)}
    assert [rater.with_others for rater in found.raters] == [0.5, 0.5]
    assert [rater.votes for rater in found.raters] == [4, 4]


def test_what_would_settle_a_rate_by_hand():
    rate = Estimate(value=0.6, low=0.5 - 1e-9, high=0.7, level=0.95)
    sd = 0.1 * math.sqrt(96) / 1.96  # one half, as a proportion has it
    assert comparisons_to_settle(rate, 96) == math.ceil((2.8 * sd / 0.1) ** 2) - 96
    # A single sample needs half of what the difference of two independent ones does.
    assert comparisons_to_settle(rate, 96) + 96 == pytest.approx(prompts_needed(0.1, correlation=0.5), rel=0.01)
    assert comparisons_to_settle(Estimate(value=0.7, low=0.6, high=0.8, level=0.95), 50) == 0
    assert comparisons_to_settle(Estimate(value=0.501, low=0.4, high=0.6, level=0.95), 50) is None
    assert comparisons_to_settle(Estimate(value=1.0), 1) is None


def test_lean_repeats_known_answers_and_skips_by_hand(make_desk, items):
    known = [
        replace(item, comparison=Comparison("Known?", item.comparison.answers), right=0, sources=(RIGHT, WRONG))
        for item in items(1)
    ]
    desk = make_desk([*items(30), *known], repeats=0.5)
    rights = 0
    while (work := desk.work("anna")) is not None:
        # Anna takes what is shown first, always; she skips nothing.
        rights += work.item.right is not None and work.answers[0].startswith("z")
        desk.take("anna", work.showing.nonce, Marked(outcome="first"))
    (anna,) = board(desk).raters
    assert anna.votes == 31
    assert anna.first.value == 1.0
    assert anna.with_self.value == 0.0  # reversed, she contradicts herself every time
    assert anna.with_self.n >= 8
    assert (anna.known.value, anna.known.n) == (float(rights), 1)
    (match,) = board(desk).matches  # the known answer is in no win rate
    assert match.comparisons == 30
    assert match.rate.value == 0.5  # and her lean cancels, since sides are balanced


def test_what_was_taken_back_counts_nowhere(make_desk, items):
    desk = make_desk(items(2))
    prefer(desk, "anna", "z")
    desk.undo("anna")
    found = board(desk)
    assert (found.finished, found.raters, found.matches) == (0, (), ())
    prefer(desk, "anna", "-")
    (anna,) = board(desk).raters
    assert (anna.votes, anna.skips) == (0, 1)


def test_a_judge_is_one_more_rater_and_a_settled_dispute_is_settled(make_desk, items):
    desk = make_desk(items(2), wanted=2)
    for want in "zz":
        prefer(desk, "anna", want)
        prefer(desk, "ben", "y")
    for at, item in enumerate(desk.items):
        judge = Rater("judge", "gpt", "x")
        desk.store.add(
            item.comparison,
            Vote(comparison=item.comparison.id, rater=judge, order=(0, 1), outcome="first", nonce=f"j{at}"),
        )
    found = board(desk)
    assert [rater.rater.name for rater in found.raters] == ["anna", "ben", "gpt"]
    assert found.raters[2].with_others == 0.5  # people are split, so half a hit on each
    assert found.raters[2].per_hour is None
    dispute = found.disputes[0].item.comparison
    assert desk.adjudicate("owner", dispute.id, "better", (0, 1), Marked(outcome="first"))
    assert desk.adjudicate("owner", dispute.id, "better", (0, 1), Marked(outcome="second"))
    assert not desk.adjudicate("owner", dispute.id, "better", (0, 1), Marked(ranking=(1, 2, 3)))
    later = board(desk)
    assert [one.settled for one in later.disputes] == [False, True]
    assert later.alpha == found.alpha
    assert [rater.rater.name for rater in later.raters] == ["anna", "ben", "gpt"]
    live = [vote for vote in desk.store.votes() if vote.rater.identity == "adjudicator"]
    assert [vote.outcome for vote in live] == ["second"]  # the later one replaced the first


def test_pace_leaves_out_pauses(make_desk, items):
    desk = make_desk(items(10), wanted=2)
    state = desk.index.person("anna")
    prefer(desk, "anna", "z")
    state.times[:] = [0.0, 10.0, 20.0, 5000.0, 5010.0]
    (anna,) = board(desk).raters
    assert anna.per_hour == 360
    assert anna.hours_left == pytest.approx(19 * 10 / 3600)  # 20 votes are wanted and one is there


def test_rankings_count_for_progress_and_disputes(make_desk, items):
    desk = make_desk(items(1, answers=3), wanted=2)
    for person, best in (("anna", 0), ("ben", 1)):
        work = desk.work(person)
        first = work.answers.index(sorted(work.item.comparison.answers)[best])
        ranks = [2, 2, 2]
        ranks[first] = 1
        desk.take(person, work.showing.nonce, Marked(ranking=tuple(ranks)))
    found = board(desk)
    assert (found.finished, found.alpha, found.matches) == (1, None, ())
    assert dict(found.disputes[0].says) == {"anna": 0, "ben": 1}


def test_the_interval_of_a_win_rate_holds_the_truth(make_desk, items):
    """100 comparisons, two raters who prefer "z" with 62 % and lean to the first side, 60 times."""
    rng = np.random.default_rng(1)
    some = items(100)
    covered = []
    truth = 0.5 * (0.62 + 0.08) + 0.5 * (0.62 - 0.08)
    for _ in range(60):
        first = np.tile([True, False], len(some))
        wins = rng.random(2 * len(some)) < np.where(first, 0.70, 0.54)
        rate = win_rates(Judgements(np.repeat(np.arange(len(some)), 2), wins.astype(float), first)).swap_average
        covered.append(rate.low <= truth <= rate.high)
    assert np.mean(covered) >= 0.85  # 95 %, less four standard deviations of 60 draws
