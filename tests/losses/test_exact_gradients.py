"""Estimators on samples of the policy against enumeration of all samples: what their gradients are, to rounding."""

from __future__ import annotations

from functools import cached_property

import numpy as np
import pytest
import torch
from torch import Tensor

from exptilt.losses import GRPO, RLOO, SFT
from exptilt.losses.kl_estimates import kl_of_tokens, sequence_kl_estimate
from exptilt.testbed.markov import MarkovWorld, Samples
from exptilt.testbed.sequences import completions
from exptilt.types import LogProbs

BETA = 0.2


class Enumerated:
    """Every completion of every prompt of a short world, under a table of logits that is away from the reference."""

    def __init__(self, length: int, seed: int = 0) -> None:
        self.world = world = MarkovWorld(length=length)
        tokens = completions(world)
        self.per_prompt = len(tokens)
        prompts = np.repeat(np.arange(world.num_tokens), len(tokens))
        self.samples = Samples(prompts, np.tile(tokens, (world.num_tokens, 1)))
        self.lengths = torch.full((len(prompts),), length)
        last = np.concatenate([prompts[:, None], self.samples.tokens[:, :-1]], axis=1)
        gained = np.asarray(world.sentiment)[self.samples.tokens]
        total = gained.cumsum(axis=1) - gained - int(world.totals[0])
        self.places = torch.arange(length)[None, :], torch.from_numpy(last), torch.from_numpy(total)
        self.tokens = torch.from_numpy(self.samples.tokens.copy())
        self.rewards = torch.from_numpy(world.rewards(self.samples.tokens))
        self.fixed = torch.from_numpy(world.reference.copy())
        noise = torch.randn(self.fixed.shape, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)
        self.logits = (self.fixed + 0.7 * noise).requires_grad_()

    def of(self, table: Tensor) -> LogProbs:
        return LogProbs(values=table[(*self.places, self.tokens)].flatten(), lengths=self.lengths)

    @property
    def policy(self) -> LogProbs:
        return self.of(self.logits.log_softmax(-1))

    @cached_property
    def reference(self) -> LogProbs:
        return self.of(self.fixed)

    def expected(self, values: Tensor, under: LogProbs | None = None) -> Tensor:
        """E over prompts and samples of (n,) values; how likely a sample is has no gradient."""
        chance = (self.policy if under is None else under).sum().exp().detach() / self.world.num_tokens
        return (chance * values).sum()

    def divergence(self, forward: bool = False) -> Tensor:
        """Exact KL of sequences, KL(policy || reference) or the other direction, with its gradient."""
        policy, reference = self.policy.sum(), self.reference.sum()
        first, second = (reference, policy) if forward else (policy, reference)
        return (first.exp() * (first - second)).sum() / self.world.num_tokens

    def gradient(self, value: Tensor) -> Tensor:
        return torch.autograd.grad(value, self.logits)[0]

    def of_steps(self, forward: bool) -> Tensor:
        """E over samples of the sum over steps of the divergence of the next token, prefixes held as they were drawn."""
        now, then = self.logits.log_softmax(-1)[self.places], self.fixed[self.places]
        first, second = (then, now) if forward else (now, then)
        return self.expected((first.exp() * (first - second)).sum(-1).sum(-1))


@pytest.fixture(scope="module")
def world() -> Enumerated:
    return Enumerated(length=3)


def close(one: Tensor, two: Tensor) -> bool:
    return float((one - two).abs().max()) < 1e-10 * max(1.0, float(two.abs().max()))


def whole(world: Enumerated, estimator: str) -> Tensor:
    """(n,) the estimator of the ratio of whole sequences, with gradient."""
    return kl_of_tokens(world.policy.sum() - world.reference.sum(), estimator)


def test_k1_and_k3_have_the_mean_of_the_kl_and_k2_has_not(world):
    truth = world.divergence().item()
    assert truth > 0.3
    for estimator in ("k1", "k3"):
        assert world.expected(whole(world, estimator)).item() == pytest.approx(truth, rel=1e-10)
        tokens = sequence_kl_estimate(world.policy, world.reference, estimator)
        assert world.expected(tokens).item() == pytest.approx(truth, rel=1e-10)
    assert abs(world.expected(whole(world, "k2")).item() - truth) > 0.01


def test_k1_as_a_loss_has_no_gradient(world):
    slope = world.gradient(world.expected(whole(world, "k1")))
    assert float(slope.abs().max()) < 1e-10


def test_k2_of_sequences_as_a_loss_has_the_gradient_of_the_kl(world):
    truth = world.gradient(world.divergence())
    assert float(truth.abs().max()) > 1e-3
    assert close(world.gradient(world.expected(whole(world, "k2"))), truth)


def test_k3_of_sequences_as_a_loss_has_the_gradient_of_the_other_direction(world):
    forward = world.gradient(world.divergence(forward=True))
    slope = world.gradient(world.expected(whole(world, "k3")))
    assert close(slope, forward)
    assert not close(slope, world.gradient(world.divergence()))


