from __future__ import annotations

import pytest
import torch

from exptilt.policies.engine import product
from exptilt.policies.engine.product import prefer_onednn

MATMUL = torch.backends.mkldnn.matmul


@pytest.fixture
def untouched():
    before, MATMUL.fp32_precision = MATMUL.fp32_precision, "none"
    yield
    MATMUL.fp32_precision = before


def error() -> float:
    """Of a product of float32 numbers, relative to the largest."""
    left, right = torch.randn(2, 130, 700, generator=torch.Generator().manual_seed(0))
    exact = left.double() @ right.double().T
    return float(((left @ right.T).double() - exact).abs().max() / exact.abs().max())


def test_onednn_is_taken_for_products_that_stay_float32(untouched, monkeypatch) -> None:
    monkeypatch.setattr(product, "_is_intel", lambda: False)
    prefer_onednn()
    assert error() < 1e-6
    assert MATMUL.fp32_precision == ("bf16" if torch.backends.mkl.is_available() else "none")


@pytest.mark.parametrize("what", ["_is_intel", "not _rounds_nothing"])
def test_mkl_stays_where_it_is_as_fast_and_where_onednn_would_round(untouched, monkeypatch, what) -> None:
    monkeypatch.setattr(product, "_is_intel", lambda: what == "_is_intel")
    monkeypatch.setattr(product, "_rounds_nothing", lambda: what == "_is_intel")
    prefer_onednn()
    assert MATMUL.fp32_precision == "none"


def test_what_somebody_chose_stays(untouched) -> None:
    MATMUL.fp32_precision = "ieee"
    prefer_onednn()
    assert MATMUL.fp32_precision == "ieee"
