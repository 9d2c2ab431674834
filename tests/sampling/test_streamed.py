"""What is streamed is what `sample` draws, to the last bit, and its pieces are its text."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from exptilt.policies.models import load_model
from exptilt.policies.tokenizers import train_tokenizer
from exptilt.sampling.generate import sample
from exptilt.sampling.sampling_law import SamplingLaw
from exptilt.sampling.streamed import stream_ids, stream_text
from exptilt.settings.model_settings import ModelConfig, SmallModel

TOKENIZER = train_tokenizer(["the film was good and the plot was bad"] * 4, 300)
LAWS = (
    SamplingLaw(max_new_tokens=24),
    SamplingLaw(max_new_tokens=24, temperature=0),
    SamplingLaw(max_new_tokens=24, temperature=0.6, top_k=20, top_p=0.9, repetition_penalty=1.3, min_new_tokens=5),
)


@pytest.fixture(scope="module")
def model():
    return load_model(
        ModelConfig(config=SmallModel(hidden_size=16, num_layers=1, num_heads=2, max_positions=64)), TOKENIZER
    )


@pytest.mark.parametrize("law", LAWS, ids=["plain", "greedy", "bent"])
@pytest.mark.parametrize("seed", [0, 1, 2])
def test_streamed_tokens_are_those_of_sample(model, law, seed):
    prompt = np.array(TOKENIZER.encode("the film was"), dtype=np.int32)
    for index in (0, 2):
        drawn = sample(model, TOKENIZER, [prompt], num_samples=3, law=law, seed=seed, keys=[b"k"], batch_size=1)[index]
        ids = list(stream_ids(model, TOKENIZER, prompt, law=law, seed=seed, key=b"k", index=index))
        assert ids == drawn.ids.tolist()
        assert "".join(stream_text(TOKENIZER, ids, drawn.law.eos_ids or ())) == drawn.text(TOKENIZER)


@given(st.text(min_size=1, max_size=40))
def test_pieces_hold_whole_characters_and_add_up(text):
    ids = TOKENIZER.encode(text, add_special_tokens=False)
    pieces = list(stream_text(TOKENIZER, [*ids, TOKENIZER.eos_token_id, *ids], [TOKENIZER.eos_token_id]))
    assert "".join(pieces) == TOKENIZER.decode(ids, skip_special_tokens=True)
    if "\ufffd" not in text:
        assert not any("\ufffd" in piece for piece in pieces)


def test_a_prompt_that_leaves_no_room_is_refused(model):
    prompt = np.zeros(60, dtype=np.int32)
    with pytest.raises(ValueError, match="exceeds the model's context of 64"):
        next(stream_ids(model, TOKENIZER, prompt, law=LAWS[0], seed=0, key=b""))