@pytest.mark.parametrize(("estimator", "forward"), [("k2", False), ("k3", True)])
def test_sums_over_tokens_have_the_gradient_of_the_steps_with_prefixes_as_drawn(world, estimator, forward):
    slope = world.gradient(world.expected(sequence_kl_estimate(world.policy, world.reference, estimator)))
    assert close(slope, world.gradient(world.of_steps(forward)))


def test_k1_in_the_reward_has_the_gradient_of_the_kl_and_in_the_reward_k3_has_neither(world):
    truth = world.gradient(world.divergence())
    slopes = {
        name: world.gradient(world.expected(whole(world, name).detach() * world.policy.sum())) for name in ("k1", "k3")
    }
    assert close(slopes["k1"], truth)
    assert not close(slopes["k3"], truth)
    assert not close(slopes["k3"], world.gradient(world.divergence(forward=True)))


def all_groups(world: Enumerated, count: int) -> tuple[Tensor, Tensor]:
    """(G * count,) completions of every group of `count` samples of one prompt, and (G,) the chance of each group."""
    each = torch.cartesian_prod(*[torch.arange(world.per_prompt)] * count).view(-1, count)
    starts = torch.arange(world.world.num_tokens) * world.per_prompt
    members = (starts[:, None, None] + each[None]).view(-1, count)
    chance = world.policy.sum().detach()[members].sum(1).exp() / world.world.num_tokens
    return members.flatten(), chance


@pytest.mark.parametrize(("length", "count"), [(2, 2), (1, 3)])
def test_rloo_is_unbiased_over_all_groups_that_can_be_drawn(length, count):
    """Its gradient is minus that of E[r] - beta KL, here with different rewards for each prompt's completions."""
    world = Enumerated(length)
    index, chance = all_groups(world, count)
    assert float(chance.sum()) == pytest.approx(1.0)
    sizes = torch.full((len(chance),), count)
    out = RLOO(beta=BETA)(world.policy.select(index), world.reference.select(index), sizes, world.rewards[index])
    slope = world.gradient((chance * out.loss).sum())
    law = world.policy.sum()
    value = (law.exp() * (world.rewards - BETA * (law - world.reference.sum()))).sum() / world.world.num_tokens
    truth = world.gradient(value)
    assert float(truth.abs().max()) > 1e-3
    assert close(slope, -truth)
    assert float((chance * out.measured["kl"][0] / count).sum()) == pytest.approx(world.divergence().item(), rel=1e-10)


def test_grpo_has_another_gradient():
    """With its divisor by the standard deviation no multiple of the right gradient comes out, even without a penalty."""
    world = Enumerated(2)
    index, chance = all_groups(world, 2)
    sizes = torch.full((len(chance),), 2)
    law, drawn = world.policy.sum(), world.policy.select(index)
    truth = world.gradient((law.exp() * world.rewards).sum() / world.world.num_tokens)
    cosines = {}
    for by_std in (True, False):
        loss = GRPO(beta=0.0, divide_by_std=by_std, divide_by_length=False)
        now = world.policy.select(index)
        out = loss(now, world.reference.select(index), sizes, world.rewards[index], drawn.tokens().detach())
        slope = world.gradient((chance * out.loss).sum())
        cosines[by_std] = float(-(slope * truth).sum() / slope.norm() / truth.norm())
    assert cosines[False] == pytest.approx(1.0, abs=1e-10)
    assert cosines[True] < 0.95


def test_imitating_the_preferred_of_two_samples_of_the_reference_ends_at_best_of_two():
    """Deterministic labels and a coin for ties: the expected loss has no slope at best-of-2, and its reward and KL are the law's."""
    world = MarkovWorld(length=3).at(2)
    law = world.reward_law(world.reference)
    share = np.diff(np.concatenate([[0.0], law.probabilities.cumsum()]) ** 2) / law.probabilities
    of_total = np.interp(world.reward_of_total(world.totals.astype(float)), law.rewards, np.log(share))
    best, _ = world._tilt(of_total)
    assert world.expected_reward(best) == pytest.approx(law.best_of(2).mean, rel=1e-10)
    assert world.kl(best) == pytest.approx(law.best_of_kl(2), rel=1e-10)
    every = Enumerated(3)
    own = slice(2 * every.per_prompt, 3 * every.per_prompt)
    chance, rewards = every.reference.sum().exp()[own], every.rewards[own]
    wins = (rewards[:, None] > rewards[None]).double() + 0.5 * (rewards[:, None] == rewards[None]).double()
    chosen = 2 * chance * (wins * chance[None]).sum(1)
    assert float(chosen.sum()) == pytest.approx(1.0)
    slopes = []
    for table in (best, world.reference):
        logits = torch.from_numpy(table.copy()).requires_grad_()
        loss = SFT(normalization="sum")(every.of(logits.log_softmax(-1))).loss[own]
        slopes.append(float(torch.autograd.grad((chosen * loss).sum(), logits)[0].abs().max()))
    assert slopes[0] < 1e-10
    assert slopes[1] > 1e-2
