"""Verdicts of judges in this process: stored once, and never worked out again."""

import numpy as np
import pytest

from exptilt.judges.remembered_judge import RememberedJudge
from exptilt.judges.reward_judge import RewardJudge
from exptilt.judges.yardsticks import Longest
from exptilt.preferences import Comparison
from exptilt.votes.vote_store import VoteStore


class Words:
    """The number of words; an empty answer is unscored until `knows` says otherwise."""

    name, scale = "words", "words"

    def __init__(self, identity="words 1", empty=np.nan):
        self.identity, self.empty, self.asked = identity, empty, 0

    def __call__(self, answers):
        self.asked += len(answers)
        return np.array([len(answer.text.split()) or self.empty for answer in answers], dtype=float)


PAIRS = [Comparison(f"p{k}", ("one two", "one" if k % 3 else "")) for k in range(40)]


def test_a_second_run_asks_for_nothing_but_what_was_unscored(tmp_path):
    reward = Words()
    with VoteStore(tmp_path / "v.db") as store:
        first = list(RememberedJudge(RewardJudge(reward), store)(PAIRS))
        assert len(first) == 80
        assert [v.winner for v in first if v.comparison == PAIRS[1].id] == [0, 0]
        assert [v.outcome for v in first].count("unscored") == 28
        asked = reward.asked
        turned = [Comparison(pair.prompt, pair.answers[::-1]) for pair in PAIRS]
        again = list(RememberedJudge(RewardJudge(reward), store)(turned))
        assert reward.asked - asked == 28  # both answers of 14 comparisons
        assert [v.winner for v in again if v.comparison == PAIRS[1].id] == [1, 1]
        assert len(store.votes()) == 80
        known = list(RememberedJudge(RewardJudge(Words(empty=0.0)), store)(PAIRS))
        assert [v.winner for v in known] == [0] * 80
        assert [vote.outcome for vote in store.votes()].count("unscored") == 0
        assert len(store.votes()) == 80
        assert len(store.votes(superseded=True)) == 108


def test_another_identity_or_question_is_another_judge(tmp_path):
    with VoteStore(tmp_path / "v.db") as store:
        for identity, question in (("words 1", "better"), ("words 2", "better"), ("words 2", "kinder")):
            reward = Words(identity, empty=0.0)
            list(RememberedJudge(RewardJudge(reward), store, question)(PAIRS[:3]))
            assert reward.asked == 6
        assert len(store.votes()) == 18


def test_a_judge_that_is_stopped_keeps_what_it_said(tmp_path):
    class Failing(Words):
        def __call__(self, answers):
            if self.asked >= 32:
                raise KeyboardInterrupt
            return super().__call__(answers)

    with VoteStore(tmp_path / "v.db") as store:
        with pytest.raises(KeyboardInterrupt):
            list(RememberedJudge(RewardJudge(Failing(empty=0.0)), store)(PAIRS))
        assert len(store.votes()) == 32
        reward = Words(empty=0.0)
        assert len(list(RememberedJudge(RewardJudge(reward), store)(PAIRS))) == 80
        assert reward.asked == 80 - 32


def test_verdicts_come_comparison_by_comparison(tmp_path):
    with VoteStore(tmp_path / "v.db") as store:
        judge = RememberedJudge(Longest(), store)
        list(judge(PAIRS[5:9]))
        verdicts = list(judge(PAIRS))
        assert [v.comparison for v in verdicts] == [pair.id for pair in PAIRS for _ in range(2)]
        assert {v.order for v in verdicts} == {(0, 1), (1, 0)}
