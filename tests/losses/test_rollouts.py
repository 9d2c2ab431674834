"""Losses on samples of the policy against their formulas, and what they refuse."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from mpmath import mp, mpf

from exptilt.losses import GRPO, PPO, RLOO, Distill
from exptilt.losses.clipped_value import ClippedValue, explained_variance
from exptilt.types import LogProbs

S = mp.fsum
SIZES = [3, 2]
LENGTHS = [2, 1, 3, 2, 4]
REWARDS = [0.5, 2.0, 1.0, -1.0, 3.0]
MOVED = [0.05, -0.4, 0.0, 0.3, -0.1, 0.25, 0.02, -0.5, 0.1, 0.0, -0.3, 0.45]
"""By how much each token's log-probability has moved since it was drawn; beyond log 1.2 the ratio is clipped."""


def groups(values):
    flat = iter(values)
    return [[next(flat) for _ in range(size)] for size in SIZES]


def by_completion(values):
    flat = iter(values)
    return [[next(flat) for _ in range(length)] for length in LENGTHS]


def mean(values):
    return S(values) / len(values)


def std(values):
    return mp.sqrt(S([(value - mean(values)) ** 2 for value in values]) / (len(values) - 1))


def kl(t):
    return [S(y) - S(r) for y, r in zip(t["y"], t["ry"], strict=True)]


def leave_one_out(values):
    return [value - (S(values) - value) / (len(values) - 1) for value in values]


def rloo(beta, limit=None):
    def losses(t, frozen):
        earned = [reward - mpf(beta) * nats for reward, nats in zip(REWARDS, kl(frozen), strict=True)]
        advantages = [one for group in groups(earned) for one in leave_one_out(group)]
        if limit is not None:
            weights = [min(mp.exp(S(moved)), mpf(limit)) for moved in by_completion(map(mpf, MOVED))]
            advantages = [a * w for a, w in zip(advantages, weights, strict=True)]
        return [mean(group) for group in groups([-a * S(y) for a, y in zip(advantages, t["y"], strict=True)])]

    return losses


def flat(rows):
    return [value for row in rows for value in row]


def logps(rows, lengths=tuple(LENGTHS)):
    return LogProbs(values=torch.tensor(flat(rows), dtype=torch.float64), lengths=torch.tensor(lengths))


def behaviour_of(tokens):
    """What the samples were drawn with: where the policy is now, less what it has moved."""
    return torch.tensor(
        [value - moved for value, moved in zip(flat(tokens["y"]), MOVED, strict=True)], dtype=torch.float64
    )


def surrogate(moved, advantage):
    ratio, clip = mp.exp(moved), mpf("0.2")
    return max(-advantage * ratio, -advantage * min(max(ratio, 1 - clip), 1 + clip))


def moves(t, frozen):
    """By how much each token has moved since it was drawn."""
    pairs = zip(t["y"], frozen["y"], by_completion(map(mpf, MOVED)), strict=True)
    return [[now - then + m for now, then, m in zip(*three, strict=True)] for three in pairs]


def grpo(beta, in_reward, by_std, by_length):
    def losses(t, frozen):
        earned = [r - mpf(beta) * nats * in_reward for r, nats in zip(REWARDS, kl(frozen), strict=True)]
        advantages = [
            (one - mean(group)) / ((std(group) + mpf("1e-4")) if by_std else 1)
            for group in groups(earned)
            for one in group
        ]
        terms = []
        for y, r, a, moved in zip(t["y"], t["ry"], advantages, moves(t, frozen), strict=True):
            penalties = [0 if in_reward else mpf(beta) * (mp.exp(q - p) - 1 + p - q) for p, q in zip(y, r, strict=True)]
            total = S([surrogate(m, a) + penalty for m, penalty in zip(moved, penalties, strict=True)])
            terms.append(total / len(y) if by_length else total)
        return [mean(group) for group in groups(terms)]

    return losses


SCORES = {"sizes": torch.tensor(SIZES), "scores": torch.tensor(REWARDS, dtype=torch.float64)}


@pytest.mark.parametrize("beta", [0.0, 0.05, 0.7])
def test_rloo_is_its_formula(beta, same_as, draw):
    same_as(RLOO(beta=beta), rloo(beta), draw(1, y=LENGTHS), SCORES)


def test_rloo_weighs_samples_of_another_policy_and_truncates_the_weights(same_as, draw):
    tokens = draw(1, y=LENGTHS)
    inputs = {**SCORES, "behaviour": behaviour_of(tokens)}
    same_as(RLOO(max_weight=1.1), rloo(0.05, limit=1.1), tokens, inputs, rtol=1e-6)


@pytest.mark.parametrize("in_reward", [False, True], ids=["in the loss", "in the reward"])
@pytest.mark.parametrize("by_std", [True, False])
@pytest.mark.parametrize("by_length", [True, False])
def test_grpo_is_its_formula_with_every_flag(in_reward, by_std, by_length, same_as, draw):
    loss = GRPO(beta=0.3, kl="reward" if in_reward else "loss", divide_by_std=by_std, divide_by_length=by_length)
    tokens = draw(2, y=LENGTHS)
    inputs = {**SCORES, "behaviour": behaviour_of(tokens)}
    same_as(loss, grpo(0.3, in_reward, by_std, by_length), tokens, inputs, rtol=1e-6)


