"""The contract of a batch, for every objective: what weights, beliefs, order and split of rows mean.

The model is a table of logits, so that a gradient is a few numbers and everything it depends on is in sight. Each property is
tried away from the reference and exactly at it, where gaps are zero but for rounding.
"""

from __future__ import annotations

import random
from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Any, get_args

import numpy as np
import pytest
import torch
from torch import Tensor, nn

from exptilt.data.groups import Completion, Credit, Group
from exptilt.errors import DataError, TrainingError
from exptilt.labels import Desirable, Preferred, Ranked
from exptilt.losses import (
    AOT,
    CPO,
    KTO,
    NLL,
    ORPO,
    AnyLoss,
    AnyRewardLoss,
    APOZeroUnpaired,
    BetaDPO,
    BradleyTerry,
    Mixture,
    SLiC,
    Term,
)
from exptilt.policies.scorer import ScorerFunction
from exptilt.training.objective import Objective
from exptilt.training.step import accumulate
from exptilt.types import LogProbs

LOSSES: dict[str, Any] = {member().name: member() for member in (*get_args(AnyLoss), *get_args(AnyRewardLoss))} | {
    "bradley_terry centred": BradleyTerry(centering=0.1),
    "nll of tokens": NLL(normalization="token"),
    "orpo of tokens": ORPO(normalization="token"),
    "orpo with the prompt": ORPO(nll_over="all"),
    "orpo with the prompt, of tokens": ORPO(normalization="token", nll_over="all"),
    "slic of tokens": SLiC(normalization="token"),
    "aot unpaired": AOT(beta=0.5, paired=False),
    "aot at beta 1/2": AOT(beta=0.5),
    "beta_dpo without half": BetaDPO(filter=0.5),
    "apo_zero_unpaired over all": APOZeroUnpaired(balanced=False),
    "tokens beside a draw and a sort": Mixture(
        terms=(Term(loss=CPO()), Term(loss=BetaDPO(), weight=0.7), Term(loss=AOT(beta=0.5), weight=0.3))
    ),
}
PAIRED = {name: loss for name, loss in LOSSES.items() if loss.kind.is_paired}
KINKED = ("cal_hinge_dpo", "dpop", "anchor_reference_hinge")
"""With max(0, .) of a log-ratio, which has no one slope at the reference."""
STARTS = {"away": 0.8, "at the reference": 0.0}
SIZE = 11


def every(losses: dict[str, Any]) -> Any:
    return pytest.mark.parametrize("loss", losses.values(), ids=losses)


anywhere = pytest.mark.parametrize("distance", STARTS.values(), ids=STARTS)


class Table(nn.Module):
    """Each token is drawn from one distribution, whatever precedes it."""

    def __init__(self, distance: float) -> None:
        super().__init__()
        generator = torch.Generator().manual_seed(0)
        start, step = (torch.randn(SIZE, generator=generator, dtype=torch.float64) for _ in range(2))
        self.fixed = start.log_softmax(0)
        self.logits = nn.Parameter(start + distance * step)
        self.noise: np.random.Generator | None = None
        """Rounding that depends on how the rows are packed, where it is wanted."""

    def score(self, groups: Sequence[Group], logs: Tensor) -> LogProbs:
        parts = [completion for group in groups for completion in group.completions]
        ids = torch.from_numpy(np.concatenate([part.ids for part in parts]).astype(np.int64))
        values = logs[ids]
        if self.noise is not None:
            values = values * (1 + 1e-7 * torch.from_numpy(self.noise.uniform(-1, 1, len(ids))))
        chances, ones = logs.exp(), torch.ones_like(values)
        return LogProbs(
            values=values,
            lengths=torch.tensor([len(part.ids) for part in parts]),
            entropy=-(chances * logs).sum() * ones,
            log_sum_squares=(2 * logs).logsumexp(0) * ones,
            divergence=(self.fixed.exp() * (self.fixed - logs)).sum() * ones,
            kl=(chances * (logs - self.fixed)).sum() * ones,
        )

    def policy(self, groups: Sequence[Group]) -> LogProbs:
        return self.score(groups, self.logits.log_softmax(0))

    def reference(self, groups: Sequence[Group]) -> LogProbs:
        return self.score(groups, self.fixed)


