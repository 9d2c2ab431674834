"""Ragged log-probabilities against sums done by hand."""

from __future__ import annotations

import pytest
import torch

from exptilt.types import LogProbs

VALUES = torch.tensor([-1.0, -2.0, -4.0, -8.0, -16.0])


def test_sum_and_mean_of_ragged_completions():
    logps = LogProbs(values=VALUES, lengths=torch.tensor([2, 0, 3]))
    assert logps.sum().tolist() == [-3.0, 0.0, -28.0]
    assert logps.select([0, 2]).mean().tolist() == [-1.5, pytest.approx(-28 / 3)]


def test_an_empty_completion_has_no_mean():
    with pytest.raises(ValueError, match="completion 1 has no counted unit"):
        LogProbs(values=VALUES, lengths=torch.tensor([2, 0, 3])).mean()


def test_padding_is_nothing():
    rectangle = torch.tensor([[9.0, -1.0, -2.0, 7.0], [-4.0, 5.0, -8.0, -16.0]])
    mask = torch.tensor([[0, 1, 1, 0], [1, 0, 1, 1]])
    logps = LogProbs.from_padded(rectangle, mask)
    assert logps.sum().tolist() == [-3.0, -28.0]
    assert logps.lengths.tolist() == [2, 3]


def test_select_reorders_units_with_their_completions():
    logps = LogProbs(values=VALUES, lengths=torch.tensor([2, 0, 3]), entropy=VALUES + 100)
    picked = logps.select([2, 1, 0, 0])
    assert picked.tokens().tolist() == [-4, -8, -16, -1, -2, -1, -2]
    assert picked.lengths.tolist() == [3, 0, 2, 2]
    assert (picked.entropy - picked.tokens()).tolist() == [100.0] * 7


def test_cat_of_selections_is_the_whole():
    logps = LogProbs(values=VALUES, lengths=torch.tensor([2, 0, 3]))
    again = LogProbs.cat([logps.select([0]), logps.select([1, 2])])
    assert again.tokens().tolist() == VALUES.tolist()
    assert again.lengths.tolist() == [2, 0, 3]


def test_sums_alone_have_no_tokens():
    logps = LogProbs.from_sums(torch.tensor([-3.0, -28.0]), torch.tensor([2, 4]))
    assert logps.mean().tolist() == [-1.5, -7.0]
    with pytest.raises(ValueError, match="token by token"):
        logps.tokens()


def test_sums_of_bfloat16_are_taken_in_float32():
    """4,096 times -1 in bfloat16 stays at -256 if added in bfloat16; the sum must be exact."""
    logps = LogProbs(values=-torch.ones(4096, dtype=torch.bfloat16), lengths=torch.tensor([4096]))
    assert logps.sum().item() == -4096.0


def test_gradient_reaches_every_unit_once():
    values = VALUES.clone().requires_grad_()
    weights = torch.tensor([1.0, 10.0])
    (LogProbs(values=values, lengths=torch.tensor([2, 3])).sum() * weights).sum().backward()
    assert values.grad.tolist() == [1, 1, 10, 10, 10]


@pytest.mark.parametrize(
    ("values", "lengths", "message"),
    [
        (torch.zeros(3), torch.tensor([[3]]), "one-dimensional"),
        (torch.zeros(3), torch.tensor([2]), r"must have shape \(2,\)"),
        (None, torch.tensor([2]), "either values"),
    ],
)
def test_shapes_that_do_not_match_are_refused(values, lengths, message):
    with pytest.raises(ValueError, match=message):
        LogProbs(values=values, lengths=lengths)


def test_split_is_the_way_back_of_cat() -> None:
    whole = LogProbs(values=torch.arange(6.0), lengths=torch.tensor([2, 0, 3, 1]), entropy=torch.arange(6.0) + 10)
    parts = whole.split([1, 2, 1])
    assert [part.lengths.tolist() for part in parts] == [[2], [0, 3], [1]]
    assert [part.values.tolist() for part in parts] == [[0, 1], [2, 3, 4], [5]]
    assert [part.entropy.tolist() for part in parts] == [[10, 11], [12, 13, 14], [15]]
    assert parts[0].divergence is None
    again = LogProbs.cat(parts)
    assert torch.equal(again.values, whole.values)
    assert torch.equal(again.lengths, whole.lengths)