def test_grpo_without_its_divisors_and_with_the_penalty_in_the_reward_is_rloo_but_for_the_baseline(draw):
    """On fresh samples; of K rewards the mean of the others is K / (K - 1) times as far as the mean of all."""
    tokens = draw(3, y=[2, 1, 3, 2])
    policy, reference = (logps(tokens[name], [2, 1, 3, 2]) for name in ("y", "ry"))
    sizes, scores = torch.tensor([4]), torch.tensor(REWARDS[:4]).double()
    slopes = []
    bare = GRPO(beta=0.3, kl="reward", divide_by_std=False, divide_by_length=False)
    for loss, further in ((RLOO(beta=0.3), ()), (bare, (policy.tokens(),))):
        leaf = policy.tokens().clone().requires_grad_()
        moved = LogProbs(values=leaf, lengths=policy.lengths)
        slopes.append(torch.autograd.grad(loss(moved, reference, sizes, scores, *further).loss.sum(), leaf)[0])
    assert torch.allclose(slopes[1], 3 / 4 * slopes[0], rtol=1e-12)


def test_ppo_is_its_formula_as_a_mean_over_tokens(same_as, draw):
    """Both groups have six tokens, so the mean over tokens is that over groups."""
    advantages = [0.5, -1.0, 2.0, 0.3, -0.2, 1.5, -0.7, 0.9, 0.1, -1.1, 0.6, -0.4]

    def losses(t, frozen):
        terms = [surrogate(m, a) for m, a in zip(flat(moves(t, frozen)), map(mpf, advantages), strict=True)]
        return [S(terms[:6]) / 6, S(terms[6:]) / 6]

    tokens = draw(4, y=LENGTHS)
    inputs = {"sizes": torch.tensor(SIZES), "behaviour": behaviour_of(tokens), "advantages": torch.tensor(advantages)}
    same_as(PPO(), losses, tokens, inputs, rtol=1e-6)
    policy = logps(tokens["y"])
    out = PPO()(policy, policy, **{**inputs, "sizes": torch.tensor([2, 3])})
    assert out.weight.tolist() == [3.0, 9.0]
    # Of 12 tokens those are clipped that moved past 0.2 in the direction that their advantage asks for.
    clipped = [(m > 0.1824 and a > 0) or (m < -0.2231 and a < 0) for m, a in zip(MOVED, advantages, strict=True)]
    assert sum(clipped) == 3
    assert float(out.measured["clip_fraction"][0].sum()) == 3


def test_the_kl_of_a_ppo_batch_is_that_of_the_samples_when_they_were_drawn(draw):
    tokens = draw(5, y=LENGTHS)
    policy, reference = (logps(tokens[name]) for name in ("y", "ry"))
    behaviour = behaviour_of(tokens)
    out = PPO()(policy, reference, torch.tensor([5]), behaviour, torch.zeros(12))
    assert float(out.measured["kl"][0]) == pytest.approx(float((behaviour - reference.tokens()).sum()), rel=1e-6)


def test_distillation_is_the_sum_over_steps_of_the_exact_divergence():
    """The result's gradient reaches the divergences alone: what is drawn is held."""
    kl_of_steps = torch.tensor([0.1, 0.2, 0.4, 0.8], dtype=torch.float64, requires_grad=True)
    drawn = torch.tensor([-1.0, -2.0, -1.0, -3.0], dtype=torch.float64, requires_grad=True)
    out = Distill()(LogProbs(values=drawn, lengths=torch.tensor([2, 1, 1]), kl=kl_of_steps), None, torch.tensor([2, 1]))
    assert out.loss.tolist() == pytest.approx([0.35, 0.8])
    slopes = torch.autograd.grad(out.loss.sum(), [kl_of_steps, drawn], allow_unused=True)
    assert slopes[0].tolist() == [0.5, 0.5, 0.5, 1.0]
    assert slopes[1] is None


def test_the_critics_loss_is_its_formula():
    predicted = torch.tensor([1.0, 0.1, 3.0, 0.5], dtype=torch.float64, requires_grad=True)
    old, returns = torch.tensor([0.5, 0.0, 1.0, 2.0]), torch.tensor([2.0, 0.0, 0.0, 0.6])
    values = LogProbs(values=predicted, lengths=torch.tensor([1, 3]))
    out = ClippedValue()(values, None, torch.tensor([2]), returns, old)
    # max of the two squares: (0.7 - 2)^2, 0.1^2, 3^2, (1.8 - 0.6)^2
    assert out.loss.item() == pytest.approx((1.69 + 0.01 + 9.0 + 1.44) / 2 / 4, rel=1e-6)
    (slope,) = torch.autograd.grad(out.loss.sum(), predicted)
    assert slope.tolist() == pytest.approx([0.0, 0.1 / 4, 3.0 / 4, 0.0], abs=1e-7)
    free = ClippedValue(clip=None)(values, None, torch.tensor([2]), returns, old)
    assert free.loss.item() == pytest.approx((1.0 + 0.01 + 9.0 + 0.01) / 8, rel=1e-6)


