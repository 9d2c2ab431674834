"""Sums of losses, soft labels, and how both read from a recipe."""

from __future__ import annotations

import math
from pathlib import Path
from typing import Any, get_args

import pytest
import torch

from exptilt import losses as L
from exptilt.errors import ConfigError
from exptilt.losses import AnyLoss
from exptilt.losses.from_choice import build_loss
from exptilt.settings.declaration import config
from exptilt.settings.load import dump, load
from exptilt.settings.loss_choice import AnyLossChoice, LossChoice
from exptilt.types import LogProbs, Pair

PAIRWISE = [cls() for cls in get_args(AnyLoss) if cls.kind == "pair"]


@config
class Recipe:
    """A recipe with a loss."""

    loss: AnyLossChoice = LossChoice.of("dpo")
    """What to minimise."""


@config
class Recipes:
    """Many losses."""

    losses: tuple[AnyLossChoice, ...]
    """All of them."""


def side(seed: int, lengths: list[int]) -> LogProbs:
    generator = torch.Generator().manual_seed(seed)

    def values() -> torch.Tensor:
        return torch.rand(sum(lengths), generator=generator, dtype=torch.float64) + 0.05

    return LogProbs(values=-values(), lengths=torch.tensor(lengths), divergence=values(), log_sum_squares=-values())


POLICY = Pair(side(0, [3, 5, 2]), side(1, [4, 2, 6]))
REFERENCE = Pair(side(2, [3, 5, 2]), side(3, [4, 2, 6]))
INPUTS = {
    "margin": torch.tensor([0.5, 1.5, 2.0], dtype=torch.float64),
    "chosen_score": torch.tensor([0.9, 0.8, 0.7]),
    "rejected_score": torch.tensor([0.1, 0.3, 0.5]),
    "chosen_is_policy": torch.tensor([True, False, True]),
}


def inputs_of(loss: Any) -> dict[str, torch.Tensor]:
    return {name: INPUTS[name] for name in loss.inputs}


def read(tmp_path: Path, text: str, *overrides: str) -> Recipe:
    path = tmp_path / "recipe.yaml"
    path.write_text(text)
    return load(Recipe, path, overrides)


def test_a_mixture_is_the_weighted_sum_of_its_terms_and_reports_the_first_ones_rewards():
    mixture = L.Mixture(
        terms=(L.Term(loss=L.IPO(), weight=0.3), L.Term(loss=L.ODPO(), weight=2.0), L.Term(loss=L.NLL()))
    )
    out = mixture(POLICY, REFERENCE, margin=INPUTS["margin"])
    parts = L.IPO()(POLICY, REFERENCE), L.ODPO()(POLICY, REFERENCE, INPUTS["margin"]), L.NLL()(POLICY)
    assert torch.allclose(out.loss, 0.3 * parts[0].loss + 2.0 * parts[1].loss + parts[2].loss, rtol=1e-14)
    assert torch.equal(out.chosen_reward, parts[0].chosen_reward)


def test_a_mixture_needs_what_its_terms_need():
    plain = L.Mixture(terms=(L.Term(loss=L.CPO(normalization="sum")),))
    assert (plain.needs_reference, plain.couples_batch, plain.is_stateful, plain.needs_tokens) == (False,) * 4
    terms = (
        L.Term(loss=L.WPO()),
        L.Term(loss=L.TDPO2()),
        L.Term(loss=L.SamPO()),
        L.Term(loss=L.AOT()),
        L.Term(loss=L.ODPO()),
    )
    rich = L.Mixture(terms=terms)
    assert (rich.needs_reference, rich.couples_batch, rich.is_stateful, rich.needs_tokens) == (True,) * 4
    assert rich.byproducts == ("log_sum_squares", "divergence")
    assert rich.inputs == ("margin",)


