"""One owner of the tokens that end a turn."""

from __future__ import annotations

import numpy as np
import pytest

from exptilt.data.groups import Completion, Group
from exptilt.policies.tokenizers import train_word_tokenizer
from exptilt.policies.turn_ends import turn_ends
from exptilt.sampling.generate import sample
from exptilt.sampling.sampling_law import SamplingLaw


@pytest.fixture
def tokenizer():
    """Words, with an end of turn that is not the end of text, as in Llama 3 and ChatML."""
    made = train_word_tokenizer(["the film was good and long"])
    made.add_special_tokens({"additional_special_tokens": ["<turn>", "<other>"]})
    return made


def rows(*ends: list[int]) -> list[Group]:
    return [
        Group(
            id=str(at),
            prompt=np.array([5], np.int32),
            completions=(Completion(np.array([6, 7, *end], np.int32), np.ones(2 + len(end), np.bool_)),),
        )
        for at, end in enumerate(ends)
    ]


def test_all_three_sources_together(tokenizer, make_model) -> None:
    eos, turn, other = tokenizer.eos_token_id, *tokenizer.convert_tokens_to_ids(["<turn>", "<other>"])
    assert turn_ends(tokenizer) == (eos,)
    assert turn_ends(tokenizer, None, rows([turn])) == tuple(sorted([eos, turn]))
    assert turn_ends(tokenizer, None, rows([turn, 8])) == tuple(sorted([eos, turn]))  # a newline behind it
    model = make_model("llama")
    model.generation_config.eos_token_id = [eos, other]
    assert turn_ends(tokenizer, model, rows([turn])) == tuple(sorted([eos, turn, other]))


def test_words_and_beginnings_are_no_ends(tokenizer, make_model) -> None:
    model = make_model("llama")
    model.generation_config.eos_token_id = 8  # a word: the default of a class, not a choice
    assert turn_ends(tokenizer, model, rows([8], [9])) == (tokenizer.eos_token_id,)
    bos = tokenizer.bos_token_id
    assert turn_ends(tokenizer, None, rows([bos]))[:2] == tuple(sorted({tokenizer.eos_token_id} | set()))


def test_a_special_token_in_one_row_of_many_is_no_end(tokenizer) -> None:
    turn, other = tokenizer.convert_tokens_to_ids(["<turn>", "<other>"])
    assert other not in turn_ends(tokenizer, None, rows(*[[turn]] * 40, [other]))


def test_samples_end_where_the_model_says_without_being_told(tokenizer, make_model) -> None:
    turn = tokenizer.convert_tokens_to_ids("<turn>")
    model = make_model("llama", vocab_size=len(tokenizer))
    prompts = [np.array([5, 6], np.int32)]
    law = SamplingLaw(max_new_tokens=40)
    before = sample(model, tokenizer, prompts, num_samples=30, law=law)
    assert any(turn in one.ids[:-1] for one in before)  # it ran on behind its turn
    model.generation_config.eos_token_id = [tokenizer.eos_token_id, turn]
    drawn = sample(model, tokenizer, prompts, num_samples=30, law=law)
    assert any(one.ids[-1] == turn and one.ended for one in drawn)
    assert not any(turn in one.ids[:-1] for one in drawn)
    assert all("<turn>" not in one.text(tokenizer) for one in drawn)
