"""A judge of its own kin: found on either side, and measured against the other judges."""

import numpy as np
import pytest

from exptilt.evaluation.intervals import Resampling
from exptilt.evaluation.judged.judgements import Judgements
from exptilt.evaluation.judged.matches import Match
from exptilt.evaluation.judged.self_preference import kinships
from exptilt.judges.model_families import model_names
from exptilt.preferences import Comparison

QUICK = Resampling(num_resamples=100)
PROMPTS = 2000


def verdicts(rate, seed):
    wins = (np.random.default_rng(seed).random(2 * PROMPTS) < rate).astype(float)
    return Judgements(np.arange(2 * PROMPTS) // 2, wins, np.tile([True, False], PROMPTS))


@pytest.mark.parametrize("side", ["one", "other"])
def test_a_judge_that_prefers_its_kin(side):
    names = {"one": ("mine", "theirs"), "other": ("theirs", "mine")}[side]
    match = Match(*names, ["p"] * 1, [Comparison("p", ("a", "b"))])
    rates = {"kin": 0.7, "k1": 0.5, "k2": 0.5}
    columns = {
        judge: {match.title: verdicts(rate if side == "one" else 1 - rate, seed)}
        for seed, (judge, rate) in enumerate(rates.items())
    }
    judges = {"kin": model_names("Org/Base-7B"), "k1": model_names("other/judge"), "k2": frozenset()}
    (found,) = kinships(columns, [match], judges, {"mine": model_names("org/base-7b")}, QUICK)
    assert (found.judge, found.base, found.match) == ("kin", "org/base-7b", "mine against theirs")
    assert found.more_than_others.value == pytest.approx(0.2, abs=0.04)
    assert found.more_than_others.low > 0


def test_alone_it_is_named_without_a_number():
    match = Match("mine", "theirs", ["p"], [Comparison("p", ("a", "b"))])
    names = model_names("org/base")
    (found,) = kinships({"kin": {match.title: verdicts(0.7, 0)}}, [match], {"kin": names}, {"mine": names}, QUICK)
    assert found.more_than_others is None
    assert kinships({"kin": {match.title: verdicts(0.7, 0)}}, [match], {"kin": names}, {}, QUICK) == []
