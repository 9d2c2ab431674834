"""Where objectives go: exact optima on a tabular policy over two prompts with four responses each."""

from __future__ import annotations

import math
from typing import Any

import pytest
import torch
from torch import Tensor

from exptilt.losses import DPO, IPO, NLL, REBEL, BCOUnpaired, ChiPO, PlackettLuce, with_soft_labels
from exptilt.types import LogProbs, Pair

REFERENCE = torch.tensor([[0.4, 0.3, 0.2, 0.1], [0.1, 0.2, 0.3, 0.4]], dtype=torch.float64).log()
REWARD = torch.tensor([[0.3, -0.5, 1.0, 0.2], [-0.4, 0.9, 0.0, 0.5]], dtype=torch.float64)
ROW, FIRST, SECOND = (index.flatten() for index in torch.meshgrid(*(torch.arange(n) for n in (2, 4, 4)), indexing="ij"))
PROBABLE = (REFERENCE[ROW, FIRST] + REFERENCE[ROW, SECOND]).exp()
"""Probability of each ordered pair when both responses are drawn from the reference."""


def logps(table: Tensor, response: Tensor) -> LogProbs:
    return LogProbs.from_sums(table[ROW, response], torch.ones(len(ROW), dtype=torch.int64))


def pairs(table: Tensor) -> Pair:
    return Pair(logps(table, FIRST), logps(table, SECOND))


def optimum(objective: Any) -> Tensor:
    """Log-probabilities (2, 4) that minimise an objective of them, by L-BFGS from the reference."""
    logits = REFERENCE.clone().requires_grad_()
    solver = torch.optim.LBFGS(
        [logits], lr=1, max_iter=3000, tolerance_grad=1e-13, tolerance_change=0, history_size=20, line_search_fn="strong_wolfe"
    )  # fmt: skip

    def closure() -> Tensor:
        solver.zero_grad()
        value = objective(logits.log_softmax(dim=1))
        value.backward()
        return value

    solver.step(closure)
    return logits.detach().log_softmax(dim=1)


def fit(loss: Any, p_first: Tensor, weight: Tensor = PROBABLE) -> Tensor:
    """The optimum over all ordered pairs with these label probabilities and weights."""
    reference = pairs(REFERENCE)
    return optimum(lambda table: (weight * with_soft_labels(loss, pairs(table), reference, p_first).loss).sum())


def total_variation(first: Tensor, second: Tensor) -> float:
    return float((first.exp() - second.exp()).abs().sum(dim=1).max() / 2)


def tilted(reward: Tensor, beta: float) -> Tensor:
    return (REFERENCE + reward / beta).log_softmax(dim=1)


def bradley_terry(scale: float = 1.0) -> Tensor:
    return torch.sigmoid((REWARD[ROW, FIRST] - REWARD[ROW, SECOND]) / scale)


def test_dpo_on_bradley_terry_labels_is_the_tilted_reference():
    """pi* = pi_ref exp(r / beta) / Z, whatever the distribution of pairs, if every response occurs."""
    assert total_variation(fit(DPO(beta=0.5), bradley_terry()), tilted(REWARD, 0.5)) < 1e-6
    uneven = PROBABLE * torch.linspace(0.2, 3.0, len(ROW), dtype=torch.float64)
    assert total_variation(fit(DPO(beta=0.5), bradley_terry(), uneven), tilted(REWARD, 0.5)) < 1e-6


def test_dpo_rewards_equal_the_true_ones_up_to_a_constant_of_the_prompt():
    implicit = 0.5 * (fit(DPO(beta=0.5), bradley_terry()) - REFERENCE)
    constant = REWARD - implicit
    assert float((constant - constant[:, :1]).abs().max()) < 1e-6
    assert constant[:, 0].tolist() == pytest.approx(
        (0.5 * (REFERENCE + REWARD / 0.5).logsumexp(dim=1)).tolist(), abs=1e-6
    )


def test_rebel_is_the_tilted_reference_exactly_whatever_the_pairs():
    """A regression with a perfect fit: pi* for any weights of the pairs, without labels."""
    scores = {"chosen_score": REWARD[ROW, FIRST], "rejected_score": REWARD[ROW, SECOND]}
    reference = pairs(REFERENCE)
    for weight in (PROBABLE, PROBABLE * torch.linspace(0.2, 3.0, len(ROW), dtype=torch.float64)):

        def objective(table: Tensor, weight: Tensor = weight) -> Tensor:
            return (weight * REBEL(beta=0.5)(pairs(table), reference, **scores).loss).sum()

        assert total_variation(optimum(objective), tilted(REWARD, 0.5)) < 1e-7


def test_chi_po_solves_the_chi_squared_penalised_problem():
    """At its optimum beta * (u + log u) differs from the reward by a constant of the prompt, with u = pi / pi_ref."""
    ratio = fit(ChiPO(beta=0.5), bradley_terry()) - REFERENCE
    constant = REWARD - 0.5 * (ratio.exp() + ratio)
    assert float((constant - constant[:, :1]).abs().max()) < 1e-6


