from __future__ import annotations

import numpy as np
import pytest
from numpy.typing import NDArray

from exptilt.testbed import MarkovWorld, SequenceLaw, completions


def model_of(world: MarkovWorld, policy: NDArray[np.float64]):  # type: ignore[no-untyped-def]
    """A table asked like a transformer: from the prefix alone."""
    sentiment = np.array(world.sentiment)

    def next_token(prefixes: NDArray[np.int64]) -> NDArray[np.float64]:
        total = sentiment[prefixes[:, 1:]].sum(axis=1) - world.totals[0]
        return np.exp(policy[prefixes.shape[1] - 1, prefixes[:, -1], total])

    return next_token


def test_completions_are_all_and_in_order() -> None:
    rows = completions(MarkovWorld(length=2))
    assert len(rows) == len({tuple(row) for row in rows.tolist()}) == 36
    assert rows[:3].tolist() == [[0, 0], [0, 1], [0, 2]]


def test_asking_a_model_and_dynamic_programming_agree() -> None:
    world = MarkovWorld(length=5)
    policy = world.policy_from_logits(np.random.default_rng(0).normal(size=world.table_shape))
    law = SequenceLaw.of(world, model_of(world, policy))
    reference = SequenceLaw.of(world, model_of(world, world.reference))
    assert law.logps == pytest.approx(SequenceLaw.of_table(world, policy).logps, abs=1e-12)
    assert law.expected_reward() == pytest.approx(world.expected_reward(policy), abs=1e-12)
    assert law.kl(reference) == pytest.approx(world.kl(policy), abs=1e-11)


def test_the_tilt_of_a_model_that_is_no_table_is_its_optimum() -> None:
    """A model that looks at the whole prefix, so that no dynamic programme covers it."""
    world, beta = MarkovWorld(length=3), 0.2
    weights = np.random.default_rng(1).normal(size=(3, 6, 6))

    def model(prefixes: NDArray[np.int64]) -> NDArray[np.float64]:
        scores = sum(weights[place][token] for place, token in enumerate(prefixes.T))
        odds = np.exp(scores)
        return odds / odds.sum(axis=1, keepdims=True)

    reference = SequenceLaw.of(world, model)
    optimum = reference.tilt(beta)
    assert np.exp(optimum.logps).sum(axis=1) == pytest.approx(np.ones(6), abs=1e-12)
    value = optimum.expected_reward() - beta * optimum.kl(reference)
    assert value == pytest.approx(beta * reference.log_z(beta), abs=1e-12)
    missed = value - reference.expected_reward()
    assert missed == pytest.approx(beta * reference.kl(optimum), abs=1e-12)


def test_the_tilt_of_the_reference_is_the_world_s_optimum() -> None:
    world = MarkovWorld(length=4)
    reference = SequenceLaw.of_table(world, world.reference)
    optimum = SequenceLaw.of_table(world, world.optimal_policy(0.1))
    assert reference.tilt(0.1).logps == pytest.approx(optimum.logps, abs=1e-10)
    assert reference.log_z(0.1) == pytest.approx(world.log_z(0.1), abs=1e-12)


def test_what_cannot_be_listed_or_is_no_distribution_is_refused() -> None:
    with pytest.raises(ValueError, match="362,797,056 sequences"):
        SequenceLaw.of_table(MarkovWorld(), MarkovWorld().reference)
    with pytest.raises(ValueError, match=r"shape \(6, 6\), got \(6, 7\)"):
        SequenceLaw.of(MarkovWorld(length=2), lambda prefixes: np.full((len(prefixes), 7), 1 / 7))
    with pytest.raises(ValueError, match="sum to 1"):
        SequenceLaw.of(MarkovWorld(length=2), lambda prefixes: np.full((len(prefixes), 6), 0.1))
    with pytest.raises(ValueError, match="beta must be > 0"):
        SequenceLaw.of_table(MarkovWorld(length=2), MarkovWorld(length=2).reference).tilt(-1.0)
