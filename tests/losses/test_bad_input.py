"""What a loss refuses, and that the message names the field and what was expected."""

from __future__ import annotations

import dataclasses
import math

import pytest
import torch

from exptilt import losses as L
from exptilt.errors import ConfigError
from exptilt.types import LogProbs, Pair


def sums(*totals: float, length: int = 4) -> LogProbs:
    return LogProbs.from_sums(torch.tensor(totals), torch.tensor([length] * len(totals)))


ONE, TWO = Pair(sums(-8.0), sums(-9.0)), Pair(sums(-8.0, -7.0), sums(-9.0, -6.0))
ALL = torch.tensor([True])


@pytest.mark.parametrize(
    ("cls", "arguments", "message"),
    [
        (L.DPO, {"beta": 0.0}, "beta must be > 0 and finite, got 0.0"),
        (L.DPO, {"beta": math.nan}, "beta must be > 0 and finite, got nan"),
        (L.DPO, {"label_smoothing": 0.5}, r"label_smoothing must be in \[0, 0.5\), got 0.5"),
        (L.RobustDPO, {"label_smoothing": -0.1}, r"label_smoothing must be in \[0, 0.5\)"),
        (L.EXO, {"label_smoothing": 0.0}, r"label_smoothing must be in \(0, 0.5\), got 0.0"),
        (L.FDPO, {"alpha": 1.0}, r"alpha must be in \(0, 1\), got 1.0"),
        (L.BDPO, {"lam": 0.0}, r"lam must be in \(0, 1\], got 0.0"),
        (L.DPOP, {"lam": -1.0}, "lam must be >= 0 and finite, got -1.0"),
        (L.LDDPO, {"alpha": 1.5}, r"alpha must be in \[0, 1\], got 1.5"),
        (L.BetaDPO, {"filter": 1.0}, r"filter must be in \[0, 1\), got 1.0"),
        (L.DiscoPOP, {"tau": 2.0}, r"tau must be in \(0, 1\], got 2.0"),
        (L.AlphaPO, {"alpha": 0.0}, r"alpha must be in \[-1, 1\] and not 0"),
        (L.KTO, {"desirable_weight": -1.0}, "desirable_weight must be >= 0 and finite"),
        (L.SLiC, {"delta": 0.0}, "delta must be > 0"),
        (L.MPO, {"quality_weight": -1.0}, "quality_weight must be >= 0"),
    ],
)
def test_hyper_parameters_are_checked_at_construction(cls, arguments, message):
    with pytest.raises(ValueError, match=message):
        cls(**arguments)


def test_sides_that_do_not_belong_together():
    with pytest.raises(ValueError, match=r"policy.chosen has 1 completions but policy.rejected has 2"):
        L.DPO()(Pair(sums(-1.0), sums(-1.0, -2.0)), TWO)
    with pytest.raises(ValueError, match="chosen: policy has 1 completions but reference has 2"):
        L.DPO()(ONE, TWO)
    with pytest.raises(ValueError, match="reference log-probabilities of chosen are missing"):
        L.DPO()(ONE, None)
    longer = Pair(ONE.chosen, sums(-9.0, length=5))
    with pytest.raises(ValueError, match="rejected: completion 0 has 5 counted units under the policy but 4"):
        L.DPO()(longer, ONE)
    for loss in (L.LDDPO(), L.SamPO()):
        with pytest.raises(ValueError, match="reference log-probabilities are missing"):
            loss(ONE, None)


def test_an_empty_completion_has_no_mean():
    empty = Pair(sums(-8.0), sums(0.0, length=0))
    for loss in (L.SimPO(), L.ORPO(), L.AlphaPO(), L.LengthNormalizedDPO(), L.IPO(length_normalized=True)):
        with pytest.raises(ValueError, match="completion 0 has no counted unit"):
            loss(empty, empty)
    assert L.DPO()(empty, empty).loss.item() == pytest.approx(math.log(2))
    for normalization in ("token", "sequence"):
        with pytest.raises(ValueError, match="no counted unit"):
            L.NLL(normalization=normalization)(Pair(empty.rejected, empty.rejected))
    with pytest.raises(ValueError, match="no counted unit"):
        L.SFT()(empty.rejected)