def drawn(kind: Any, seed: int, count: int = 6) -> list[Group]:
    """Rows of a kind, with everything a loss may ask of them."""
    rng = np.random.default_rng((seed, len(kind.name)))

    def completion(version: int | None) -> Completion:
        ids = rng.integers(0, SIZE, size=rng.integers(1, 6)).astype(np.int32)
        score, (drawn_with, advantages) = float(rng.uniform(0.1, 0.9)), rng.uniform(-2, 1, (2, len(ids))).astype("f")
        credit = Credit(advantages, advantages, advantages)
        return Completion(ids, np.ones(len(ids), bool), score, drawn_with, version, credit)

    def row(number: int) -> Group:
        ranks = tuple(int(rank) for rank in rng.permutation(3) + 1)
        labels = {Preferred: Preferred(margin=float(rng.uniform(0.5, 2))), Desirable: Desirable(number % 3 > 0)}
        parts = tuple(completion(number if place == number % 2 else None) for place in range(kind.num_completions or 3))
        prompt = np.array([1, number], np.int32)
        label = {**labels, Ranked: Ranked(ranks), None: None}[kind.label]
        return Group(id=f"row {number}", prompt=prompt, completions=parts, label=label)

    return [row(number) for number in range(count)]


@dataclass
class Step:
    """What a step does."""

    gradient: Tensor
    loss: float
    state: dict[str, float]

    def same_as(self, other: Step, rtol: float = 1e-9) -> bool:
        scale = float(self.gradient.abs().max()) + 1e-12
        assert float((self.gradient - other.gradient).abs().max()) <= rtol * scale + 1e-14
        assert other.loss == pytest.approx(self.loss, rel=rtol)
        assert other.state == pytest.approx(self.state, rel=rtol, abs=1e-12 if rtol < 1e-6 else 1e-6)
        return True


def step(
    loss: Any, distance: float, rows: Sequence[Group], sizes: Sequence[int] = (), noise: int | None = None
) -> Step:
    """The second step of a run, on these rows in micro-batches of these sizes."""
    model, objective = Table(distance), Objective(loss)
    earlier = objective.prepare(drawn(loss.kind, seed=9))
    objective(earlier, model.policy(earlier), model.reference(earlier) if loss.needs_reference else None)
    objective.advance()
    model.noise = None if noise is None else np.random.default_rng(noise)
    rest = iter(objective.prepare(rows))
    parts = [[next(rest) for _ in range(size)] for size in sizes or [len(rows)]]
    reference = ScorerFunction(model.reference) if loss.needs_reference else None
    sums = accumulate(model, parts, objective, ScorerFunction(model.policy), reference)
    objective.advance()
    assert model.logits.grad is not None
    return Step(model.logits.grad, sums.means()["loss"], objective.state)


@every(LOSSES)
@anywhere
@pytest.mark.parametrize("name", ["row 2", "row 9"], ids=["of one name", "of another"])
def test_weight_two_is_the_row_twice(loss, distance, name):
    rows = drawn(loss.kind, seed=1)
    heavy = [replace(row, weight=2.0) if row.id == "row 2" else row for row in rows]
    assert step(loss, distance, [*rows, replace(rows[2], id=name)]).same_as(step(loss, distance, heavy))


@every(LOSSES)
@anywhere
def test_weight_zero_is_the_row_absent(loss, distance):
    rows, others = drawn(loss.kind, seed=1), drawn(loss.kind, seed=2)
    absent = [replace(row, id=f"{row.id}, absent", weight=0.0) for row in others[2:4]]
    assert step(loss, distance, rows).same_as(step(loss, distance, [*rows[:3], *absent, *rows[3:]]))


@every(LOSSES)
@anywhere
def test_weights_that_are_no_whole_numbers_are_shares_of_the_mean(loss, distance):
    """Three rows of weight 1/2 apart or together with their other halves."""
    rows = drawn(loss.kind, seed=1)
    halves = [replace(row, id=f"{row.id}{half}", weight=0.5) for row in rows for half in "ab"]
    assert step(loss, distance, rows).same_as(step(loss, distance, halves))


def swapped(row: Group, p_chosen: float) -> Group:
    label = replace(row.label, p_chosen=p_chosen)
    return replace(row, completions=row.completions[::-1], label=label)


@every(PAIRED)
@anywhere
def test_a_belief_of_zero_is_the_row_swapped(loss, distance):
    """Rows 1 and 4 alone; beside them row 3 is a tie and row 5 nearly one."""
    rows = drawn(loss.kind, seed=1)
    rows[3], rows[5] = (replace(rows[n], label=replace(rows[n].label, p_chosen=p)) for n, p in ((3, 0.5), (5, 0.45)))
    given = [replace(row, label=replace(row.label, p_chosen=0.0)) if n in (1, 4) else row for n, row in enumerate(rows)]
    turned = [swapped(row, 1.0) if n in (1, 4) else row for n, row in enumerate(rows)]
    assert step(loss, distance, turned).same_as(step(loss, distance, given))


