"""What a rollout says of itself, and its way into a checkpoint and back."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest

from exptilt.data.groups import Completion, Credit, Group
from exptilt.errors import DataError
from exptilt.online.rollout import Rollout
from exptilt.online.rollouts import require_signal


def completion(*ids, score=None, logp=-1.0):
    tokens = np.array(ids, np.int32)
    return Completion(
        tokens, np.ones(len(ids), bool), score=score, behaviour=np.full(len(ids), logp, np.float32), version=4
    )


def group(name, *completions):
    return Group(id=name, prompt=np.array([1, 2], np.int32), completions=completions)


@pytest.fixture
def rollout():
    """Two prompts of two completions: rewards 1 and 3, and 5 beside one unscored; five, two, one and one tokens."""
    first = group("a", completion(5, 6, 7, 8, 9, score=1.0), completion(5, 6, score=3.0))
    second = group("b", completion(7, score=5.0, logp=-2.0), completion(7, logp=-2.0))
    return Rollout(
        number=3,
        groups=[first, second],
        ended=np.array([False, True, True, True]),
        reference=np.full(9, -1.5, np.float32),
        kl=np.arange(9, dtype=np.float32),
        entropy=np.full(9, 0.5, np.float32),
        drawn=np.array([-1.0] * 7 + [-2.0, -1.0], np.float32),
        seconds=2.0,
    )


def test_measures_are_sums_over_what_they_are_about(rollout):
    means = rollout.measures().means()
    assert means.pop("rollout/reward_se") == pytest.approx(np.std([2.0, 5.0], ddof=1) / 2**0.5)
    assert means == pytest.approx(
        {
            "rollout/reward": 3.5,  # the mean of both prompts, the second of its scored completion alone
            "rollout/kl": 36 / 4,
            "rollout/k1": (7 * 0.5 - 2 * 0.5) / 4,
            "rollout/entropy": 0.5,
            "rollout/length": 9 / 4,
            "rollout/truncated": 1 / 4,
            "rollout/unscored": 1 / 4,
            "rollout/no_signal": 1 / 2,
            "rollout/distinct": 3 / 4,
            "rollout/mismatch": 1 / 9,
        }
    )


def test_as_drawn_has_the_samplers_log_probabilities_and_the_rest_as_it_was(rollout):
    parts = [one.behaviour.tolist() for each in rollout.as_drawn for one in each.completions]
    assert parts == [[-1.0] * 5, [-1.0] * 2, [-2.0], [-1.0]]  # the last is -2 to the trainer
    assert [one.score for each in rollout.as_drawn for one in each.completions] == [1.0, 3.0, 5.0, None]


@pytest.mark.parametrize("credited", [False, True])
def test_a_rollout_comes_back_from_a_checkpoint_as_it_was(rollout, credited):
    if credited:
        groups = [
            replace(
                one,
                completions=tuple(
                    replace(part, credit=Credit(*[part.behaviour * k for k in (1, 2, 3)])) for part in one.completions
                ),
            )
            for one in rollout.groups
        ]
        rollout = replace(rollout, groups=groups)
    prompts = [replace(one, completions=()) for one in rollout.groups]
    back = Rollout.restored(rollout.state(), prompts)
    assert back.number == 3
    assert np.array_equal(back.rewards, rollout.rewards, equal_nan=True)
    for name in ("ended", "reference", "kl", "entropy", "drawn"):
        assert getattr(back, name).tobytes() == getattr(rollout, name).tobytes()
    for one, other in zip(back.completions, rollout.completions, strict=True):
        assert one.ids.tolist() == other.ids.tolist()
        assert one.behaviour.tobytes() == other.behaviour.tobytes()
        assert (one.version, one.counted.tolist()) == (4, other.counted.tolist())
        assert (one.credit is None) == (not credited)
        if credited:
            assert one.credit.returns.tolist() == other.credit.returns.tolist()
    assert back.measures().means() == rollout.measures().means()


def test_a_reward_without_variance_is_refused(rollout):
    same = [
        replace(one, completions=tuple(replace(part, score=2.0) for part in one.completions)) for one in rollout.groups
    ]
    with pytest.raises(DataError, match="gives 2 to all 4 completions of the first rollout") as refused:
        require_signal(replace(rollout, groups=same), is_rewarded=True)
    assert len(str(refused.value)) < 300
    none = [
        replace(one, completions=tuple(replace(part, score=None) for part in one.completions)) for one in rollout.groups
    ]
    with pytest.raises(DataError, match="scored none of the 4 completions"):
        require_signal(replace(rollout, groups=none), is_rewarded=True)
    require_signal(replace(rollout, groups=none), is_rewarded=False)
    require_signal(rollout, is_rewarded=True)


def test_completions_of_the_reference_beside_are_in_no_measure(rollout):
    """XPO compares the policy's completions with as many of the reference's."""
    others = [replace(part, version=None) for part in rollout.groups[1].completions]
    mixed = replace(rollout, groups=[rollout.groups[0], replace(rollout.groups[1], completions=tuple(others))])
    means = mixed.measures().means()
    assert means["rollout/reward"] == 2.0
    assert means["rollout/kl"] == pytest.approx(sum(range(7)) / 2)
    assert means["rollout/length"] == 3.5
    back = Rollout.restored(mixed.state(), [replace(one, completions=()) for one in mixed.groups])
    assert [one.version for one in back.completions] == [4, 4, None, None]


def test_another_law_than_the_policys_own_has_no_kl(rollout):
    means = replace(rollout, is_plain=False).measures().means()
    assert "rollout/kl" not in means
    assert "rollout/k1" not in means
