from __future__ import annotations

import doctest
import math
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
from scipy.optimize import minimize
from scipy.special import expit, log_softmax

from exptilt.testbed import MarkovWorld, SequenceLaw, as_demonstrations, as_preferences, as_text, as_tokens, completions


def short_world() -> MarkovWorld:
    return MarkovWorld(
        length=2, transition=[[0.5, 0.3, 0.2], [0.3, 0.4, 0.3], [0.2, 0.3, 0.5]], sentiment=(-1, 0, 1)
    ).at(0)


def test_text_and_tokens_are_inverse() -> None:
    assert as_text(np.array([0, 5, 2])) == "a f c"
    assert as_tokens(" a f c").tolist() == [0, 5, 2]


def test_labels_are_a_coin_of_the_stated_sharpness() -> None:
    world, scale = MarkovWorld(length=3), 4.0
    rows = as_preferences(world, 20_000, scale, np.random.default_rng(0))
    chosen = world.rewards(np.stack([as_tokens(row.chosen) for row in rows]))
    rejected = world.rewards(np.stack([as_tokens(row.rejected) for row in rows]))
    wins, p_win = chosen > rejected, expit(scale * np.abs(chosen - rejected))
    differ = chosen != rejected
    # P(the better one is chosen | the pair) = sigmoid(scale * |gap|), so wins - p has mean 0 in every bin of the gap.
    for low, high in ((0.0, 0.2), (0.2, 0.4), (0.4, 1.0)):
        inside = differ & (p_win >= expit(scale * low)) & (p_win < expit(scale * high))
        error = wins[inside] - p_win[inside]
        assert inside.sum() > 500
        assert abs(error.mean()) < 4 * error.std() / np.sqrt(inside.sum())


def test_infinite_scale_labels_deterministically() -> None:
    world = MarkovWorld(length=2)
    for row in as_preferences(world, 500, math.inf, np.random.default_rng(0)):
        better, worse = world.rewards(np.stack([as_tokens(row.chosen), as_tokens(row.rejected)]))
        assert better >= worse


def test_rows_are_seeded_and_named() -> None:
    world = MarkovWorld()
    rows = as_preferences(world, 3, 8.0, np.random.default_rng(7))
    assert rows == as_preferences(world, 3, 8.0, np.random.default_rng(7))
    assert [row.id for row in rows] == ["markov:0", "markov:1", "markov:2"]
    with pytest.raises(ValueError, match="scale must be > 0, got 0"):
        as_preferences(world, 3, 0, np.random.default_rng(7))


def test_demonstrations_are_the_policy_s_completions() -> None:
    world = MarkovWorld()
    rows = as_demonstrations(world, 5, np.random.default_rng(2))
    samples = world.sample(5, np.random.default_rng(2))
    assert [as_tokens(row.prompt).tolist() for row in rows] == samples.prompts[:, None].tolist()
    assert [as_tokens(row.completion).tolist() for row in rows] == samples.tokens.tolist()


def fit_dpo(world: MarkovWorld, num: int, seed: int, beta: float, scale: float) -> SequenceLaw:
    """Minimise DPO's loss over every distribution on completions, from the rows as text."""
    reference = SequenceLaw.of_table(world, world.reference)
    index = {as_text(tokens): place for place, tokens in enumerate(completions(world))}
    rows = as_preferences(world, num, scale, np.random.default_rng(seed))
    counts = np.zeros((len(index), len(index)))
    for row in rows:
        counts[index[str(row.chosen).strip()], index[str(row.rejected).strip()]] += 1

    def loss(scores: np.ndarray) -> tuple[float, np.ndarray]:
        # The scores are log-ratios up to a constant, which the margin does not see.
        margin = beta * (scores[:, None] - scores[None, :])
        slope = -beta * counts * expit(-margin) / num
        return float((counts * np.logaddexp(0, -margin)).sum() / num), slope.sum(axis=1) - slope.sum(axis=0)

    fitted = minimize(loss, np.zeros(len(index)), jac=True, method="L-BFGS-B", options={"ftol": 1e-15, "gtol": 1e-9})
    logps = reference.logps.copy()
    logps[0] = log_softmax(reference.logps[0] + fitted.x)
    return SequenceLaw(world, logps)


def test_dpo_on_the_rows_approaches_the_tilt_at_beta_over_scale_like_one_over_n() -> None:
    world, beta, scale = short_world(), 0.5, 2.0
    optimum = SequenceLaw.of_table(world, world.optimal_policy(beta / scale))
    distance = {
        num: np.mean([fit_dpo(world, num, seed, beta, scale).kl(optimum) for seed in range(12)])
        for num in (1000, 10_000)
    }
    assert distance[10_000] < 0.02
    assert 5 < distance[1000] / distance[10_000] < 20
    wrong = SequenceLaw.of_table(world, world.optimal_policy(beta))
    assert fit_dpo(world, 10_000, 0, beta, scale).kl(wrong) > 10 * distance[10_000]


def test_the_gradient_of_exptilt_s_own_dpo_vanishes_at_the_tilt() -> None:
    torch = pytest.importorskip("torch")
    from exptilt.losses.dpo import DPO
    from exptilt.types import LogProbs, Pair

    world, beta, scale = short_world(), 0.5, 2.0
    reference = SequenceLaw.of_table(world, world.reference)
    rewards, prior = world.rewards(completions(world)), np.exp(reference.logps[0])
    winner, loser = np.indices((len(prior), len(prior))).reshape(2, -1)
    weight = torch.tensor(prior[winner] * prior[loser] * expit(scale * (rewards[winner] - rewards[loser])))

    def gradient(policy: SequenceLaw) -> float:
        logits = torch.tensor(policy.logps[0], requires_grad=True)
        lengths = torch.full((len(winner),), world.length)
        sides = [
            Pair(LogProbs.from_sums(logps[winner], lengths), LogProbs.from_sums(logps[loser], lengths))
            for logps in (logits.log_softmax(0), torch.tensor(reference.logps[0]))
        ]
        (DPO(beta=beta)(*sides).loss * weight).sum().backward()
        return float(logits.grad.abs().max())

    assert gradient(reference.tilt(beta / scale)) < 1e-12
    assert gradient(reference.tilt(beta)) > 1e-3


def test_the_page_on_the_testbed_is_true() -> None:
    page = Path(__file__).parents[2] / "docs" / "testbed.md"
    failed, tried = doctest.testfile(str(page), module_relative=False)
    assert failed == 0
    assert tried > 20


def test_the_testbed_needs_no_torch() -> None:
    code = "import sys, exptilt.testbed, exptilt.testbed.reviews; sys.exit('torch' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", code], check=False).returncode == 0
