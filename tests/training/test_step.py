"""One step's gradient against numbers derived by hand and against plain autograd."""

from __future__ import annotations

import math
from dataclasses import replace

import numpy as np
import pytest
import torch
from torch import nn
from transformers import LlamaConfig, LlamaForCausalLM

from exptilt.data.groups import Completion, Group
from exptilt.errors import NonFiniteError, TrainingError
from exptilt.losses import AOT, DPO, LDDPO, SFT, Hinge, Mixture, Term
from exptilt.policies.engine import head
from exptilt.policies.policy import Policy
from exptilt.policies.scorer import ScorerFunction
from exptilt.policies.scoring import score
from exptilt.processes.world import World
from exptilt.training.objective import Objective
from exptilt.training.step import accumulate, clipped_gradient
from exptilt.types import LogProbs


class Tabular(nn.Module):
    """log p of token t is theta[t], whatever precedes it."""

    def __init__(self, size: int = 8) -> None:
        super().__init__()
        self.theta = nn.Parameter(torch.linspace(-2, -1, size, dtype=torch.float64))

    def forward(self, groups: list[Group]) -> LogProbs:
        parts = [completion for group in groups for completion in group.completions]
        ids = torch.from_numpy(np.concatenate([part.ids for part in parts]).astype(np.int64))
        return LogProbs(values=self.theta[ids], lengths=torch.tensor([len(part.ids) for part in parts]))


def row(name: str, *completions: list[int], **columns) -> Group:
    made = tuple(Completion(np.array(ids, np.int32), np.ones(len(ids), bool)) for ids in completions)
    return Group(id=name, prompt=np.array([1], np.int32), completions=made, **columns)


def test_token_mean_over_uneven_micro_batches_is_sum_over_sum():
    """1, 2 and 5 tokens: the gradient of the mean NLL in theta_t is -(times t occurs) / 8, not a mean of means."""
    model = Tabular()
    rows = [row("a", [0]), row("b", [0, 1]), row("c", [2, 2, 2, 3, 1])]
    expected = torch.tensor([-2, -2, -3, -1, 0, 0, 0, 0], dtype=torch.float64) / 8
    for micro_batches in ([rows], [rows[:1], rows[1:]], [[rows[2]], [rows[0]], [rows[1]]]):
        model.zero_grad()
        sums = accumulate(model, micro_batches, Objective(SFT()), ScorerFunction(model), None)
        assert torch.allclose(model.theta.grad, expected, rtol=1e-12)
        nll = -(2 * model.theta[0] + 2 * model.theta[1] + 3 * model.theta[2] + model.theta[3])
        assert sums.totals["loss"] == pytest.approx([nll.item(), 8.0])


@pytest.mark.parametrize(("limit", "factor"), [(1.0, 1.0), (math.inf, 1.0), (0.1, 0.1 / (math.sqrt(18) / 8))])
def test_a_gradient_is_divided_and_scaled_down_at_once(limit, factor):
    """(-2, -2, -3, -1) / 8 has the norm sqrt(18) / 8, which is the metric whether it is scaled down or not."""
    model, rows = Tabular(), [row("a", [0]), row("b", [0, 1]), row("c", [2, 2, 2, 3, 1])]
    weights = [*model.parameters(), nn.Parameter(torch.ones(2))]  # one that nothing touches
    sums = clipped_gradient(
        weights, [rows[:1], rows[1:]], Objective(SFT()), (ScorerFunction(model), None), World.alone(), limit
    )
    expected = torch.tensor([-2, -2, -3, -1, 0, 0, 0, 0], dtype=torch.float64) / 8 * factor
    assert torch.allclose(model.theta.grad, expected, rtol=1e-12)
    assert sums.means()["grad_norm"] == pytest.approx(math.sqrt(18) / 8, rel=1e-12)


def test_a_sum_that_overflows_has_no_row_to_name():
    """Two rows of gradient 1e308: each is a float64, their sum is none."""
    model = Tabular()
    model.theta.data.fill_(0)

    def steep(groups: list[Group]) -> LogProbs:
        logps = model(groups)
        return replace(logps, values=logps.tokens() * 1e308)

    batch = [[row("a", [0])], [row("b", [0])]]
    with pytest.raises(NonFiniteError, match="no single row; only their sum"):
        clipped_gradient([model.theta], batch, Objective(SFT()), (ScorerFunction(steep), None), World.alone(), 1.0)


