"""REBEL in the exact world: its one optimum is the reference tilted by the reward, token by token."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from torch import Tensor

from exptilt.losses import REBEL
from exptilt.testbed.markov import MarkovWorld, Samples
from exptilt.testbed.sequences import completions
from exptilt.types import LogProbs, Pair

BETA = 0.2


class AllCompletions:
    """Every completion of every prompt, scored by a table of logits that learns by autograd."""

    def __init__(self, world: MarkovWorld) -> None:
        self.world = world
        tokens = completions(world)
        prompts = np.repeat(np.arange(world.num_tokens), len(tokens))
        self.samples = Samples(prompts, np.tile(tokens, (world.num_tokens, 1)))
        count = len(prompts)
        # Each completion beside the next of its prompt, and the last beside the first: all are reached.
        places = np.arange(count).reshape(world.num_tokens, -1)
        self.first, self.second = (torch.from_numpy(one.ravel()) for one in (places, np.roll(places, -1, axis=1)))
        rewards = torch.from_numpy(world.rewards(self.samples.tokens))
        self.scores = {"chosen_score": rewards[self.first], "rejected_score": rewards[self.second]}
        self.reference = self.pairs(torch.from_numpy(world.logps(world.reference, self.samples)))
        last = np.concatenate([prompts[:, None], self.samples.tokens[:, :-1]], axis=1)
        gained = np.asarray(world.sentiment)[self.samples.tokens]
        total = gained.cumsum(axis=1) - gained - int(world.totals[0])
        self.state = tuple(map(torch.from_numpy, (last, total, self.samples.tokens.copy())))

    def pairs(self, logps: Tensor) -> Pair:
        """Of (n, length) log-probabilities by token."""
        lengths = torch.full((len(logps),), logps.shape[1])
        return Pair(*(LogProbs(values=logps[side].flatten(), lengths=lengths) for side in (self.first, self.second)))

    def loss(self, logits: Tensor) -> Tensor:
        """REBEL's mean over the pairs, of a table (length, V, S, V) of scores."""
        steps = torch.arange(self.world.length)[None, :]
        logps = logits.log_softmax(-1)[steps, *self.state]
        return REBEL(beta=BETA)(self.pairs(logps), self.reference, **self.scores).loss.mean()


@pytest.mark.parametrize("length", [2, 4])
def test_the_optimal_policy_has_loss_and_gradient_zero_and_no_other_tilt_has(length):
    world = MarkovWorld(length=length)
    every = AllCompletions(world)
    best = torch.from_numpy(world.optimal_policy(BETA)).requires_grad_()
    value = every.loss(best)
    (gradient,) = torch.autograd.grad(value, best)
    assert value.item() < 1e-24
    assert float(gradient.abs().max()) < 1e-14
    for other in (0.9 * BETA, 1.1 * BETA):
        assert every.loss(torch.from_numpy(world.optimal_policy(other))).item() > 1e-4


def test_descent_from_the_reference_ends_at_the_optimal_policy():
    """Measured by what the policy does: its reward and KL are the optimum's, and nothing is left between the two."""
    world = MarkovWorld(length=2)
    every = AllCompletions(world)
    logits = torch.from_numpy(world.reference.copy()).requires_grad_()
    solver = torch.optim.LBFGS(
        [logits], lr=1, max_iter=2000, tolerance_grad=1e-14, tolerance_change=0, history_size=50, line_search_fn="strong_wolfe"
    )  # fmt: skip

    def closure() -> Tensor:
        solver.zero_grad()
        value = every.loss(logits)
        value.backward()
        return value

    solver.step(closure)
    found, best = world.policy_from_logits(logits.detach().numpy()), world.optimal_policy(BETA)
    assert world.kl(best) > 0.1
    assert abs(world.kl(found, best)) < 1e-12
    assert np.abs(np.exp(world.logps(found, every.samples)) - np.exp(world.logps(best, every.samples))).max() < 1e-6
    assert world.expected_reward(found) == pytest.approx(world.expected_reward(best), abs=1e-9)
    assert world.kl(found) == pytest.approx(world.kl(best), abs=1e-9)
