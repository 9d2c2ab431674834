from __future__ import annotations

import pytest
import torch

from exptilt.errors import ModelError
from exptilt.policies.engine import forward
from exptilt.policies.engine import self_check as checking
from exptilt.policies.engine.attention import NAME
from exptilt.policies.engine.forward import context_length
from exptilt.policies.engine.self_check import packable, self_check
from exptilt.policies.scoring import score


def test_plain_model_passes_and_global_randomness_is_untouched(make_model) -> None:
    model = make_model("llama").train()
    before = torch.get_rng_state()
    check = self_check(model)
    assert check.packed
    assert check.error < 1e-5
    assert torch.equal(torch.get_rng_state(), before)
    assert model.training
    assert model.config._attn_implementation == NAME


def test_a_head_of_its_own_is_found_and_still_scored_right(make_model, groups, separate, targets_of) -> None:
    model = make_model("llama")
    kind = type(model)

    class Tempered(kind):  # type: ignore[misc, valid-type]
        def forward(self, *args, **kwargs):
            output = super().forward(*args, **kwargs)
            output.logits = output.logits / 2
            return output

    model.__class__ = Tempered
    check = self_check(model)
    assert not check.packed
    assert "log-probabilities differ by" in check.reason
    assert model.config._attn_implementation == "sdpa"
    expected = separate(model, groups).gather(1, targets_of(groups)[:, None]).squeeze(1)
    torch.testing.assert_close(score(model, groups).tokens(), expected, rtol=0, atol=1e-5)


def test_attention_outside_the_interface_is_found(make_model) -> None:
    model = make_model("gpt_neo", num_layers=2, attention_types=[[["global", "local"], 1]], window_size=5)
    assert not packable(model)


def test_a_window_only_in_the_mask_is_found(make_model) -> None:
    # Longer than the probe, so comparing values could not show it.
    model = make_model("llama")
    model.config.layer_types = ["sliding_attention", "full_attention"]
    assert self_check(model).reason == "its sliding window reaches attention only through a mask"


def test_half_precision_is_checked_in_float32(make_model) -> None:
    model = make_model("llama").to(torch.bfloat16)
    assert self_check(model).error < 1e-5
    assert model.dtype == torch.bfloat16


def test_larger_half_precision_is_checked_against_its_own_noise(make_model, monkeypatch) -> None:
    monkeypatch.setattr(checking, "_COPY_LIMIT", 0)
    check = self_check(make_model("llama").to(torch.bfloat16))
    assert check.packed
    assert 1e-5 < check.error < 0.1
    wrong = make_model("llama").to(torch.bfloat16)
    kind = type(wrong)

    class Tempered(kind):  # type: ignore[misc, valid-type]
        def forward(self, *args, **kwargs):
            output = super().forward(*args, **kwargs)
            output.logits = output.logits * 0.95
            return output

    wrong.__class__ = Tempered
    assert not self_check(wrong).packed


def test_the_check_is_not_blurred_by_autocast(make_model) -> None:
    with torch.autocast("cpu", torch.bfloat16):
        assert self_check(make_model("llama")).error < 1e-5


def test_cuts_that_get_lost_are_found(make_model, groups, monkeypatch) -> None:
    """Without them a packed row would be one sequence, in silence."""
    model = make_model("stablelm", num_key_value_heads=2)
    assert packable(model)
    monkeypatch.setattr(forward, "mask_of", lambda segments: torch.ones((1, 1, 1, 1), dtype=torch.bool))
    with pytest.raises(ModelError, match="lost the cuts of a packed row"):
        score(model, groups)


@pytest.mark.parametrize("kind", ["llama", "gemma2"])
def test_generation_is_unchanged_by_the_switch(kind, make_model) -> None:
    model = make_model(kind, num_key_value_heads=2, head_dim=4, sliding_window=5)
    ids = torch.tensor([[0, 0, 7, 8, 9], [4, 5, 6, 7, 8]])
    options = {"attention_mask": (ids != 0).long(), "do_sample": False, "max_new_tokens": 9, "pad_token_id": 0}
    before = model.generate(ids, **options)
    assert packable(model)
    assert torch.equal(model.generate(ids, **options), before)


def test_a_model_that_states_no_longest_sequence_has_no_context(make_model) -> None:
    """Mamba and Bloom have no such setting; reading it blindly would end a run in a traceback."""
    from transformers import BloomConfig, BloomForCausalLM

    unlimited = BloomForCausalLM(BloomConfig(vocab_size=11, hidden_size=8, n_layer=1, n_head=2))
    assert context_length(unlimited) is None
    limited = make_model("llama")
    assert context_length(limited) == limited.config.max_position_embeddings
