"""Variances of policy gradients against samples, and their order: the baseline of the paper's argument."""

from __future__ import annotations

from dataclasses import astuple

import numpy as np
import pytest
import torch

from exptilt.testbed.gradient_variance import gradient_variance
from exptilt.testbed.markov import MarkovWorld
from exptilt.testbed.sequences import SequenceLaw, completions

BETA = 0.1


def by_autograd(world, policy, baseline):
    """Every completion's own gradient, one after the other."""
    law = SequenceLaw.of_table(world, policy)
    ratio = law.logps - SequenceLaw.of_table(world, world.reference).logps
    tokens = completions(world)
    earned = world.rewards(tokens) - BETA * ratio
    gradients, chances = [], []
    for prompt in range(world.num_tokens):
        for number, completion in enumerate(tokens):
            scores = torch.from_numpy(policy.copy()).requires_grad_()
            logps, last, total = scores.log_softmax(-1), prompt, -int(world.totals[0])
            logp = 0.0
            for step, token in enumerate(completion):
                logp = logp + logps[step, last, total, token]
                last, total = token, total + world.sentiment[token]
            (slope,) = torch.autograd.grad(logp, scores)
            gradients.append((earned[prompt, number] - baseline[prompt]) * slope.flatten())
            chances.append(world.prompt_law[prompt] * np.exp(law.logps[prompt, number]))
    chance, stacked = torch.tensor(chances), torch.stack(gradients)
    mean = (chance[:, None] * stacked).sum(0)
    return float((chance * (stacked**2).sum(1)).sum() - (mean**2).sum()), float((mean**2).sum())


def test_variances_are_those_of_every_completions_own_gradient():
    world = MarkovWorld(length=2)
    policy = world.policy_from_logits(world.reference + np.random.default_rng(0).normal(size=world.table_shape))
    found = gradient_variance(world, policy, BETA)
    reference = SequenceLaw.of_table(world, world.reference)
    weights = np.exp(world.rewards(completions(world)) / BETA)
    log_z = [BETA * float(np.log(np.exp(row) @ weights)) for row in reference.logps]
    for name, baseline in (("none", [0.0] * 6), ("log_z", log_z)):
        variance, signal = by_autograd(world, policy, baseline)
        assert getattr(found, name) == pytest.approx(variance, rel=1e-9)
        assert found.signal == pytest.approx(signal, rel=1e-9)


def test_at_the_optimum_the_baseline_of_the_paper_takes_all_variance_away():
    world = MarkovWorld(length=4)
    found = gradient_variance(world, world.optimal_policy(BETA), BETA)
    assert found.log_z == pytest.approx(0.0, abs=1e-20)
    assert found.value == pytest.approx(0.0, abs=1e-20)
    assert found.signal == pytest.approx(0.0, abs=1e-20)
    assert found.none > 0.1


def test_no_baseline_of_the_prompt_is_better_than_the_best_and_near_the_reference_log_z_is_no_help():
    """log Z is the value of the optimum: far from it, taking it off leaves more variance than taking nothing off."""
    world = MarkovWorld(length=4)
    policies = (world.reference, world.optimal_policy(2 * BETA))
    at_start, at_end = (gradient_variance(world, policy, BETA) for policy in policies)
    for found in (at_start, at_end):
        assert min(astuple(found)[:4]) == found.best
        assert found.signal > 0
    assert at_start.log_z > 1.8 * at_start.none
    assert at_end.log_z < 0.5 * at_end.none


def test_a_beta_of_zero_is_refused():
    with pytest.raises(ValueError, match="beta must be > 0"):
        gradient_variance(MarkovWorld(length=2), MarkovWorld(length=2).reference, 0.0)
