"""Promise 2: how a global batch is split, packed and ordered changes no gradient, metric or running statistic.

The yardstick is plain autograd: one forward pass over all rows, the loss, its weighted mean, `backward()`.
"""

from __future__ import annotations

import random
from dataclasses import replace
from typing import Any, get_args

import pytest
import torch

from exptilt.errors import DataError
from exptilt.losses import AOT, BCO, DPO, KTO, NLL, ORPO, SFT, TDPO1, WPO, XPO, AnyLoss, BetaDPO, CalDPO, Mixture, Term
from exptilt.policies.scorer import ScorerFunction
from exptilt.policies.scoring import score, score_all
from exptilt.training.objective import Objective
from exptilt.training.step import accumulate
from exptilt.types import LogProbs

CATALOGUE = [member() for member in get_args(AnyLoss)]
MIXTURES = {
    "token mean beside a contrast": Mixture(
        terms=(Term(loss=DPO()), Term(loss=NLL(normalization="token"), weight=0.3))
    ),
    "a full distribution beside a moving mean": Mixture(terms=(Term(loss=TDPO1()), Term(loss=BCO(beta=0.3)))),
    "prompts of chosen tokens beside a contrast": Mixture(
        terms=(Term(loss=DPO()), Term(loss=ORPO(nll_over="all", normalization="token"), weight=0.5))
    ),
    "prompts by their means": ORPO(nll_over="all"),
    "a weight by distribution beside a sort": Mixture(terms=(Term(loss=WPO()), Term(loss=AOT(beta=0.3)))),
}
SPLITS = ([1] * 8, [2] * 4, [4, 4], [8], [7, 1], [3, 3, 2])
Result = tuple[torch.Tensor, dict[str, list[float]], dict[str, float]]


def cut(groups: list[Any], sizes: list[int]) -> list[list[Any]]:
    rest = iter(groups)
    return [[next(rest) for _ in range(size)] for size in sizes]


class Bench:
    """A policy away from its reference, and an objective that has one step behind it."""

    def __init__(self, loss: Any, make_model: Any, draw_rows: Any, soft: bool = False, kind: str = "llama") -> None:
        self.loss = loss
        self.model = make_model(kind, seed=1)
        self.other = make_model(kind, seed=2)
        self.rows = Objective(loss).prepare(draw_rows(loss.kind, seed=5, soft=soft))
        self.earlier = Objective(loss).prepare(draw_rows(loss.kind, seed=6, soft=soft))
        everything = self.rows + self.earlier
        self.known = dict(zip(map(id, everything), score_all(self.other, everything), strict=True))

    def policy(self, groups: Any) -> LogProbs:
        live = self.other if {"divergence", "kl"} & set(self.loss.byproducts) else None
        return score(self.model, groups, byproducts=self.loss.byproducts, reference=live)

    @property
    def reference(self) -> Any:
        if not self.loss.needs_reference:
            return None
        return ScorerFunction(lambda groups: LogProbs.cat([self.known[id(group)] for group in groups]))

    def objective(self) -> Objective:
        objective = Objective(self.loss)
        with torch.no_grad():
            objective(self.earlier, self.policy(self.earlier), self.reference and self.reference(self.earlier))
        objective.advance()
        return objective

    def gradient(self) -> torch.Tensor:
        found = [
            (torch.zeros_like(parameter) if parameter.grad is None else parameter.grad).flatten()
            for parameter in self.model.parameters()
        ]
        self.model.zero_grad(set_to_none=True)
        return torch.cat(found)

    def plain(self) -> Result:
        objective = self.objective()
        out = objective(self.rows, self.policy(self.rows), self.reference and self.reference(self.rows))
        (out.loss / out.weight).backward()
        objective.advance()
        return self.gradient(), out.sums.totals, objective.state

    def split(self, groups: list[Any], sizes: list[int]) -> Result:
        objective = self.objective()
        sums = accumulate(self.model, cut(groups, sizes), objective, ScorerFunction(self.policy), self.reference)
        objective.advance()
        return self.gradient(), sums.totals, objective.state


