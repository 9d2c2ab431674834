"""Losses on lists and on rewards against their formulas."""

from __future__ import annotations

import itertools
import math

import pytest
import torch
from mpmath import mp, mpf

from exptilt.losses import (
    DPO,
    PRO,
    RRHF,
    TPO,
    AllPairsDPO,
    BradleyTerry,
    EXOList,
    InfoNCA,
    LiPO,
    NCAList,
    PlackettLuce,
    PlackettLuceReward,
)
from exptilt.types import LogProbs, Pair

S = mp.fsum
SIZES = [3, 2, 4]
RANKS = [2, 1, 3, 1, 2, 4, 2, 1, 3]
TIED = [1, 2, 2, 1, 1, 2, 1, 2, 2]
SCORES = [0.5, 2.0, 1.0, 0.0, 3.0, 1.5, 0.25, 2.5, 1.0]


def groups(values):
    flat = iter(values)
    return [[next(flat) for _ in range(size)] for size in SIZES]


def sp(x):
    return mp.log1p(mp.exp(x))


def lse(xs):
    return mp.log(S([mp.exp(x) for x in xs]))


def softmax(xs):
    return [mp.exp(x - lse(xs)) for x in xs]


def by_group(formula, beta, labels, reference=True, mean=False):
    """(rewards of a group, labels of the group, the group's completions) -> loss, over all groups."""

    def values(t):
        sums = [S(y) - (S(r) if reference else 0) for y, r in zip(t["y"], t["ry"], strict=True)]
        return [mpf(beta) * (x / len(y) if mean else x) for x, y in zip(sums, t["y"], strict=True)]

    def all_groups(t, frozen):
        parts = zip(groups(values(t)), groups(labels), groups(t["y"]), groups(values(frozen)), strict=True)
        return [formula(r, [mpf(x) for x in label], ys, f) for r, label, ys, f in parts]

    return all_groups


def in_order(r, order):
    return S([lse([r[j] for j in order[k:]]) - r[i] for k, i in enumerate(order)])


def plackett_luce(r, ranks, ys, f):
    """The mean over all orders that agree with the ranks; without ties there is one."""
    orders = [
        o for o in itertools.permutations(range(len(r))) if all(ranks[a] <= ranks[b] for a, b in itertools.pairwise(o))
    ]
    return S([in_order(r, order) for order in orders]) / len(orders)


def breslow(r, ranks, ys, f):
    return S([lse([r[j] for j in range(len(r)) if ranks[j] >= ranks[i]]) - r[i] for i in range(len(r))])


def exo(r, scores, ys, f):
    q, target = softmax(r), softmax([s / mpf(0.5) for s in scores])
    return S([a * mp.log(a / b) for a, b in zip(q, target, strict=True)])


def nca(temperature):
    def one(r, scores, ys, f):
        w = softmax([s / mpf(temperature) for s in scores])
        return S([a * sp(-x) for a, x in zip(w, r, strict=True)]) + S([sp(x) for x in r]) / len(r)

    return one


def info_nca(r, scores, ys, f):
    w = softmax([s / mpf(0.7) for s in scores])
    return S([a * (lse(r) - x) for a, x in zip(w, r, strict=True)])


def lipo(r, scores, ys, f):
    place = {i: 1 + sum(1 for j in range(len(f)) if f[j] > f[i]) for i in range(len(f))}
    total = mpf(0)
    for i, j in itertools.permutations(range(len(r)), 2):
        if scores[i] > scores[j]:
            discount = abs(1 / mp.log(1 + place[i]) - 1 / mp.log(1 + place[j]))
            total += (2 ** scores[i] - 2 ** scores[j]) * discount * sp(r[j] - r[i])
    return total


def lipo_ndcg(r, scores, ys, f):
    best = sorted(scores, reverse=True)
    return lipo(r, scores, ys, f) / S([(2**psi - 1) / mp.log(k + 2) for k, psi in enumerate(best)])


def all_pairs(share):
    def one(r, ranks, ys, f):
        lost = [sp(r[j] - r[i]) for i, j in itertools.permutations(range(len(r)), 2) if ranks[i] < ranks[j]]
        return S(lost) / (len(lost) if share else 1) if lost else mpf(0)

    return one


def rrhf(p, scores, ys, f):
    pairs = itertools.permutations(range(len(p)), 2)
    best = max(range(len(p)), key=lambda i: scores[i])
    return S([max(0, p[i] - p[j]) for i, j in pairs if scores[i] < scores[j]]) - p[best]


