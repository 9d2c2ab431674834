from __future__ import annotations

import itertools
import math

import numpy as np
import pytest
from numpy.typing import NDArray

from exptilt.testbed import MarkovWorld

Floats = NDArray[np.float64]


def small_world(**changes: object) -> MarkovWorld:
    transition = [[0.5, 0.3, 0.2], [0.1, 0.6, 0.3], [0.25, 0.25, 0.5]]
    settings = {"length": 3, "transition": transition, "sentiment": (-2, 0, 1), "prompts": (0.5, 0.3, 0.2)} | changes
    return MarkovWorld(**settings)  # type: ignore[arg-type]


def some_policy(world: MarkovWorld, seed: int = 0) -> Floats:
    return world.policy_from_logits(np.random.default_rng(seed).normal(size=world.table_shape))


def probability(world: MarkovWorld, policy: Floats, prompt: int, tokens: tuple[int, ...]) -> float:
    """The chain rule written out, with no use of the world's own bookkeeping but its list of totals."""
    last, total, result = prompt, 0, 1.0
    for step, token in enumerate(tokens):
        result *= math.exp(policy[step, last, world.totals.tolist().index(total), token])
        last, total = token, total + world.sentiment[token]
    return result


def brute(world: MarkovWorld, policy: Floats, other: Floats) -> tuple[float, float]:
    """(E[r], KL(policy || other)) by listing every prompt and completion."""
    reward = kl = 0.0
    for prompt, tokens in itertools.product(range(3), itertools.product(range(3), repeat=world.length)):
        p, q = probability(world, policy, prompt, tokens), probability(world, other, prompt, tokens)
        mass = world.prompt_law[prompt] * p
        reward += mass / (1 + math.exp(-sum(world.sentiment[token] for token in tokens)))
        kl += mass * math.log(p / q)
    return reward, kl


def test_reward_and_kl_agree_with_listing_every_sequence() -> None:
    world = small_world()
    policy, other = some_policy(world), some_policy(world, seed=1)
    reward, kl = brute(world, policy, other)
    assert world.expected_reward(policy) == pytest.approx(reward, abs=1e-12)
    assert world.kl(policy, other) == pytest.approx(kl, abs=1e-12)
    assert world.kl(policy) == pytest.approx(brute(world, policy, world.reference)[1], abs=1e-12)


def test_the_optimum_is_the_exponential_tilt_of_every_sequence() -> None:
    world, beta = small_world(), 0.3
    optimum = world.optimal_policy(beta)
    mean_log_z = 0.0
    for prompt in range(3):
        sequences = list(itertools.product(range(3), repeat=3))
        rewards = [1 / (1 + math.exp(-sum(world.sentiment[token] for token in tokens))) for tokens in sequences]
        weights = [
            probability(world, world.reference, prompt, tokens) * math.exp(reward / beta)
            for tokens, reward in zip(sequences, rewards, strict=True)
        ]
        found = [probability(world, optimum, prompt, tokens) for tokens in sequences]
        assert found == pytest.approx(np.array(weights) / sum(weights), abs=1e-13)
        mean_log_z += world.prompt_law[prompt] * math.log(sum(weights))
    assert world.log_z(beta) == pytest.approx(mean_log_z, abs=1e-12)


@pytest.mark.parametrize("beta", [2.0, 0.3, 0.05, 0.01])
@pytest.mark.parametrize("additive", [False, True])
def test_the_value_of_the_optimum_is_beta_log_z(beta: float, additive: bool) -> None:
    world = MarkovWorld(reward_of_total=lambda total: total / 4) if additive else MarkovWorld()
    optimum = world.optimal_policy(beta)
    value = world.expected_reward(optimum) - beta * world.kl(optimum)
    assert value == pytest.approx(beta * world.log_z(beta), abs=1e-10)


@pytest.mark.parametrize("seed", range(5))
def test_what_any_policy_misses_is_beta_times_its_kl_to_the_optimum(seed: int) -> None:
    world, beta = MarkovWorld(), 0.2
    policy = some_policy(world, seed)
    missed = beta * world.log_z(beta) - (world.expected_reward(policy) - beta * world.kl(policy))
    assert missed == pytest.approx(beta * world.kl(policy, world.optimal_policy(beta)), abs=1e-10)
    assert missed > 0.1


def test_an_additive_reward_has_a_log_z_of_one_matrix_product() -> None:
    # E exp(sum of sentiment / beta) is a product of tilted transition matrices; no totals are needed.
    world = small_world(reward_of_total=lambda total: total, length=6)
    tilted = np.asarray(world.transition) * np.exp(np.array(world.sentiment) / 0.7)
    expected = np.log(np.linalg.matrix_power(tilted, 6).sum(axis=1))
    assert world.log_z(0.7) == pytest.approx(world.prompt_law @ expected, abs=1e-12)


def test_the_slope_of_the_frontier_is_beta() -> None:
    world = MarkovWorld()
    for beta in (1.0, 0.3, 0.1, 0.05):
        kls, rewards = world.frontier([beta * 1.0001, beta / 1.0001])
        assert (rewards[1] - rewards[0]) / (kls[1] - kls[0]) == pytest.approx(beta, rel=1e-6)


def test_the_frontier_rises_and_is_concave() -> None:
    kls, rewards = MarkovWorld().frontier(np.geomspace(10, 0.02, 25))
    slopes = np.diff(rewards) / np.diff(kls)
    assert (np.diff(kls) > 0).all()
    assert (np.diff(slopes) < 0).all()


