"""Samples of models whose positions depend on the longest row of a call."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from transformers import LlamaConfig, LlamaForCausalLM, Phi3Config, Phi3ForCausalLM

from exptilt.sampling.generate import sample
from exptilt.sampling.sampling_law import SamplingLaw

SHAPE = {"vocab_size": 31, "hidden_size": 16, "intermediate_size": 24, "num_hidden_layers": 2, "num_attention_heads": 4}
LONGROPE = {
    "rope_type": "longrope",
    "rope_theta": 1e4,
    "short_factor": [1.0, 1.0],
    "long_factor": [3.0, 9.0],
    "factor": 4.0,
}


def longrope():
    config = Phi3Config(
        **SHAPE,
        pad_token_id=0,
        original_max_position_embeddings=10,
        max_position_embeddings=64,
        rope_parameters=LONGROPE,
    )
    return Phi3ForCausalLM(config)


def dynamic():
    rope = {"rope_type": "dynamic", "rope_theta": 1e4, "factor": 4.0}
    return LlamaForCausalLM(LlamaConfig(**SHAPE, max_position_embeddings=10, rope_parameters=rope))


@pytest.mark.parametrize("make", [longrope, dynamic])
def test_every_token_is_the_likeliest_of_the_models_own_forward(make) -> None:
    """Greedy samples of prompts on both sides of the border, against one full forward for each token."""
    torch.manual_seed(0)
    model = make().eval()
    for parameter in model.parameters():
        if parameter.ndim > 1:
            torch.nn.init.normal_(parameter, std=0.3)
    prompts = [np.arange(3, 3 + length, dtype=np.int32) % 29 for length in (4, 7, 14)]
    drawn = sample(model, [], prompts, law=SamplingLaw(temperature=0, max_new_tokens=8))
    for prompt, one in zip(prompts, drawn, strict=True):
        ids = prompt.tolist()
        for token in one.ids:
            with torch.no_grad():
                model(torch.tensor([[5]]), use_cache=False)  # forgets the longest row so far
                expected = int(model(torch.tensor([ids]), use_cache=False).logits[0, -1].argmax())
            assert token == expected
            ids.append(int(token))