def pro(p, scores, ys, f):
    order = sorted(range(len(p)), key=lambda i: -scores[i])
    total = -mpf(0.05) * (len(p) - 1) ** 2 * S(ys[order[0]])
    for place, k in enumerate(order[:-1]):
        later = order[place + 1 :]
        top = max(scores[k] - scores[j] for j in later)
        total += mp.log(mp.exp(p[k] * top) + S([mp.exp(p[j] * (scores[k] - scores[j])) for j in later])) - p[k] * top
    return total


def labels(**inputs):
    return {"sizes": torch.tensor(SIZES), **{name: torch.tensor(value) for name, value in inputs.items()}}


CASES = [
    (PlackettLuce(), by_group(plackett_luce, 0.1, RANKS), labels(ranks=RANKS)),
    (PlackettLuce(beta=0.7), by_group(plackett_luce, 0.7, TIED), labels(ranks=TIED)),
    (PlackettLuce(ties="breslow"), by_group(breslow, 0.1, TIED), labels(ranks=TIED)),
    (EXOList(), by_group(exo, 0.5, SCORES), labels(scores=SCORES)),
    (NCAList(score_temperature=0.7), by_group(nca(0.7), 0.01, SCORES), labels(scores=SCORES)),
    (NCAList(), by_group(nca(1e-4), 0.01, SCORES), labels(scores=SCORES)),
    (InfoNCA(score_temperature=0.7), by_group(info_nca, 0.01, SCORES), labels(scores=SCORES)),
    (LiPO(), by_group(lipo, 0.05, SCORES), labels(scores=SCORES)),
    (LiPO(ndcg=True), by_group(lipo_ndcg, 0.05, SCORES), labels(scores=SCORES)),
    (AllPairsDPO(), by_group(all_pairs(share=True), 0.1, TIED), labels(ranks=TIED)),
    (AllPairsDPO(reduction="sum"), by_group(all_pairs(share=False), 0.1, RANKS), labels(ranks=RANKS)),
    (RRHF(), by_group(rrhf, 1, SCORES, reference=False, mean=True), labels(scores=SCORES)),
    (PRO(), by_group(pro, 1, SCORES, reference=False, mean=True), labels(scores=SCORES)),
]
NAMES = [f"{case[0].name}-{place}" for place, case in enumerate(CASES)]


@pytest.mark.parametrize("seed", [1, 2])
@pytest.mark.parametrize(("loss", "formula", "inputs"), CASES, ids=NAMES)
def test_value_and_gradient_equal_the_formula_to_1e_12(loss, formula, inputs, seed, same_as, draw):
    same_as(loss, formula, draw(seed, y=[2, 1, 3, 2, 2, 1, 2, 3, 1]), inputs)


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16], ids=["float32", "bfloat16"])
@pytest.mark.parametrize(("loss", "formula", "inputs"), CASES, ids=NAMES)
def test_log_ratios_of_1e4_and_means_of_minus_200(loss, formula, inputs, dtype, extreme):
    per_token = (-200.0, 200.0, 1.0, 200.0, -200.0, 200.0, -200.0, -1.0, 1.0)
    tokens = {
        "y": [[-1.0 + min(r, 0.0)] * 50 for r in per_token],
        "ry": [[-1.0 - max(r, 0.0)] * 50 for r in per_token],
    }
    if loss.name in ("rrhf", "pro"):  # their means must differ, or max(0, p_i - p_j) has no derivative
        tokens["y"] = [[-1.0 - 25.0 * place] * 50 for place in range(9)]
    extreme(loss, formula, tokens, inputs, dtype)


def rewards_of(values) -> LogProbs:
    values = torch.as_tensor(values, dtype=torch.float64)
    return LogProbs.from_sums(values, torch.ones(len(values), dtype=torch.int64))


def test_plackett_luce_probabilities_of_all_orders_sum_to_1():
    torch.manual_seed(1)
    rewards = 3 * torch.randn(4, dtype=torch.float64)
    orders = list(itertools.permutations(range(1, 5)))
    out = PlackettLuceReward()(rewards.repeat(24), torch.tensor([4] * 24), torch.tensor([r for o in orders for r in o]))
    assert torch.exp(-out.loss).sum().item() == pytest.approx(1.0, rel=1e-13)


