from __future__ import annotations

import numpy as np
import pytest
import torch

from exptilt.data.groups import Completion, Group
from exptilt.evaluation.pairs.ches import ches, ches_of_sums
from exptilt.policies import hidden_states
from exptilt.policies.hidden_states import state_sums


def group(rng, prompt, *lengths, share=1.0):
    ids = [rng.integers(3, 53, size, dtype=np.int32) for size in (prompt, *lengths)]
    parts = tuple(Completion(part, np.append(rng.random(len(part) - 1) < share, True)) for part in ids[1:])
    return Group(id=f"g{prompt}", prompt=ids[0], completions=parts)


@pytest.fixture
def groups():
    rng = np.random.default_rng(0)
    return [group(rng, 4, 3, 6), group(rng, 9, 1, 2), group(rng, 2, 7, 7, share=0.5)]


def padded_states(model, group, side):
    """The model's own states of one completion, right-padded as a plain batch of transformers would be."""
    completion, pad = group.completions[side], 5
    ids = np.concatenate([group.prompt, completion.ids])
    fed = torch.from_numpy(np.append(ids, np.zeros(pad, dtype=np.int32)).astype(np.int64))[None]
    mask = torch.from_numpy(np.append(np.ones(len(ids)), np.zeros(pad)))[None].long()
    with torch.no_grad():
        states = model(input_ids=fed, attention_mask=mask, output_hidden_states=True).hidden_states[-1][0]
    counts = np.zeros(len(fed[0]), dtype=bool)
    counts[len(group.prompt) - 1 + np.flatnonzero(completion.counted)] = True
    return states.numpy(), counts


@pytest.mark.parametrize("kind", ["llama", "gpt2"])
def test_ches_is_that_of_the_models_own_padded_states(make_model, groups, kind):
    model = make_model(kind)
    found = state_sums(model, groups)
    pairs = ches_of_sums(found.sums[::2], found.lengths[::2], found.sums[1::2], found.lengths[1::2])
    for at, one in enumerate(groups):
        (won, won_mask), (lost, lost_mask) = (padded_states(model, one, side) for side in (0, 1))
        alone = ches(won[None], won_mask[None], lost[None], lost_mask[None])
        assert pairs.score[at] == pytest.approx(alone.score[0], rel=1e-4)
        assert pairs.normalised[at] == pytest.approx(alone.normalised[0], rel=1e-4)


def test_no_completions_sum_depends_on_its_batch(make_model, groups, monkeypatch):
    model = make_model("llama")
    together, apart = state_sums(model, groups), state_sums(model, groups, max_tokens=1)
    alone = torch.cat([state_sums(model, [one]).sums for one in groups])
    torch.testing.assert_close(together.sums, apart.sums, rtol=1e-5, atol=1e-5)
    torch.testing.assert_close(together.sums, alone, rtol=1e-5, atol=1e-5)
    assert together.lengths.tolist() == [part.length for one in groups for part in one.completions]
    monkeypatch.setattr(hidden_states, "packable", lambda model: False)
    torch.testing.assert_close(together.sums, state_sums(model, groups).sums, rtol=1e-4, atol=1e-4)
