"""The conformance kit passes what is right and catches, by name, what is wrong."""

from __future__ import annotations

from typing import ClassVar, Literal

import pytest
import torch
from torch.nn.functional import softplus

from exptilt import losses as L
from exptilt.kinds import PAIR
from exptilt.losses.base import Loss, log_ratios
from exptilt.losses.clipped_value import ClippedValue
from exptilt.settings.declaration import config
from exptilt.testing import check_loss, require_conforming
from exptilt.types import PairLoss


@pytest.mark.parametrize(
    "loss", [L.DPO(), L.SimPO(), L.REBEL(), L.ChiPO(), L.SFT(), L.LiPO(ndcg=True), L.TPO(), L.AllPairsDPO(),
     L.ORPO(), L.ORPO(nll_over="all"), L.ORPO(nll_over="all", normalization="token")],
    ids=lambda loss: loss.name,
)  # fmt: skip
def test_losses_of_the_catalogue_conform(loss):
    require_conforming(loss)


@pytest.mark.parametrize(
    "loss", [L.GRPO(), L.GRPO(divide_by_std=False, divide_by_length=False), L.PPO(), L.Distill(), ClippedValue()],
    ids=lambda loss: loss.name,
)  # fmt: skip
def test_losses_on_samples_conform(loss):
    require_conforming(loss)


@pytest.mark.parametrize(
    "loss", [L.RLOO(), L.RLOO(target_kl=3.0), L.RLOO(max_weight=1.5), L.GRPO(kl="reward", target_kl=2.0)],
    ids=lambda loss: loss.name,
)  # fmt: skip
def test_losses_with_the_kl_in_the_reward_hold_it_fixed(loss):
    require_conforming(loss, stops_gradient=True)
    with pytest.raises(AssertionError, match="gradient: in values of token"):
        require_conforming(loss)


@pytest.mark.parametrize("loss", [L.WPO(), L.KTO(), L.BCO()], ids=lambda loss: loss.name)
def test_fixed_terms_and_running_statistics_conform_too(loss):
    require_conforming(loss, stops_gradient=True, skip=("weights",))


@config
class Base(Loss):
    """A loss that is right.

    With z the margin,

        loss = log(1 + exp(-z))

    Use when: testing the kit.
    Known failure: none.
    Source: DPO.
    """

    name: Literal["base"] = "base"
    beta: float = 0.1
    """Strength."""

    kind: ClassVar = PAIR

    def margin(self, policy, reference):
        chosen, rejected = log_ratios(policy, reference)
        return self.beta * (chosen - rejected)

    def __call__(self, policy, reference):
        z = self.margin(policy, reference)
        return PairLoss(softplus(-z), z.detach(), -z.detach())


class WrongGradient(Base):
    def __call__(self, policy, reference):
        z = self.margin(policy, reference)
        return PairLoss(softplus(-z) + z - z.detach(), z.detach(), -z.detach())


class Coupled(Base):
    def __call__(self, policy, reference):
        z = self.margin(policy, reference)
        return PairLoss(softplus(-z + z.mean()), z.detach(), -z.detach())


class ByPlace(Base):
    """It does not say that it couples rows, or it would see them in the order of their ids, whatever the batch's."""

    def __call__(self, policy, reference):
        z = self.margin(policy, reference)
        return PairLoss(softplus(-z) * torch.arange(len(z)), z.detach(), -z.detach())


class WithoutWeights(Base):
    couples_batch = True

    def __call__(self, policy, reference, weights=None):
        z = self.margin(policy, reference)
        return PairLoss(softplus(-z + z.mean()), z.detach(), -z.detach())


class Overflows(Base):
    def __call__(self, policy, reference):
        z = self.margin(policy, reference)
        return PairLoss(torch.log(1 + torch.exp(-z)), z.detach(), -z.detach())


class ReadsLengths(Base):
    def __call__(self, policy, reference):
        z = self.margin(policy, reference) / policy.chosen.lengths
        return PairLoss(softplus(-z), z.detach(), -z.detach())


class RewardsWithGradient(Base):
    def __call__(self, policy, reference):
        z = self.margin(policy, reference)
        return PairLoss(softplus(-z), z, -z.detach())


class OneNumber(Base):
    def __call__(self, policy, reference):
        z = self.margin(policy, reference)
        return PairLoss(softplus(-z).mean()[None], z.detach(), -z.detach())


class Undocumented(Base):
    """Short"""


@pytest.mark.parametrize(
    ("cls", "check", "words"),
    [
        (WrongGradient, "gradient", "by differences"),
        (Coupled, "split", "set couples_batch = True"),
        (ByPlace, "order", "in another order"),
        (WithoutWeights, "weights", "a row of weight 2 gives"),
        (Overflows, "finite", "not finite"),
        (ReadsLengths, "needs", "set needs_lengths = True"),
        (RewardsWithGradient, "result", "chosen_reward carries a gradient"),
        (OneNumber, "result", ""),
        (Undocumented, "docs", "full stop"),
    ],
)
def test_every_fault_is_caught_by_its_check(cls, check, words):
    faults = {finding.check: finding.fault for finding in check_loss(cls())}
    assert faults[check]
    assert words in faults[check]
    with pytest.raises(AssertionError, match=rf"{cls.__name__} does not conform\n(.*\n)*{check}: "):
        require_conforming(cls())


def test_what_is_right_has_no_fault_and_unknown_checks_are_refused():
    require_conforming(Base())
    with pytest.raises(ValueError, match="there is no check 'grad'; there are declared, result"):
        check_loss(Base(), skip=("grad",))
    with pytest.raises(ValueError, match="bradley_terry is a reward model's loss"):
        check_loss(L.BradleyTerry())
