from __future__ import annotations

import itertools

import numpy as np
import pytest
import torch

from exptilt.data.groups import Completion, Group
from exptilt.policies.divergence import sequence_kl
from exptilt.policies.scoring import score


def test_sums_are_the_formulas(make_model, groups, separate, targets_of) -> None:
    policy = make_model("llama")
    reference = make_model("gpt2", n_embd=16, n_layer=2, n_head=4, n_positions=64)
    found = sequence_kl(policy, reference, groups, max_tokens=50)
    log_p, log_q = separate(policy, groups).double(), separate(reference, groups).double()
    counts = [one.length for group in groups for one in group.completions]
    steps = (log_p.exp() * (log_p - log_q)).sum(1).split(counts)
    ratios = (log_p - log_q).gather(1, targets_of(groups)[:, None]).squeeze(1).split(counts)
    assert found.kl.dtype == torch.float64
    assert found.lengths.tolist() == counts
    torch.testing.assert_close(found.kl, torch.stack([step.sum() for step in steps]), rtol=0, atol=1e-5)
    torch.testing.assert_close(found.k1, torch.stack([ratio.sum() for ratio in ratios]), rtol=0, atol=1e-5)


def test_a_model_has_no_divergence_from_itself(make_model, groups) -> None:
    found = sequence_kl(make_model("llama"), make_model("llama"), groups)
    assert found.kl.abs().max() == 0
    assert found.k1.abs().max() == 0


def test_both_estimators_have_the_exact_sequence_kl_as_expectation(make_model) -> None:
    policy, reference = make_model("llama", vocab_size=4), make_model("llama", vocab_size=4)
    for parameter in policy.parameters():
        parameter.data.mul_(1.5)
    completions = tuple(
        Completion(np.array(ids, np.int32), np.ones(3, bool)) for ids in itertools.product(range(4), repeat=3)
    )
    group = Group(id="all", prompt=np.array([1, 2], np.int32), completions=completions)
    log_p, log_q = (score(model, [group]).detach().sum().double() for model in (policy, reference))
    assert float(log_p.exp().sum()) == pytest.approx(1, abs=1e-6)
    exact = float((log_p.exp() * (log_p - log_q)).sum())
    assert exact > 1e-3
    found = sequence_kl(policy, reference, [group])
    assert float((log_p.exp() * found.kl).sum()) == pytest.approx(exact, abs=1e-6)
    assert float((log_p.exp() * found.k1).sum()) == pytest.approx(exact, abs=1e-6)
    assert float(found.kl.min()) >= 0
