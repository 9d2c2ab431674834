from __future__ import annotations

import pytest
from transformers import AutoTokenizer

from exptilt.policies.tokenizers import train_tokenizer, train_word_tokenizer

TEXTS = ["the film was good .", "the film was bad !", "a slow , dull film ."] * 4


def test_byte_level_round_trip_of_any_text(tmp_path) -> None:
    tokenizer = train_tokenizer(TEXTS, vocab_size=300)
    tokenizer.save_pretrained(tmp_path)
    loaded = AutoTokenizer.from_pretrained(tmp_path)
    for text in ("the film", "  two spaces , and a comma .", "größer 🙂\n\ttab", "<b>not special</b>"):
        ids = tokenizer.encode(text)
        assert ids[0] == tokenizer.bos_token_id
        assert tokenizer.decode(ids[1:]) == text
        assert loaded.encode(text) == ids
    assert len(tokenizer.encode("film")) < 4


def test_special_tokens_are_three_and_only_bos_is_added(tmp_path) -> None:
    for tokenizer in (train_tokenizer(TEXTS, vocab_size=300), train_word_tokenizer(TEXTS)):
        special = {tokenizer.pad_token_id, tokenizer.bos_token_id, tokenizer.eos_token_id}
        assert len(special) == 3
        ids = tokenizer.encode("the film was good .")
        assert ids[0] == tokenizer.bos_token_id
        assert not special & set(ids[1:])
        assert tokenizer.encode("<eos>")[1:] == [tokenizer.eos_token_id]


def test_same_texts_same_tokenizer() -> None:
    first, second = (train_tokenizer(TEXTS, vocab_size=290).backend_tokenizer.to_str() for _ in range(2))
    assert first == second
    words = train_word_tokenizer(TEXTS)
    assert words.get_vocab() == train_word_tokenizer(TEXTS[::-1]).get_vocab()


def test_words_are_tokens_most_frequent_first() -> None:
    tokenizer = train_word_tokenizer(TEXTS)
    assert len(tokenizer) == 4 + 11
    assert tokenizer.convert_ids_to_tokens([4, 5]) == ["film", "."]
    assert tokenizer.decode(tokenizer.encode("a good film ."), skip_special_tokens=True) == "a good film ."
    assert tokenizer.encode("superb")[1:] == [tokenizer.unk_token_id]
    small = train_word_tokenizer(TEXTS, vocab_size=6)
    assert small.convert_ids_to_tokens(small.encode("the film .")[1:]) == ["<unk>", "film", "."]


def test_too_small_a_vocabulary_is_refused() -> None:
    with pytest.raises(ValueError, match=r"vocab_size must be >= 259 .*, got 100"):
        train_tokenizer(TEXTS, vocab_size=100)
    with pytest.raises(ValueError, match=r"vocab_size must be > 4 .*, got 4"):
        train_word_tokenizer(TEXTS, vocab_size=4)


def test_chat_template_extends_its_own_prefix() -> None:
    tokenizer = train_tokenizer(TEXTS, vocab_size=300)
    turns = [{"role": "user", "content": "Good?"}, {"role": "assistant", "content": "Bad."}]
    prompt = tokenizer.apply_chat_template(turns[:1], tokenize=False, add_generation_prompt=True)
    assert prompt == "<bos><|user|>\nGood?\n<|assistant|>\n"
    assert tokenizer.apply_chat_template(turns, tokenize=False) == prompt + "Bad.<eos>"
    assert train_word_tokenizer(TEXTS).chat_template is None