def check_all_splits(bench: Bench) -> None:
    gradient, sums, state = bench.plain()
    scale = float(gradient.abs().max())
    assert scale > 1e-9, "a loss without gradient tests nothing"
    shuffled = random.Random(0).sample(bench.rows, len(bench.rows))
    cases = [(bench.rows, sizes) for sizes in SPLITS] + [(shuffled, sizes) for sizes in ([1] * 8, [8], [3, 3, 2])]
    for groups, sizes in cases:
        found, found_sums, found_state = bench.split(groups, sizes)
        assert float((found - gradient).abs().max()) <= 1e-6 * scale, (sizes, groups is shuffled)
        assert found_sums.keys() == sums.keys()
        for name, (total, weight) in sums.items():
            assert found_sums[name] == pytest.approx([total, weight], rel=1e-6, abs=1e-9), (name, sizes)
        assert found_state == pytest.approx(state, rel=1e-6, abs=1e-9)


@pytest.mark.parametrize("loss", CATALOGUE, ids=lambda loss: loss.name)
def test_every_objective(loss, tiny_model, draw_rows):
    check_all_splits(Bench(loss, tiny_model, draw_rows))


@pytest.mark.parametrize("loss", MIXTURES.values(), ids=MIXTURES)
def test_sums_of_objectives(loss, tiny_model, draw_rows):
    check_all_splits(Bench(loss, tiny_model, draw_rows))


@pytest.mark.parametrize("loss", [DPO(), BCO(), BetaDPO(), AOT(), CalDPO()], ids=lambda loss: loss.name)
def test_soft_labels(loss, tiny_model, draw_rows):
    check_all_splits(Bench(loss, tiny_model, draw_rows, soft=True))


@pytest.mark.parametrize("loss", [DPO(), KTO(), SFT()], ids=lambda loss: loss.name)
def test_gpt2(loss, tiny_model, draw_rows):
    check_all_splits(Bench(loss, tiny_model, draw_rows, kind="gpt2"))


def test_a_coupled_loss_replays_the_dropout_it_was_formed_with(tiny_model, draw_rows):
    """With one seed, plain autograd on one pack sees the same masks as the pass that is repeated for the gradient."""
    bench = Bench(AOT(beta=0.5), tiny_model, draw_rows)
    bench.model = tiny_model("gpt2", seed=1, resid_pdrop=0.3, embd_pdrop=0.3, attn_pdrop=0.3).train()
    torch.manual_seed(4)
    out = bench.objective()(bench.rows, *first_draw(bench))
    (out.loss / out.weight).backward()
    expected = bench.gradient()
    torch.manual_seed(4)
    objective = bench.objective()
    torch.manual_seed(5)
    accumulate(bench.model, [bench.rows], objective, ScorerFunction(bench.policy), bench.reference)
    assert torch.allclose(bench.gradient(), expected, rtol=1e-6, atol=1e-12)


def first_draw(bench: Bench) -> tuple[LogProbs, LogProbs]:
    torch.manual_seed(5)
    return bench.policy(bench.rows), bench.reference(bench.rows)


def test_xpo_says_what_rows_on_disk_lack(tiny_model, draw_rows):
    """Rows on disk do not say who sampled them; that comes with online sampling."""

    def rows_on_disk(*args, **settings):
        rows = draw_rows(*args, **settings)
        return [
            replace(row, completions=tuple(replace(part, version=None) for part in row.completions)) for row in rows
        ]

    bench = Bench(XPO(), tiny_model, rows_on_disk)
    with pytest.raises(DataError, match=r"rows.jsonl:1: loss 'xpo' needs chosen is policy in every row"):
        bench.objective()


def test_kto_trains_one_row_at_a_time_and_shuffled(make_run, draw_rows):
    """Micro-batches of one, in another order, end at the weights of one big pack; and its loss falls."""
    from exptilt.training.callbacks.callback import Callback
    from exptilt.training.loop import train

    rows = Objective(KTO()).prepare(draw_rows("unpaired"))
    ends, losses = [], []

    class Watch(Callback):
        def after_step(self, progress: Any, sums: Any) -> None:
            losses.append(sums.means()["loss"])

    for number, steps in enumerate(
        ([[rows]] * 6, [[[row] for row in random.Random(n).sample(rows, 8)] for n in range(6)])
    ):
        from exptilt.settings.training_settings import TrainConfig

        run = make_run(KTO(), steps, callbacks=[Watch()], settings=TrainConfig(resume="never"))
        assert train(run).is_last, number
        ends.append(torch.cat([parameter.detach().flatten() for parameter in run.model.parameters()]))
    assert torch.allclose(ends[0], ends[1], atol=1e-5)
    assert losses[0] == pytest.approx(0.5)  # half, where policy and reference agree
    assert losses[5] < losses[3] < losses[1] < losses[0]
    assert losses[6:] == pytest.approx(losses[:6], abs=1e-5)
