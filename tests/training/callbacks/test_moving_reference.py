"""TR-DPO: the reference follows the policy, and survives a checkpoint."""

from __future__ import annotations

import copy

import numpy as np
import pytest
import torch
from transformers import LlamaConfig, LlamaForCausalLM

from exptilt.data.groups import Completion, Group
from exptilt.policies.scoring import score
from exptilt.training.callbacks.callback import Progress
from exptilt.training.callbacks.moving_reference import MovingReference
from exptilt.training.sums import Sums


def tiny(seed: int) -> LlamaForCausalLM:
    torch.manual_seed(seed)
    shape = {"hidden_size": 8, "intermediate_size": 8, "num_hidden_layers": 1, "num_attention_heads": 2}
    return LlamaForCausalLM(LlamaConfig(vocab_size=11, max_position_embeddings=16, **shape)).eval()


GROUP = Group(
    id="row 1",
    prompt=np.array([3, 4], dtype=np.int32),
    completions=(Completion(np.array([5, 6], dtype=np.int32), np.ones(2, dtype=bool)),),
)


def after(moving: MovingReference, step: int) -> None:
    moving.after_step(Progress(step=step, num_steps=100, steps_per_epoch=100), Sums())


@pytest.mark.parametrize(("mix", "share"), [(1.0, 1.0), (0.25, 0.25)])
def test_a_move_mixes_the_weights_and_only_when_due(mix, share):
    policy, reference = tiny(0), tiny(1)
    before = [weights.clone() for weights in reference.parameters()]
    moving = MovingReference(policy, reference, mix=mix, every=3)
    after(moving, 2)
    assert all(torch.equal(now, old) for now, old in zip(reference.parameters(), before, strict=True))
    after(moving, 3)
    for now, old, its in zip(reference.parameters(), before, policy.parameters(), strict=True):
        assert torch.allclose(now, share * its + (1 - share) * old, atol=1e-7)


def test_it_scores_with_the_weights_it_has_now():
    policy = tiny(0)
    moving = MovingReference(policy, tiny(1), mix=1.0, every=1)
    assert not torch.allclose(moving([GROUP]).tokens(), score(policy, [GROUP]).tokens(), atol=1e-4)
    after(moving, 1)
    assert torch.allclose(moving([GROUP]).tokens(), score(policy, [GROUP]).tokens(), atol=1e-6)
    assert not moving([GROUP]).tokens().requires_grad


def test_a_resumed_run_compares_with_the_moved_reference():
    moving = MovingReference(tiny(0), tiny(1), mix=0.5, every=1)
    after(moving, 1)
    kept = copy.deepcopy(moving.state())
    resumed = MovingReference(tiny(0), tiny(1), mix=0.5, every=1)
    resumed.restore(kept)
    assert torch.equal(resumed([GROUP]).tokens(), moving([GROUP]).tokens())
