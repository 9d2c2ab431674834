"""Models whose classes were patched, as Unsloth does: the engine asks the model's own forward, and goes by its answer."""

from __future__ import annotations

import logging
from functools import partial
from typing import Any

import pytest
import torch
from transformers import LlamaConfig, LlamaForCausalLM
from transformers.models.llama.modeling_llama import LlamaAttention, apply_rotary_pos_emb

from exptilt.policies.tokenizers import train_tokenizer
from exptilt.runs.run_recipe import run_recipe
from exptilt.trl import DPOConfig, DPOTrainer

ROWS = [{"prompt": f"film {n} was", "chosen": f" good and {n}", "rejected": f" bad {n % 3}"} for n in range(8)]


@pytest.fixture(scope="module")
def tokenizer():
    return train_tokenizer([text for row in ROWS for text in row.values()], vocab_size=300)


def model_of(tokenizer, kind: type[LlamaForCausalLM]) -> Any:
    shape = {"hidden_size": 16, "intermediate_size": 24, "num_hidden_layers": 2, "num_attention_heads": 2}
    marks = {"eos_token_id": tokenizer.eos_token_id, "pad_token_id": tokenizer.pad_token_id}
    config = LlamaConfig(vocab_size=len(tokenizer), max_position_embeddings=64, initializer_range=0.2, **shape, **marks)
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        return kind(config).eval()


def trained(model, tokenizer, folder, monkeypatch) -> list[dict[str, float]]:
    monkeypatch.setattr("exptilt.trl.preference_trainer.run_recipe", partial(run_recipe, page=False))
    config = DPOConfig(
        str(folder), per_device_train_batch_size=4, num_train_epochs=2, learning_rate=1e-2, logging_steps=1
    )
    trainer = DPOTrainer(model, args=config, train_dataset=ROWS, tokenizer=tokenizer)
    trainer.train()
    return [line for line in trainer.state.log_history if "loss" in line]


def plain_attention(self, hidden_states, position_embeddings=None, attention_mask=None, **_: Any):
    """Attention of one's own, which knows of no interface: like Unsloth's, it takes the mask or is causal."""
    shape = (*hidden_states.shape[:-1], -1, self.head_dim)
    q, k, v = (layer(hidden_states).view(shape).transpose(1, 2) for layer in (self.q_proj, self.k_proj, self.v_proj))
    q, k = apply_rotary_pos_emb(q, k, *position_embeddings)
    mask = attention_mask if isinstance(attention_mask, torch.Tensor) else None
    out = torch.nn.functional.scaled_dot_product_attention(q, k, v, attn_mask=mask, is_causal=mask is None)
    return self.o_proj(out.transpose(1, 2).reshape(*hidden_states.shape[:-1], -1)), None


def test_a_patched_attention_that_computes_the_same_gives_the_same_run(tokenizer, tmp_path, monkeypatch, caplog):
    own = trained(model_of(tokenizer, LlamaForCausalLM), tokenizer, tmp_path / "own", monkeypatch)
    monkeypatch.setattr(LlamaAttention, "forward", plain_attention)
    with caplog.at_level(logging.WARNING):
        patched = trained(model_of(tokenizer, LlamaForCausalLM), tokenizer, tmp_path / "patched", monkeypatch)
    assert "cannot run on packed rows" in caplog.text
    for one, other in zip(own, patched, strict=True):
        assert other["loss"] == pytest.approx(one["loss"], abs=1e-5)
        assert other["logps/chosen"] == pytest.approx(one["logps/chosen"], abs=1e-3)


def test_a_patched_forward_that_computes_something_else_is_what_is_trained(tokenizer, tmp_path, monkeypatch):
    class Cooler(LlamaForCausalLM):
        """Another class, so that the model of the first run is not changed."""

    own = LlamaForCausalLM.forward

    def forward(self, *args: Any, **kwargs: Any):
        out = own(self, *args, **kwargs)
        out.logits = out.logits * 0.5
        return out

    monkeypatch.setattr(Cooler, "forward", forward)
    model = model_of(tokenizer, Cooler)
    ids = [tokenizer(row["prompt"])["input_ids"] for row in ROWS]
    total = 0.0
    for row, prompt in zip(ROWS, ids, strict=True):
        whole = torch.tensor([[*tokenizer(row["prompt"] + row["chosen"])["input_ids"], tokenizer.eos_token_id]])
        with torch.no_grad():
            logits = model(whole).logits
        logps = logits[0, :-1].log_softmax(-1).gather(-1, whole[0, 1:, None])
        total += float(logps[len(prompt) - 1 :].sum()) / len(ROWS)
    lines = trained(model, tokenizer, tmp_path / "run", monkeypatch)
    assert lines[0]["loss"] == pytest.approx(0.6931472, abs=1e-6)
    whole_set = DPOTrainer(model_of(tokenizer, Cooler), args=DPOConfig(str(tmp_path / "other")), train_dataset=ROWS,
                           eval_dataset=ROWS, tokenizer=tokenizer).evaluate()  # fmt: skip
    assert whole_set["eval_logps/chosen"] == pytest.approx(total, abs=1e-3)


def test_a_model_has_its_own_attention_back(tokenizer, tmp_path, monkeypatch):
    model = model_of(tokenizer, LlamaForCausalLM)
    before = model.config._attn_implementation
    trained(model, tokenizer, tmp_path / "run", monkeypatch)
    assert model.config._attn_implementation == before