def test_a_mixture_keeps_the_states_of_its_terms_apart():
    mixture = L.Mixture(
        terms=(L.Term(loss=L.BCO()), L.Term(loss=L.DPO()), L.Term(loss=L.BCO(beta=0.5)), L.Term(loss=L.SamPO()))
    )
    state = mixture.next_state(mixture.initial_state(), POLICY, REFERENCE)
    assert list(state) == ["0.mean_reward", "0.num_steps", "2.mean_reward", "2.num_steps", "3.num_steps"]
    assert state["2.mean_reward"] == pytest.approx(50 * state["0.mean_reward"])
    out = mixture(POLICY, REFERENCE, state=state)
    bco = {"mean_reward": state["0.mean_reward"], "num_steps": 1.0}
    other = {"mean_reward": state["2.mean_reward"], "num_steps": 1.0}
    expected = L.BCO()(POLICY, REFERENCE, bco).loss + L.DPO()(POLICY, REFERENCE).loss
    expected = expected + L.BCO(beta=0.5)(POLICY, REFERENCE, other).loss
    assert torch.allclose(out.loss, expected + L.SamPO()(POLICY, REFERENCE, {"num_steps": 1.0}).loss)


def test_mpo_is_its_three_terms():
    expected = (
        0.8 * L.DPO()(POLICY, REFERENCE).loss + 0.2 * L.BCO(beta=0.1)(POLICY, REFERENCE).loss + L.NLL()(POLICY).loss
    )
    assert torch.allclose(L.MPO()(POLICY, REFERENCE).loss, expected, rtol=1e-14)


def test_the_linear_anchor_warns_unless_one_says_one_knows():
    with pytest.warns(UserWarning, match="no finite optimum"):
        L.Mixture(terms=(L.Term(loss=L.DPO()), L.Term(loss=L.LinearAnchor(), weight=0.1)))
    L.Mixture(terms=(L.Term(loss=L.DPO()), L.Term(loss=L.LinearAnchor(allow_unbounded=True), weight=0.1)))


@pytest.mark.parametrize("loss", PAIRWISE, ids=lambda loss: loss.name)
def test_soft_labels_work_with_every_pairwise_loss(loss):
    """p = 1 is the loss itself; p = 0 that of the exchanged pair; between, both stand in the batch with their shares."""
    extra = inputs_of(loss)
    given = loss(POLICY, REFERENCE, **extra)
    ends = [L.with_soft_labels(loss, POLICY, REFERENCE, torch.full((3,), p), **extra) for p in (0.0, 1.0, 0.25)]
    assert torch.equal(ends[1].loss, given.loss)
    if not loss.couples_batch:
        assert torch.allclose(ends[2].loss, 0.25 * ends[1].loss + 0.75 * ends[0].loss, rtol=1e-6)
    assert torch.equal(ends[0].chosen_reward, given.chosen_reward)


def test_soft_labels_exchange_what_belongs_to_a_side():
    swapped = Pair(POLICY.rejected, POLICY.chosen), Pair(REFERENCE.rejected, REFERENCE.chosen)
    zero = torch.zeros(3)
    sppo = L.with_soft_labels(L.SPPO(), POLICY, REFERENCE, zero, **inputs_of(L.SPPO()))
    scores = {"chosen_score": INPUTS["rejected_score"], "rejected_score": INPUTS["chosen_score"]}
    assert torch.allclose(sppo.loss, L.SPPO()(*swapped, **scores).loss)
    xpo = L.with_soft_labels(L.XPO(alpha=1.0), POLICY, REFERENCE, zero, **inputs_of(L.XPO()))
    assert torch.allclose(xpo.loss, L.XPO(alpha=1.0)(*swapped, ~INPUTS["chosen_is_policy"]).loss)


