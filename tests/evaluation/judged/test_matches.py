"""Matches as a judge sees them: doubts, missing verdicts, and what is then not said."""

import numpy as np
import pytest

from exptilt.evaluation.intervals import Resampling
from exptilt.evaluation.judged.judgements import Judgements
from exptilt.evaluation.judged.matches import Match, ask_each_once, doubts, judged_matches, verdict_columns
from exptilt.judges.yardsticks import Longest, both
from exptilt.preferences import Comparison

QUICK = Resampling(num_resamples=100)


def matches(prompts=20, policies="abc"):
    return [
        Match(
            name,
            "x",
            [f"p{k}" for k in range(prompts)],
            [Comparison(f"p{k}", (name * (k + 1), "xxxx")) for k in range(prompts)],
        )
        for name in policies
    ]


class Scripted:
    """Says what a function of the comparison says, in both orders."""

    name = identity = "scripted"

    def __init__(self, says):
        self.says = says

    def __call__(self, comparisons):
        for pair in comparisons:
            yield from both(pair, *self.says(pair))


def test_a_match_with_too_many_missing_verdicts_is_in_no_comparison():
    def says(pair):
        return (
            ("unscored", "unscored") if pair.answers[0][0] == "b" and int(pair.prompt[1:]) < 3 else ("first", "second")
        )

    made = matches()
    found = judged_matches(verdict_columns(Scripted(says), made), made, QUICK)
    hidden = found.matches["b against x"]
    assert hidden.rates.swap_average is None
    assert (hidden.rates.lower_bound.value, hidden.rates.upper_bound.value) == (0.85, 1)
    assert (hidden.length_controlled, hidden.by_length_gap) == (None, {})
    assert set(found.pairs) == {"a against x minus c against x"}
    assert set(found.together) == {"a against x", "c against x"}


def test_a_comparison_that_a_judge_passes_over_is_unscored_in_both_orders():
    answers = ask_each_once(Scripted(lambda pair: ("first", "second")), [Comparison("p", ("a", "b"))])
    assert len(answers[Comparison("p", ("a", "b")).id]) == 2

    class Silent:
        name = identity = "silent"

        def __call__(self, comparisons):
            return iter(())

    (given,) = ask_each_once(Silent(), [Comparison("p", ("a", "b"))]).values()
    assert np.isnan([share for share, _ in given]).all()
    assert len(given) == 2


@pytest.mark.parametrize(
    ("says", "doubt"),
    [
        (("tie", "tie"), "calls 100 % of its comparisons a tie"),
        (("first", "first"), "prefers the answer shown first in 100 %"),
        (("second", "second"), "prefers the answer shown second in 100 %"),
    ],
)
def test_a_judge_that_says_nothing_is_doubted(says, doubt):
    made = matches(policies="a")
    found = judged_matches(verdict_columns(Scripted(lambda pair: says), made), made, QUICK)
    (said,) = found.matches["a against x"].doubts
    assert doubt in said
    assert found.matches["a against x"].rates.swap_average.value == 0.5


def test_equal_answers_are_no_ties_of_the_judge():
    same = [Comparison(f"p{k}", ("y", "y")) for k in range(30)]
    different = [Comparison(f"q{k}", ("long", "x")) for k in range(10)]
    match = Match("a", "b", [pair.prompt for pair in same + different], same + different)
    found = judged_matches(verdict_columns(Longest(), [match]), [match], QUICK).matches["a against b"]
    assert found.equal_answers == 30
    assert found.doubts == ()


def test_a_strong_policy_is_no_reason_for_doubt():
    first = np.tile([True, False], 50)
    assert doubts(Judgements(np.arange(100) // 2, np.ones(100), first)) == ()
    lean = np.where(first, 1.0, np.arange(100) % 10 == 1)  # .9 of the choices for the first slot
    assert doubts(Judgements(np.arange(100) // 2, lean, first)) == ()
