import numpy as np
import pytest
from scipy.special import expit, rel_entr, softmax

from exptilt.evaluation.intervals import Resampling
from exptilt.evaluation.pairs.displacement import displacement, top_gainers
from exptilt.evaluation.pairs.pair_scores import side_of
from exptilt.types import Pair

HOW = Resampling(num_resamples=300)
PROMPTS, COMPLETIONS = 200, 8


def tabular(seed, num_pairs=40):
    """Pairs drawn from a tabular reference, labelled by a noisy coin on the reward, and DPO's exact optimum."""
    rng = np.random.default_rng(seed)
    law = softmax(rng.normal(size=(PROMPTS, COMPLETIONS)), axis=1)
    rewards = rng.normal(size=law.shape)
    best = law * np.exp(rewards)
    best /= best.sum(axis=1, keepdims=True)
    prompts = np.repeat(np.arange(PROMPTS), num_pairs)
    cumulative = np.cumsum(law, axis=1)[prompts]
    first, second = ((rng.random((len(prompts), 1)) > cumulative).sum(axis=1) for _ in range(2))
    first_wins = rng.random(len(prompts)) < expit(rewards[prompts, first] - rewards[prompts, second])
    chosen, rejected = np.where(first_wins, first, second), np.where(first_wins, second, first)

    def pair(logs):
        return Pair(*(side_of(logs[prompts, side][:, None]) for side in (chosen, rejected)))

    return pair(np.log(best)), pair(np.log(law)), prompts, rel_entr(law, best).sum(axis=1)


def test_the_mean_change_is_forced_where_pairs_come_from_the_reference():
    policy, reference, prompts, forward = tabular(0)
    found = displacement(policy, reference, prompts, forward_kl=forward, forward_prompts=range(PROMPTS), resampling=HOW)
    assert found.forced.value == pytest.approx(-forward.mean())
    assert not found.remainder.excludes(0.0)
    assert abs(found.remainder.value) < 0.03
    assert found.mean.value == pytest.approx((found.chosen.value + found.rejected.value) / 2)
    assert found.mean.high < 0
    # Joint resampling of shared prompts: the remainder is known far better than either of its parts.
    width = {name: getattr(found, name).high - getattr(found, name).low for name in ("mean", "forced", "remainder")}
    assert width["remainder"] < 0.6 * min(width["mean"], width["forced"])


def test_pairs_from_elsewhere_leave_a_remainder():
    policy, reference, prompts, forward = tabular(1)
    moved = Pair(side_of([[value + 1.0] for value in policy.chosen.sum().tolist()]), policy.rejected)
    found = displacement(moved, reference, prompts, forward_kl=forward, forward_prompts=range(PROMPTS), resampling=HOW)
    assert found.remainder.value == pytest.approx(0.5, abs=0.03)
    assert found.remainder.low > 0


def test_without_reference_samples_only_the_changes_are_known():
    policy, reference, prompts, _ = tabular(2)
    found = displacement(policy, reference, prompts, resampling=HOW)
    assert found.forced is None
    assert found.as_dict()["remainder"] is None
    assert found.chosen.value == pytest.approx(float((policy.chosen.sum() - reference.chosen.sum()).mean()))
    still = displacement(reference, reference, prompts, resampling=HOW)
    assert (still.chosen.value, still.rejected.value) == (0.0, 0.0)


def test_labels_must_fit():
    policy, reference, prompts, forward = tabular(3, num_pairs=1)
    with pytest.raises(ValueError, match="200 forward KLs but 0 prompt labels"):
        displacement(policy, reference, prompts, forward_kl=forward)
    with pytest.raises(ValueError, match="200 pairs but 199 prompt labels"):
        displacement(policy, reference, prompts[1:])


def test_gainers_come_highest_first():
    assert top_gainers([1.0, 5.0, -2.0, 5.0], num=3).tolist() == [1, 3, 0]
    assert top_gainers([1.0], num=3).tolist() == [0]
