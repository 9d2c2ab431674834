"""Precision: products in bfloat16 over float32 weights, small errors and float32 gradients."""

from __future__ import annotations

import torch

from exptilt.policies.engine.inside import inside, precision_of, set_precision
from exptilt.policies.policy import Policy
from exptilt.policies.scoring import score


def test_work_runs_in_the_precision_that_was_set(make_model):
    model = make_model("llama")
    product = lambda: model.lm_head(torch.ones(1, 16)).dtype  # noqa: E731
    assert inside(model, product) == precision_of(model) == torch.float32
    set_precision(model, torch.bfloat16)
    assert inside(model, product) == precision_of(model) == torch.bfloat16
    assert next(model.parameters()).dtype == torch.float32
    set_precision(model, torch.float32)
    assert inside(model, product) == torch.float32


def test_bfloat16_products_over_float32_weights(make_model, groups):
    """Log-probabilities move by rounding only, and gradients are float32 and point the same way."""
    whole, half = make_model("llama"), make_model("llama")
    set_precision(half, torch.bfloat16)
    exact, rounded = score(whole, groups).tokens(), score(half, groups).tokens()
    assert rounded.dtype == torch.float32
    assert 0 < (exact - rounded).abs().max() < 0.1
    for model in (whole, half):
        Policy(model).backward(groups, lambda _, logps: logps.sum().sum())
    one, other = (torch.cat([p.grad.flatten() for p in model.parameters()]) for model in (whole, half))
    assert other.dtype == torch.float32
    assert torch.nn.functional.cosine_similarity(one, other, dim=0) > 0.999