def test_dpo_by_hand():
    """At the reference a pair's gradient in its chosen and rejected log-probability is -+ beta / 2; weights 3 and 1."""
    model = Tabular()
    rows = [row("a", [0], [1], weight=3.0), row("b", [2], [3])]
    fixed = model(rows).detach()
    reference = {"a": fixed.select([0, 1]), "b": fixed.select([2, 3])}
    for micro_batches in ([rows], [[rows[1]], [rows[0]]]):
        model.zero_grad()
        accumulate(
            model,
            micro_batches,
            Objective(DPO(beta=0.2)),
            ScorerFunction(model),
            ScorerFunction(lambda g: LogProbs.cat([reference[x.id] for x in g])),
        )
        expected = torch.tensor([-3, 3, -1, 1, 0, 0, 0, 0], dtype=torch.float64) * 0.1 / 4
        assert torch.allclose(model.theta.grad, expected, rtol=1e-12)


def test_a_coupled_loss_without_gradient_leaves_zeros_and_not_nothing():
    """A pair of equal completions has gap 0 whatever theta is; the optimizer must still see a gradient, of zero."""
    model = Tabular()
    rows = [row("a", [0, 1], [1, 0])]
    fixed = model(rows).detach()
    accumulate(model, [rows], Objective(AOT()), ScorerFunction(model), ScorerFunction(lambda groups: fixed))
    assert model.theta.grad is not None
    assert model.theta.grad.count_nonzero() == 0


def test_coupling_changes_nothing_for_a_loss_that_is_not_coupled():
    """Hinge alone is separable; beside a sort of weight 0 it is formed over the whole batch. Same gradient."""
    rows = [row("a", [0, 4], [1]), row("b", [2], [3, 5, 6]), row("c", [7], [0])]
    gradients = []
    for loss in (Hinge(), Mixture(terms=(Term(loss=Hinge()), Term(loss=AOT(), weight=0.0)))):
        model = Tabular()
        fixed = {group.id: model([group]).detach() for group in rows}
        with torch.no_grad():
            model.theta += torch.linspace(0, 1, 8, dtype=torch.float64) ** 2
        cut = [rows[:2], rows[2:]]
        reference = ScorerFunction(lambda g, f=fixed: LogProbs.cat([f[x.id] for x in g]))
        accumulate(model, cut, Objective(loss), ScorerFunction(model), reference)
        gradients.append(model.theta.grad)
    assert gradients[0].abs().max() > 0.01
    assert torch.allclose(*gradients, rtol=1e-12, atol=1e-15)


def test_a_batch_of_weight_zero_is_refused():
    rows = [replace(row("a", [0]), weight=0.0), replace(row("b", [1]), weight=0.0)]
    with pytest.raises(TrainingError, match=r"every row of a batch has weight 0 \(a, b\)"):
        accumulate(Tabular(), [rows], Objective(SFT()), ScorerFunction(Tabular()), None)


def test_a_row_of_weight_zero_changes_nothing():
    gradients = []
    for rows in ([row("a", [0, 1])], [row("a", [0, 1]), row("b", [2], weight=0.0)]):
        model = Tabular()
        accumulate(model, [rows], Objective(SFT()), ScorerFunction(model), None)
        gradients.append(model.theta.grad)
    assert torch.equal(*gradients)


@pytest.mark.parametrize("loss", [DPO(), LDDPO(alpha=0.3)], ids=["sums", "tokens"])
def test_a_loss_formed_in_chunks_compares_each_with_its_own_part_of_the_reference(monkeypatch, loss):
    """Three pairs in three chunks; the reference is another model's."""
    monkeypatch.setattr(head, "CHUNK_ELEMENTS", 1)
    monkeypatch.setattr(head, "_CHUNK_ROWS", 1)
    shape = {"hidden_size": 8, "intermediate_size": 8, "num_hidden_layers": 1, "num_attention_heads": 2}
    torch.manual_seed(0)
    model, other = (LlamaForCausalLM(LlamaConfig(vocab_size=11, **shape)).double() for _ in range(2))
    rows = [row("a", [2, 3], [4]), row("b", [5], [6, 7, 8]), row("c", [9, 9, 2], [3, 2])]
    calls = []

    def reference(groups: list[Group]) -> LogProbs:
        calls.append(len(groups))
        return score(other, groups).detach()

    whole = Objective(loss)(rows, score(model, rows), reference(rows)).loss / 3
    expected = torch.autograd.grad(whole, list(model.parameters()))
    sums = accumulate(model, [rows], Objective(loss), Policy(model), ScorerFunction(reference))
    assert calls == [3, 3]
    assert sums.means()["loss"] == pytest.approx(whole.item(), rel=1e-6)
    for weights, gradient in zip(model.parameters(), expected, strict=True):
        torch.testing.assert_close(weights.grad, gradient, rtol=1e-5, atol=1e-8)