@every(PAIRED)
@anywhere
def test_a_belief_is_that_of_the_swapped_row_in_the_other_order(loss, distance):
    """0.3 for (w, l) says what 0.7 for (l, w) says."""
    rows = drawn(loss.kind, seed=1)
    given = [replace(row, label=replace(row.label, p_chosen=0.3)) if n in (0, 2) else row for n, row in enumerate(rows)]
    turned = [swapped(row, 0.7) if n in (0, 2) else row for n, row in enumerate(rows)]
    assert step(loss, distance, turned).same_as(step(loss, distance, given))


def mixed(kind: Any) -> list[Group]:
    """Rows of all weights and beliefs."""
    rows = [replace(row, weight=weight) for row, weight in zip(drawn(kind, seed=1), (1, 2, 0, 0.5, 3, 1), strict=True)]
    if not kind.is_paired:
        return rows
    beliefs = (1.0, 0.0, 0.5, 0.8, 0.2, 1.0)
    return [replace(row, label=replace(row.label, p_chosen=p)) for row, p in zip(rows, beliefs, strict=True)]


@every(LOSSES)
@anywhere
def test_any_split_and_any_order(loss, distance):
    rows = mixed(loss.kind)
    whole = step(loss, distance, rows)
    for seed, sizes in enumerate(([1] * 6, [2, 4], [6], [3, 3])):
        shuffled = random.Random(seed).sample(rows, len(rows))
        assert whole.same_as(step(loss, distance, shuffled, sizes))


@every({name: loss for name, loss in LOSSES.items() if name not in KINKED})
@anywhere
def test_rounding_of_a_split_stays_rounding(loss, distance):
    """Log-probabilities that differ by 1e-7 of themselves, as float32's do from one packing to the next."""
    rows = mixed(loss.kind)
    whole = step(loss, distance, rows, noise=0)
    for seed in range(1, 5):
        shuffled = random.Random(seed).sample(rows, len(rows))
        assert whole.same_as(step(loss, distance, shuffled, [2, 1, 3], noise=seed), rtol=2e-4)


@every({name: loss for name, loss in LOSSES.items() if loss.needs_two is None})
@anywhere
def test_a_batch_of_one_row_has_one_value_whatever_the_row_weighs(loss, distance):
    rows = drawn(loss.kind, seed=1)[:1]
    one = step(loss, distance, rows)
    assert np.isfinite(one.loss)
    assert one.same_as(step(loss, distance, [replace(rows[0], weight=3.0)]))
    assert one.same_as(step(loss, distance, [replace(rows[0], weight=0.25)]))


def test_a_batch_of_one_row_is_refused_where_two_are_needed():
    for loss, said in ((KTO(), "the same prompt"), (APOZeroUnpaired(), "one label")):
        with pytest.raises(DataError, match=rf"row 0: .*{said}.*larger batch\.size"):
            step(loss, 0.8, drawn(loss.kind, seed=1)[:1])


@every({name: loss for name, loss in LOSSES.items() if loss.needs_two is None})
def test_a_batch_of_weight_zero_is_refused(loss):
    rows = [replace(row, weight=0.0) for row in drawn(loss.kind, seed=1)]
    with pytest.raises(TrainingError, match=r"every row of a batch has weight 0 \(row 0, row 1"):
        step(loss, 0.8, rows)


@every(PAIRED)
@anywhere
def test_two_votes_of_three_are_a_belief_of_two_thirds(loss, distance):
    """A row believed in is three rows of a third of its weight: two as given, one with its sides exchanged."""
    rows = drawn(loss.kind, seed=1)
    votes = [
        replace(one, id=f"vote {n}", weight=1 / 3) for n, one in enumerate((rows[0], rows[0], swapped(rows[0], 1.0)))
    ]
    believed = replace(rows[0], label=replace(rows[0].label, p_chosen=2 / 3))
    assert step(loss, distance, [*votes, *rows[1:]]).same_as(step(loss, distance, [believed, *rows[1:]]))


@every(PAIRED)
@anywhere
@pytest.mark.parametrize("ties", [(2,), (0, 3, 5), (0, 1, 2, 3, 4, 5)], ids=["one tie", "three", "all"])
def test_a_tie_does_not_depend_on_which_side_is_written_first(loss, distance, ties):
    rows = [
        replace(row, label=replace(row.label, p_chosen=0.5 if n in ties else 1.0), weight=1.0 + n / 2)
        for n, row in enumerate(drawn(loss.kind, seed=1))
    ]
    whole = step(loss, distance, rows)
    for some in (ties[:1], ties[1:], ties):
        turned = [swapped(row, 0.5) if n in some else row for n, row in enumerate(rows)]
        assert whole.same_as(step(loss, distance, turned))