def test_token_losses_and_byproducts_say_what_is_missing():
    with pytest.raises(ValueError, match="only sums were given"):
        L.LDDPO()(ONE, ONE)
    with pytest.raises(ValueError, match=r"policy.rejected.divergence is missing"):
        L.TDPO2()(ONE, ONE)
    with pytest.raises(ValueError, match=r"policy.chosen.log_sum_squares is missing"):
        L.WPO()(ONE, ONE)


def test_further_inputs_are_named():
    with pytest.raises(ValueError, match=r"margin must be > 0 .* got -1.0 in row 1"):
        L.ODPO()(TWO, TWO, margin=torch.tensor([1.0, -1.0]))
    with pytest.raises(ValueError, match=r"margin must have shape \(2,\)"):
        L.ODPO()(TWO, TWO, margin=torch.tensor([1.0]))
    with pytest.raises(ValueError, match="margin is missing"):
        L.Mixture(terms=(L.Term(loss=L.ODPO()),))(TWO, TWO)
    with pytest.raises(ValueError, match=r"chosen_score must be a win probability in \[0, 1\]"):
        L.SPPO()(ONE, ONE, torch.tensor([3.0]), torch.tensor([0.5]))
    with pytest.raises(ValueError, match=r"chosen_is_policy must have shape \(1,\)"):
        L.XPO()(ONE, ONE, torch.tensor([True, False]))


def test_unpaired_labels():
    with pytest.raises(ValueError, match="mismatched is missing"):
        L.KTO()(ONE.chosen, ONE.chosen, ALL)
    with pytest.raises(ValueError, match="reference log-probabilities of mismatched are missing"):
        L.KTO()(ONE.chosen, ONE.chosen, ALL, mismatched=ONE.chosen)
    with pytest.raises(ValueError, match=r"desirable must have shape \(1,\)"):
        L.KTO()(ONE.chosen, ONE.chosen, torch.tensor([True, False]), ONE.chosen, ONE.chosen)
    for value, missing in ((True, "undesirable"), (False, "desirable")):
        with pytest.raises(ValueError, match=f"the batch has no {missing} row"):
            L.APOZeroUnpaired()(ONE.chosen, ONE.chosen, torch.tensor([value]))
    assert L.APOZeroUnpaired(balanced=False)(ONE.chosen, ONE.chosen, ALL).loss.item() == 0.5


def test_lists():
    three = sums(-1.0, -2.0, -3.0)
    with pytest.raises(ValueError, match="sizes: group 1 has 1 completion; a ranking needs at least 2"):
        L.PlackettLuce()(three, three, torch.tensor([2, 1]), torch.tensor([1, 2, 1]))
    with pytest.raises(ValueError, match="sizes add up to 2 completions but there are 3"):
        L.PlackettLuce()(three, three, torch.tensor([2]), torch.tensor([1, 2, 1]))
    with pytest.raises(ValueError, match=r"ranks must have shape \(3,\)"):
        L.PlackettLuce()(three, three, torch.tensor([3]), torch.tensor([1, 2]))
    with pytest.raises(ValueError, match=r"scores must have shape \(3,\)"):
        L.LiPO()(three, three, torch.tensor([3]), torch.tensor([1.0, 2.0]))
    with pytest.raises(ValueError, match=r"sizes must have shape \(G,\)"):
        L.RRHF()(three, None, torch.tensor([]), torch.tensor([1.0, 2.0, 3.0]))
    eleven = sums(*[-1.0] * 11)
    with pytest.raises(ValueError, match=r"11 completions share rank 1; more than 10 need ties: breslow"):
        L.PlackettLuce()(eleven, eleven, torch.tensor([11]), torch.ones(11))
    with pytest.raises(ValueError, match=r"chosen and rejected must share one shape \(B,\)"):
        L.BradleyTerry()(torch.ones(2), torch.ones(3))


def test_positional_hyper_parameters_and_unknown_names_are_refused():
    with pytest.raises(ConfigError, match="settings are given by name"):
        L.DPO(0.1)  # type: ignore[misc]
    with pytest.raises(ConfigError, match="betta"):
        dataclasses.replace(L.DPO(), betta=0.1)  # type: ignore[call-arg]
