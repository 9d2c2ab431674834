"""What losses are where policy and reference are one model."""

from __future__ import annotations

import math

import pytest
import torch

from exptilt.losses import (
    BCO,
    DPO,
    IPO,
    KTO,
    NLL,
    ORPO,
    SFT,
    TDPO2,
    WPO,
    APOZero,
    InfoNCA,
    Mixture,
    SamPO,
    SimPO,
    SPPOHard,
    Term,
)
from exptilt.losses.at_zero import loss_at_zero

LOG2 = math.log(2)


@pytest.mark.parametrize(
    ("loss", "expected"),
    [
        (DPO(beta=0.3), LOG2),
        (DPO(label_smoothing=0.2), LOG2),
        (IPO(beta=0.5), 1.0),  # (1 / (2 beta))^2
        (BCO(), 2 * LOG2),
        (KTO(), 0.5),
        (APOZero(), 1.0),
        (TDPO2(), LOG2),
        (SamPO(), LOG2),
        (SPPOHard(beta=1e-3), 2 * 500.0**2),
        (Mixture(terms=(Term(loss=DPO()), Term(loss=IPO(beta=0.5), weight=0.5))), LOG2 + 0.5),
    ],
)
def test_one_number(loss, expected):
    assert loss_at_zero(loss) == pytest.approx(expected, rel=1e-9)


@pytest.mark.parametrize("loss", [SFT(), SimPO(), ORPO(), WPO(), InfoNCA(), Mixture(terms=(Term(loss=NLL()),))])
def test_none_where_it_depends_on_the_rows(loss):
    assert loss_at_zero(loss) is None


def test_global_generator_is_left_alone():
    before = torch.get_rng_state()
    loss_at_zero(SamPO())
    assert torch.equal(before, torch.get_rng_state())