def test_plackett_luce_gradients_sum_to_zero_and_a_shift_changes_nothing():
    torch.manual_seed(2)
    rewards = torch.randn(9, dtype=torch.float64, requires_grad=True)
    for ranks in (RANKS, TIED):
        loss = PlackettLuceReward()(rewards, torch.tensor(SIZES), torch.tensor(ranks)).loss
        (gradient,) = torch.autograd.grad(loss.sum(), rewards)
        assert [sum(part) for part in groups(gradient.tolist())] == pytest.approx([0.0] * 3, abs=1e-14)
        shifted = PlackettLuceReward()(rewards + 7.5, torch.tensor(SIZES), torch.tensor(ranks)).loss
        assert torch.allclose(loss, shifted, rtol=1e-13)


def test_two_completions_are_dpo_and_a_tie_is_p_chosen_one_half():
    torch.manual_seed(3)
    policy, reference = rewards_of(-5 * torch.rand(2)), rewards_of(-5 * torch.rand(2))
    sizes = torch.tensor([2])

    def pair(logps: LogProbs, order: list[int]) -> Pair:
        return Pair(logps.select([order[0]]), logps.select([order[1]]))

    forward = DPO()(pair(policy, [0, 1]), pair(reference, [0, 1])).loss
    backward = DPO()(pair(policy, [1, 0]), pair(reference, [1, 0])).loss
    assert torch.allclose(PlackettLuce()(policy, reference, sizes, torch.tensor([1, 2])).loss, forward, rtol=1e-14)
    assert torch.allclose(PlackettLuce()(policy, reference, sizes, torch.tensor([2, 1])).loss, backward, rtol=1e-14)
    tie = PlackettLuce()(policy, reference, sizes, torch.tensor([1, 1])).loss
    assert torch.allclose(tie, (forward + backward) / 2, rtol=1e-14)
    one_hot = InfoNCA(beta=0.1)(policy, reference, sizes, torch.tensor([1.0, 0.0])).loss
    assert torch.allclose(one_hot, forward, rtol=1e-14)
    swap = (2 - 1) * (1 / math.log(2) - 1 / math.log(3))
    graded = LiPO(beta=0.1)(policy, reference, sizes, torch.tensor([1.0, 0.0])).loss
    assert torch.allclose(graded, swap * forward, rtol=1e-14)


def test_lists_at_the_reference():
    """log K! for Plackett-Luce, log K for InfoNCA, 2 log 2 for NCA."""
    same = rewards_of([-4.0] * 9)
    sizes = torch.tensor(SIZES)
    factorials = [math.log(math.factorial(k)) for k in SIZES]
    assert PlackettLuce()(same, same, sizes, torch.tensor(RANKS)).loss.tolist() == pytest.approx(factorials)
    assert PlackettLuce()(same, same, sizes, torch.tensor(TIED)).loss.tolist() == pytest.approx(factorials)
    scores = torch.tensor(SCORES)
    assert InfoNCA()(same, same, sizes, scores).loss.tolist() == pytest.approx([math.log(k) for k in SIZES])
    assert NCAList()(same, same, sizes, scores).loss.tolist() == pytest.approx([2 * math.log(2)] * 3)


def test_lipo_has_a_gradient_at_the_reference_and_does_not_depend_on_the_order_of_the_list():
    values = torch.full((4,), -3.0, dtype=torch.float64, requires_grad=True)
    scores = torch.tensor([0.0, 3.0, 1.0, 2.0])
    reference = rewards_of([-3.0] * 4)
    policy = LogProbs.from_sums(values, torch.ones(4, dtype=torch.int64))
    loss = LiPO()(policy, reference, torch.tensor([4]), scores).loss
    (gradient,) = torch.autograd.grad(loss.sum(), values)
    assert gradient[1].item() < -1e-3  # the best one is pulled up
    assert gradient[0].item() > 1e-3
    order = torch.tensor([2, 0, 3, 1])
    again = LiPO()(policy.select(order), reference, torch.tensor([4]), scores[order]).loss
    assert again.item() == pytest.approx(loss.item(), rel=1e-14)


def test_exo_list_is_zero_exactly_at_the_tilted_reference():
    """log-ratios = scores / (beta * temperature) + any constant give KL 0."""
    scores = torch.tensor(SCORES, dtype=torch.float64)
    policy, reference = rewards_of(scores / (0.5 * 0.5) - 40.0), rewards_of([0.0] * 9)
    out = EXOList()(policy, reference, torch.tensor(SIZES), scores)
    assert out.loss.tolist() == pytest.approx([0.0] * 3, abs=1e-13)


