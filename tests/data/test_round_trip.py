"""Rendered, tokenised and decoded, a record says what it said, whatever kind of tokenizer reads it."""

from __future__ import annotations

import string

from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from exptilt.data.encode.tokens import Encoder
from exptilt.data.records import Preference
from exptilt.data.stage_account import Decisions
from exptilt.settings.data_settings import DataConfig

LETTERS = [letter for letter in string.printable[:94] if letter not in "<>[]"]
WORD = st.text(LETTERS, min_size=1, max_size=6)
TEXT = st.lists(WORD, min_size=1, max_size=5).map(" ".join)
QUIET = settings(deadline=None, max_examples=40, suppress_health_check=[HealthCheck.function_scoped_fixture])


def encoded(tokenizer, record, boundary):
    decisions = Decisions(DataConfig(train="x").decisions)
    ((front, completions, _),), account = Encoder(tokenizer, decisions=decisions, boundary=boundary).encode([record])
    return front, completions, set(account.noted)


def same(tokenizer, ids, text):
    """Equal; for word pieces, which keep no spaces, equal but for them."""
    said = tokenizer.decode(ids, skip_special_tokens=True)
    if "[SEP]" in tokenizer.get_vocab():
        return "".join(said.split()) == "".join(text.split())
    return said == text


@QUIET
@given(
    prompt=TEXT,
    chosen=TEXT,
    rejected=TEXT,
    space=st.sampled_from(["", " "]),
    boundary=st.sampled_from(["split", "merge"]),
)
def test_text(any_tokenizer, prompt, chosen, rejected, space, boundary):
    record = Preference(id="f:1", prompt=prompt, chosen=space + chosen, rejected=space + rejected)
    front, completions, found = encoded(any_tokenizer, record, boundary)
    assert "unknown_tokens" not in found
    for completion, said in zip(completions, (chosen, rejected), strict=True):
        ids = [*front, *completion.ids]
        assert same(any_tokenizer, ids, prompt + space + said)
        assert ids.count(any_tokenizer.eos_token_id) == 1
        assert ids[-1] == any_tokenizer.eos_token_id
        if any_tokenizer.bos_token_id is not None:
            assert [at for at, id_ in enumerate(ids) if id_ == any_tokenizer.bos_token_id] == [0]


@QUIET
@given(asked=TEXT, again=TEXT, first=TEXT, last=TEXT)
def test_messages_of_several_turns(any_tokenizer, asked, again, first, last):
    turns = [("user", asked), ("assistant", first), ("user", again), ("assistant", last)]
    said = tuple({"role": role, "content": text} for role, text in turns)
    record = Preference(id="f:1", prompt=said[:1], chosen=said[1:], rejected=said[1:2])
    front, (long, short), _ = encoded(any_tokenizer, record, "merge")
    text = f"\n\nHuman: {asked}\n\nAssistant: {first}\n\nHuman: {again}\n\nAssistant: {last}"
    assert same(any_tokenizer, [*front, *long.ids], text)
    assert same(any_tokenizer, [*front, *short.ids], f"\n\nHuman: {asked}\n\nAssistant: {first}")
    counted = any_tokenizer.decode(long.ids[long.counted], skip_special_tokens=True)
    assert "".join(counted.split()) == "".join((first + last).split())
