"""Mistakes in a constructor's arguments are one line."""

from __future__ import annotations

import pytest

from exptilt.errors import ConfigError
from exptilt.losses import DPO, SFT
from exptilt.settings.data_settings import DataConfig
from exptilt.settings.model_settings import AdapterConfig


@pytest.mark.parametrize(
    ("make", "words"),
    [
        (lambda: DPO(beta=-1), "beta must be > 0 and finite, got -1"),
        (lambda: DPO(beta="a"), "DPO: beta must be a number, got 'a'"),
        (lambda: DPO(bta=1), "DPO: bta: unknown keyword; did you mean 'beta'?"),
        (lambda: DPO(0.1), "DPO: settings are given by name, such as DPO(beta=...), got 0.1"),
        (lambda: AdapterConfig(r=1), "AdapterConfig: r: unknown keyword; it is 'rank' here"),
        (lambda: AdapterConfig(rank="8"), "AdapterConfig: rank must be a whole number, got '8'"),
        (lambda: AdapterConfig(alpha=None, dropout="0"), "AdapterConfig: dropout must be a number, got '0'"),
        (lambda: AdapterConfig(rank=0), "rank must be >= 1, got 0"),
        (lambda: DataConfig(), "DataConfig: train is missing; it has no default"),
        (lambda: SFT(1), "SFT: settings are given by name, such as SFT(normalization=...), got 1"),
    ],
)
def test_a_mistake_is_one_line(make, words):
    with pytest.raises(ConfigError) as error:
        make()
    assert str(error.value) == words