def test_optimal_reward_inverts_the_frontier() -> None:
    world = MarkovWorld()
    kls, rewards = world.frontier([1.0, 0.1])
    assert world.optimal_reward(kls[0]) == pytest.approx(rewards[0], abs=1e-9)
    assert world.optimal_reward(kls[1]) == pytest.approx(rewards[1], abs=1e-9)
    assert world.optimal_reward(0) == world.expected_reward(world.reference)
    with pytest.raises(ValueError, match="kl must be below"):
        world.optimal_reward(80.0)
    with pytest.raises(ValueError, match="kl must be >= 0"):
        world.optimal_reward(-0.1)


def test_no_policy_beats_the_frontier() -> None:
    world = MarkovWorld()
    for seed in range(5):
        policy = some_policy(world, seed)
        assert world.expected_reward(policy) < world.optimal_reward(world.kl(policy))


def test_best_of_agrees_with_listing_every_draw() -> None:
    world = small_world(length=2)
    sequences = list(itertools.product(range(3), repeat=2))
    kl = reward = 0.0
    for prompt in range(3):
        p = np.array([probability(world, world.reference, prompt, tokens) for tokens in sequences])
        r = world.rewards(np.array(sequences))
        law = np.zeros(len(p))
        for draw in itertools.product(range(len(p)), repeat=3):
            best = [index for index in draw if r[index] == r[list(draw)].max()]
            for index in best:
                law[index] += np.prod(p[list(draw)]) / len(best)
        kl += world.prompt_law[prompt] * float((law * np.log(law / p)).sum())
        reward += world.prompt_law[prompt] * float(law @ r)
    assert world.best_of(3) == pytest.approx((kl, reward), abs=1e-12)


def test_best_of_one_is_the_reference() -> None:
    world = MarkovWorld()
    assert world.best_of(1) == pytest.approx((0.0, world.expected_reward(world.reference)), abs=1e-12)


def test_samples_have_the_exact_means() -> None:
    world, beta = MarkovWorld(), 0.3
    policy = world.optimal_policy(beta)
    samples = world.sample(40_000, np.random.default_rng(0), policy)
    rewards = world.rewards(samples.tokens)
    log_ratio = (world.logps(policy, samples) - world.logps(world.reference, samples)).sum(axis=1)
    for values, exact in ((rewards, world.expected_reward(policy)), (log_ratio, world.kl(policy))):
        assert abs(values.mean() - exact) < 4 * values.std() / np.sqrt(len(values))
    # Pointwise, not only on average: log_ratio = r / beta - log Z of the prompt.
    log_z = np.array([world.at(prompt).log_z(beta) for prompt in range(6)])
    assert log_ratio == pytest.approx(rewards / beta - log_z[samples.prompts], abs=1e-9)


def test_sampled_rewards_follow_the_exact_law() -> None:
    world = MarkovWorld(length=4)
    law = world.reward_law(world.reference)
    rewards = world.rewards(world.sample(50_000, np.random.default_rng(1)).tokens)
    counts = np.array([np.isclose(rewards, level).sum() for level in law.rewards])
    assert counts.sum() == 50_000
    expected = law.probabilities * 50_000
    chi_squared = ((counts - expected) ** 2 / expected)[expected > 5].sum()
    assert chi_squared < 2 * (expected > 5).sum()


def test_sampling_is_seeded_and_answers_given_prompts() -> None:
    world = MarkovWorld()
    prompts = np.array([0, 5, 5, 2])
    one = world.sample(4, np.random.default_rng(3), prompts=prompts)
    two = world.sample(4, np.random.default_rng(3), prompts=prompts)
    assert one.prompts.tolist() == prompts.tolist()
    assert one.tokens.tolist() == two.tokens.tolist()


def test_a_token_that_cannot_follow_is_never_drawn_and_costs_infinite_kl() -> None:
    world = small_world(transition=[[0.5, 0.5, 0.0], [0.4, 0.6, 0.0], [0.0, 0.0, 1.0]], prompts=(0.5, 0.5, 0.0))
    assert world.sample(2000, np.random.default_rng(0)).tokens.max() == 1
    assert world.kl(some_policy(world)) == math.inf
    assert world.kl(world.optimal_policy(0.5)) > 0


def test_one_prompt_at_a_time_averages_to_the_whole() -> None:
    world = small_world()
    policy = world.optimal_policy(0.4)
    by_prompt = [world.at(prompt).kl(policy) for prompt in range(3)]
    assert world.prompt_law @ by_prompt == pytest.approx(world.kl(policy), abs=1e-14)


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"length": 0}, "length must be >= 1, got 0"),
        ({"sentiment": (1, 2)}, r"transition must be \(2, 2\)"),
        ({"prompts": (0.5, 0.5)}, r"prompts must be \(3,\)"),
        ({"prompts": (0.5, 0.5, 0.5)}, "prompts must be probabilities"),
        ({"transition": np.ones((3, 3))}, "transition must be probabilities"),
        ({"reward_of_total": lambda total: total * np.nan}, "reward_of_total must be finite"),
    ],
)
def test_a_world_that_makes_no_sense_is_refused(changes: dict[str, object], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        small_world(**changes)


def test_a_policy_that_is_none_is_refused() -> None:
    world = small_world()
    with pytest.raises(ValueError, match="has shape"):
        world.kl(np.zeros((3, 3)))
    with pytest.raises(ValueError, match="policy_from_logits"):
        world.expected_reward(np.zeros(world.table_shape))
    with pytest.raises(ValueError, match="beta must be > 0 and finite, got 0"):
        world.optimal_policy(0)