def test_label_temperature_only_rescales_beta():
    assert total_variation(fit(DPO(beta=0.25), bradley_terry(scale=2.0)), tilted(REWARD, 0.5)) < 1e-6


def test_ipo_is_the_reference_tilted_by_the_chance_to_win():
    """Independent pairs from the reference: pi_ref exp(p(y beats pi_ref) / tau), also for deterministic labels."""
    for labels in (bradley_terry(), (REWARD[ROW, FIRST] > REWARD[ROW, SECOND]).double() + (FIRST == SECOND) / 2):
        wins = torch.zeros(2, 4, dtype=torch.float64).index_put(
            (ROW, FIRST), labels * REFERENCE[ROW, SECOND].exp(), accumulate=True
        )
        assert total_variation(fit(IPO(beta=0.3), labels), tilted(wins, 0.3)) < 1e-6


def test_cdpo_margin_on_deterministic_labels():
    """Two responses, eps 0.1, beta 0.5: the log-ratio difference is log(0.9 / 0.1) / 0.5 = 4.3944."""
    best, second = REWARD.topk(2, dim=1).indices.T
    rows = torch.arange(2)
    sides = [LogProbs.from_sums(REFERENCE[rows, side], torch.ones(2, dtype=torch.int64)) for side in (best, second)]
    loss = DPO(beta=0.5, label_smoothing=0.1)

    def objective(table: Tensor) -> Tensor:
        now = Pair(
            *(LogProbs.from_sums(table[rows, side], torch.ones(2, dtype=torch.int64)) for side in (best, second))
        )
        return loss(now, Pair(*sides)).loss.sum()

    gain = optimum(objective) - REFERENCE
    assert (gain[rows, best] - gain[rows, second]).tolist() == pytest.approx([4.3944491546] * 2, abs=1e-6)


def test_preferred_ft_is_best_of_2():
    """Both responses from the reference, the better one chosen: P(y) = F(y)^2 - F(below y)^2, within log 2 - 1/2 nats."""
    better = (REWARD[ROW, FIRST] > REWARD[ROW, SECOND]).double() + (FIRST == SECOND) / 2
    found = fit(NLL(normalization="sum"), better)
    order = REWARD.argsort(dim=1)
    cumulative = REFERENCE.exp().gather(1, order).cumsum(dim=1)
    squares = torch.diff(cumulative.square(), dim=1, prepend=torch.zeros(2, 1, dtype=torch.float64))
    best_of_2 = torch.zeros_like(squares).scatter(1, order, squares).log()
    assert total_variation(found, best_of_2) < 1e-6
    assert float((found.exp() * (found - REFERENCE)).sum(dim=1).max()) <= math.log(2) - 0.5


def test_plackett_luce_on_rankings_of_the_model_is_the_tilted_reference():
    """All orders of three responses, weighted by their Plackett-Luce probability under the true rewards."""
    import itertools

    orders = [list(order) for row in range(2) for order in itertools.permutations(range(4), 3)]
    rows = torch.tensor([row for row in range(2) for _ in range(24)])
    index = torch.tensor(orders)
    sizes, ranks = torch.full((48,), 3), torch.tensor([1, 2, 3] * 48)
    scores = REWARD[rows.unsqueeze(1), index]
    weight = torch.stack([scores[:, k] - scores[:, k:].logsumexp(dim=1) for k in range(3)]).sum(dim=0).exp()

    def flat(table: Tensor) -> LogProbs:
        return LogProbs.from_sums(table[rows.unsqueeze(1), index].flatten(), torch.ones(144, dtype=torch.int64))

    loss = PlackettLuce(beta=0.5)
    found = optimum(lambda table: (weight * loss(flat(table), flat(REFERENCE), sizes, ranks).loss).sum())
    assert total_variation(found, tilted(REWARD, 0.5)) < 1e-6


def test_bco_separates_good_from_bad_with_rewards_at_the_log_odds():
    """Labels with P(good | y) = q(y): the optimum of a binary classifier has r - delta = logit q up to the threshold held."""
    q = torch.sigmoid(REWARD).flatten()
    everything = REFERENCE.flatten()
    ones = torch.ones(8, dtype=torch.int64)
    reference = LogProbs.from_sums(everything.detach(), ones)
    free = everything.clone().requires_grad_()  # not normalised: classifier outputs are free, the threshold is the mean
    loss = BCOUnpaired(beta=0.5)
    solver = torch.optim.LBFGS(
        [free], max_iter=500, tolerance_grad=1e-12, tolerance_change=0, line_search_fn="strong_wolfe"
    )

    def closure() -> Tensor:
        solver.zero_grad()
        policy = LogProbs.from_sums(free, ones)
        held = {"mean_reward": 0.3, "num_steps": 1e12}
        good, bad = (loss(policy, reference, torch.full((8,), label), state=held).loss for label in (True, False))
        value = (q * good + (1 - q) * bad).sum()
        value.backward()
        return value

    solver.step(closure)
    reward = 0.5 * (free.detach() - everything)
    assert (reward - 0.3).tolist() == pytest.approx(REWARD.flatten().tolist(), abs=1e-6)