def test_explained_variance_of_a_constant_critic_is_zero_and_of_constant_returns_unknown():
    returns = np.array([1.0, 2.0, 6.0])
    assert explained_variance(np.full(3, 9.0), returns) == 0
    assert explained_variance(2 * returns, returns) == 0
    assert explained_variance(returns / 2, returns) == pytest.approx(0.75)
    assert np.isnan(explained_variance(returns, np.ones(3)))


@pytest.mark.parametrize(
    "loss", [cls(beta=0.1, target_kl=2.0) for cls in (RLOO, GRPO, PPO)], ids=lambda loss: loss.name
)
def test_beta_follows_the_kl_of_rollouts_and_the_loss_reads_it_from_the_state(loss, draw):
    """Far below the target it falls by 2 % a rollout, far above it rises by 2 %, and at 2.1 of 2 by 0.5 %; else it stays."""
    state = loss.initial_state()
    for nats, expected in ((0.0, 0.098), (9.0, 0.09996), (2.1, 0.1004598)):
        state = loss.state_after(state, {"rollout/kl": nats, "loss": 1.0})
        assert state == {"beta": pytest.approx(expected, rel=1e-9)}
        assert loss.state_after(state, {"loss": 1.0}) == state
    assert RLOO().state_after({"beta": 0.1}, {"rollout/kl": 9.0}) == {"beta": 0.1}
    assert (loss.is_stateful, type(loss)().is_stateful) == (True, False)
    tokens = draw(6, y=LENGTHS)
    policy, reference = (logps(tokens[name]) for name in ("y", "ry"))
    values = {**SCORES, "behaviour": policy.tokens(), "advantages": torch.zeros(12)}
    inputs = {name: values[name] for name in ("sizes", *loss.inputs)}
    told, fixed = (
        loss(policy, reference, **inputs, state={"beta": 0.7}),
        type(loss)(beta=0.7)(policy, reference, **inputs),
    )
    assert torch.equal(told.loss, fixed.loss)
    assert told.measured["beta"].tolist() == pytest.approx([0.7, 0.7])
    if loss.name == "ppo":
        told, fixed = (
            one.credit(policy, reference, SCORES["scores"], torch.zeros(12), state)
            for one, state in ((loss, {"beta": 0.7}), (PPO(beta=0.7), None))
        )
        assert torch.equal(told.advantages, fixed.advantages)


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (lambda: RLOO(target_kl=0.0), "target_kl must be > 0"),
        (lambda: RLOO(beta=0.0, target_kl=3.0), "beta must be > 0 where target_kl is given"),
        (lambda: PPO(target_kl=float("nan")), "target_kl must be > 0"),
        (lambda: GRPO(clip=1.0), r"clip must be in \(0, 1\)"),
        (lambda: PPO(lam=1.5), r"lam must be in \[0, 1\]"),
        (lambda: ClippedValue(clip=0.0), "clip must be > 0"),
    ],
)
def test_a_wrong_setting_is_one_line(make, message):
    with pytest.raises(ValueError, match=message):
        make()


def test_one_sample_of_a_prompt_has_no_baseline_and_equal_rewards_have_no_advantage():
    drawn = LogProbs(values=torch.tensor([-1.0, -2.0, -3.0]), lengths=torch.tensor([1, 1, 1]))
    for loss, further in ((RLOO(), ()), (GRPO(), (drawn.tokens(),))):
        with pytest.raises(ValueError, match="sizes: group 1 has 1 sample, and its baseline is the mean of the others"):
            loss(drawn, drawn, torch.tensor([2, 1]), torch.zeros(3), *further)
        leaf = torch.tensor([-1.0, -2.0, -3.0], requires_grad=True)
        moved = LogProbs(values=leaf, lengths=drawn.lengths)
        out = loss(moved, drawn, torch.tensor([3]), torch.full((3,), 5.0), *further)
        assert torch.autograd.grad(out.loss.sum(), leaf)[0].tolist() == [0.0, 0.0, 0.0]


def test_what_is_missing_is_named():
    drawn = LogProbs(values=torch.tensor([-1.0, -2.0]), lengths=torch.tensor([1, 1]))
    sizes, scores = torch.tensor([2]), torch.tensor([1.0, 0.0])
    with pytest.raises(ValueError, match="behaviour is missing"):
        RLOO(max_weight=2.0)(drawn, drawn, sizes, scores)
    with pytest.raises(ValueError, match="reference log-probabilities of samples are missing"):
        RLOO()(drawn, None, sizes, scores)
    with pytest.raises(ValueError, match=r"policy\.kl is missing"):
        Distill()(drawn, drawn, sizes)
    with pytest.raises(ValueError, match="scores must have shape"):
        RLOO()(drawn, drawn, sizes, scores[:1])