def test_a_tie_pulls_the_margin_of_dpo_to_zero_and_soft_labels_are_label_smoothing():
    tie = L.with_soft_labels(L.DPO(), POLICY, POLICY, torch.full((3,), 0.5))
    assert tie.loss.tolist() == pytest.approx([math.log(2)] * 3)
    soft = L.with_soft_labels(L.DPO(), POLICY, REFERENCE, torch.full((3,), 0.8, dtype=torch.float64)).loss
    assert torch.allclose(soft, L.DPO(label_smoothing=0.2)(POLICY, REFERENCE).loss, rtol=1e-14)


def test_soft_labels_refuse_what_is_not_a_probability_and_what_is_not_on_pairs():
    with pytest.raises(ValueError, match=r"p_chosen must be in \[0, 1\], got 1.5 in row 1"):
        L.with_soft_labels(L.DPO(), POLICY, REFERENCE, torch.tensor([0.5, 1.5, 1.0]))
    with pytest.raises(ValueError, match="p_chosen must be in"):
        L.with_soft_labels(L.DPO(), POLICY, REFERENCE, torch.tensor([0.5, math.nan, 1.0]))
    with pytest.raises(ValueError, match=r"p_chosen must have shape \(3,\)"):
        L.with_soft_labels(L.DPO(), POLICY, REFERENCE, torch.tensor([0.5]))
    with pytest.raises(ValueError, match="kto is of kind unpaired"):
        L.with_soft_labels(L.KTO(), POLICY, REFERENCE, torch.tensor([0.5]))


def test_every_loss_reads_from_a_recipe_by_its_name_and_dumps_back(tmp_path):
    catalogue = get_args(AnyLoss)
    path = tmp_path / "all.yaml"
    path.write_text("losses:\n" + "".join(f"  - name: {cls.name}\n" for cls in catalogue))
    recipe = load(Recipes, path)
    assert tuple(build_loss(choice) for choice in recipe.losses) == tuple(cls() for cls in catalogue)
    path.write_text(dump(recipe))
    assert load(Recipes, path) == recipe


def test_a_mixture_reads_from_a_recipe(tmp_path):
    text = """
loss:
  name: mixture
  terms:
    - weight: 0.8
      loss: {name: dpo, beta: 0.2}
    - weight: 0.2
      loss: {name: bco, threshold: zero}
    - loss: {name: anchor_reference_hinge, tau: 0.5}
"""
    recipe = read(tmp_path, text)
    assert build_loss(recipe.loss) == L.Mixture(
        terms=(
            L.Term(weight=0.8, loss=L.DPO(beta=0.2)),
            L.Term(weight=0.2, loss=L.BCO(threshold="zero")),
            L.Term(loss=L.ReferenceHingeAnchor(tau=0.5)),
        )
    )
    assert read(tmp_path, dump(recipe)) == recipe


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("loss: {name: dpo, betta: 1}", r"line 1: loss.betta: unknown key; did you mean 'beta'\?"),
        ("loss: iipo", r"loss.name: unknown name 'iipo'; did you mean 'ipo'\?"),
        ("loss: {name: ipo, beta: -1}", r"line 1: loss.beta must be > 0 and finite, got -1"),
        (
            "loss:\n  name: mixture\n  terms:\n    - loss: {name: cpo, nll_wait: 1}",
            r"line 4: loss.terms.0.loss.nll_wait: unknown key; did you mean 'nll_weight'\?",
        ),
        (
            "loss: {name: mixture, terms: [{loss: {name: dpoo}}]}",
            r"loss.terms.0.loss.name: unknown name 'dpoo'; did you mean",
        ),
        ("loss: {name: mixture, terms: []}", "line 1: loss.terms must hold at least one loss"),
        ("loss: {name: mixture, terms: [{weight: .inf, loss: {name: dpo}}]}", "weight must be finite, got inf"),
    ],
)
def test_a_mistake_in_a_loss_is_one_line_that_says_where(text, message, tmp_path):
    with pytest.raises(ConfigError, match=message) as caught:
        read(tmp_path, text)
    assert "\n" not in str(caught.value)
