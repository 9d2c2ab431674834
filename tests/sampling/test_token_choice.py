"""Tokens at uniform numbers, against cumulative sums over the whole vocabulary in double precision."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from exptilt.sampling.token_choice import TokenWeights


@pytest.mark.parametrize("size", [1, 2, 63, 64, 65, 1000, 4096])
def test_tokens_are_those_of_the_plain_cumulative_sum(size):
    rng = np.random.default_rng(size)
    logits = torch.tensor(rng.normal(scale=4, size=(200, size)), dtype=torch.float32)
    uniform = torch.tensor(rng.random(200))
    cumulative = logits.double().softmax(-1).cumsum(-1)
    expected = torch.searchsorted(cumulative, (uniform * cumulative[:, -1])[:, None], right=True).squeeze(1)
    found = TokenWeights.of(logits).at(uniform)
    # A number within rounding of a boundary may fall on its other side.
    gap = (cumulative - uniform[:, None]).abs().amin(-1)
    clear = gap > 1e-6
    assert clear.sum() >= 195
    assert torch.equal(found[clear], expected[clear])


def test_log_probabilities_are_those_of_log_softmax():
    logits = torch.randn(50, 777, generator=torch.Generator().manual_seed(0)) * 10
    tokens = torch.randint(0, 777, (50,), generator=torch.Generator().manual_seed(1))
    expected = logits.double().log_softmax(-1).gather(1, tokens[:, None]).squeeze(1)
    np.testing.assert_allclose(TokenWeights.of(logits).logps(tokens).numpy(), expected.numpy(), atol=2e-6)


@pytest.mark.parametrize("size", [3, 64, 130])
def test_a_token_of_probability_zero_is_never_drawn(size):
    for possible in (0, size // 2, size - 1):
        logits = torch.full((5, size), -torch.inf)
        logits[:, possible] = 3.0
        uniform = torch.tensor([0.0, 0.5, 1 - 2**-53, np.nextafter(1, 0), 1.0], dtype=torch.float64)
        assert TokenWeights.of(logits).at(uniform).tolist() == [possible] * 5


def test_a_row_does_not_depend_on_the_others():
    logits = torch.randn(64, 1001, generator=torch.Generator().manual_seed(0)) * 5
    uniform = torch.rand(64, generator=torch.Generator().manual_seed(1), dtype=torch.float64)
    together = TokenWeights.of(logits)
    for row in range(0, 64, 7):
        alone = TokenWeights.of(logits[row : row + 1])
        assert torch.equal(alone.cumulative[0], together.cumulative[row])
        assert alone.at(uniform[row : row + 1])[0] == together.at(uniform)[row]


@pytest.mark.parametrize("bad", [torch.nan, torch.inf])
def test_what_is_no_distribution_is_noticed(bad):
    logits = torch.zeros(2, 70)
    logits[1, 69] = bad
    assert not TokenWeights.of(logits).are_finite
    assert not TokenWeights.of(torch.full((1, 5), -torch.inf)).are_finite