def test_bradley_terry_against_its_formula_and_as_plackett_luce_of_two():
    torch.manual_seed(4)
    chosen, rejected = torch.randn(5, dtype=torch.float64), torch.randn(5, dtype=torch.float64)
    margin = torch.rand(5, dtype=torch.float64)
    out = BradleyTerry(centering=0.01)(chosen, rejected, margin=margin)
    for value, w, lo, m in zip(out.loss.tolist(), chosen.tolist(), rejected.tolist(), margin.tolist(), strict=True):
        expected = sp(-(mpf(w) - mpf(lo) - mpf(m))) + mpf(0.01) * (mpf(w) + mpf(lo)) ** 2
        assert abs(value - expected) < 1e-13 * expected
    flat = torch.stack([chosen, rejected], dim=1).flatten()
    ranking = PlackettLuceReward()(flat, torch.tensor([2] * 5), torch.tensor([1, 2] * 5))
    assert torch.allclose(ranking.loss, BradleyTerry()(chosen, rejected).loss, rtol=1e-14)


def test_rewards_in_bfloat16_give_float32_losses():
    rewards = torch.tensor([1.0, -1.0], dtype=torch.bfloat16)
    assert PlackettLuceReward()(rewards, torch.tensor([2]), torch.tensor([1, 2])).loss.dtype == torch.float32
    assert BradleyTerry()(rewards[:1], rewards[1:]).loss.dtype == torch.float32


TRIPLES = [2, 1, 3, 3, 2, 1, 1, 2, 3]


def tpo(t, frozen, beta, alpha, gamma=0.0, per_token=False):
    found = []
    for at in range(3):
        by_rank = {TRIPLES[3 * at + k]: [S(y), len(y)] for k, y in enumerate(t["y"][3 * at : 3 * at + 3])}
        (gold, n), (chosen, m), (rejected, k) = by_rank[1], by_rank[2], by_rank[3]
        gap = chosen / m - rejected / k if per_token else chosen - rejected
        found.append(sp(mpf(gamma) - mpf(beta) * gap) - mpf(alpha) * gold / n)
    return found


@pytest.mark.parametrize(
    ("loss", "settings"),
    [
        (TPO(), {"beta": 0.01, "alpha": 1.0}),
        (
            TPO(beta=2.0, alpha=0.3, gamma=0.5, length_normalized=True),
            {"beta": 2.0, "alpha": 0.3, "gamma": 0.5, "per_token": True},
        ),
    ],
)
def test_tpo_is_its_formula_whatever_the_order_of_a_row(loss, settings, same_as, draw):
    tokens = draw(3, y=[2, 1, 3, 2, 2, 1, 2, 3, 1])
    inputs = {"sizes": torch.tensor([3, 3, 3]), "ranks": torch.tensor(TRIPLES)}
    same_as(loss, lambda t, frozen: tpo(t, frozen, **settings), tokens, inputs)


def test_tpo_on_longer_lists_is_the_mean_over_pairs_below_the_best_and_two_are_imitated():
    policy = rewards_of([-1.0, -2.0, -4.0, -7.0, -3.0, -9.0])
    out = TPO(beta=0.5)(policy, None, torch.tensor([4, 2]), torch.tensor([2, 1, 3, 4, 1, 2]))
    gaps = [-1.0 + 4.0, -1.0 + 7.0, -4.0 + 7.0]  # those ranked 2, 3 and 4
    below = sum(math.log1p(math.exp(-0.5 * gap)) for gap in gaps) / 3
    assert out.loss.tolist() == pytest.approx([below + 2.0, 3.0], rel=1e-14)


def test_all_pairs_of_two_are_dpo_and_equals_alone_cost_nothing():
    policy, reference = rewards_of([-3.0, -5.0, -2.0, -2.5]), rewards_of([-4.0, -4.5, -1.0, -3.0])
    out = AllPairsDPO()(policy, reference, torch.tensor([2, 2]), torch.tensor([2, 1, 1, 1]))
    pair, base = (Pair(side.select([1]), side.select([0])) for side in (policy, reference))
    assert out.loss.tolist() == pytest.approx([DPO()(pair, base).loss.item(), 0.0], rel=1e-14)


def test_ndcg_makes_lipo_blind_to_groups_without_gain_and_refuses_negative_scores():
    logps = rewards_of([-3.0, -4.0])
    sizes = torch.tensor([2])
    assert LiPO(ndcg=True)(logps, logps, sizes, torch.tensor([0.0, 0.0])).loss.item() == 0
    with pytest.raises(ValueError, match="scores must be >= 0"):
        LiPO(ndcg=True)(logps, logps, sizes, torch.tensor([1.0, -1.0]))
