"""Conversations that are saved can be trained on."""

from __future__ import annotations

import pytest

from exptilt.conversations.conversation import Conversation
from exptilt.data.records import Demonstration
from exptilt.data.splits import read_splits
from exptilt.data.stage_account import Decisions
from exptilt.errors import ConfigError
from exptilt.settings.data_settings import DataConfig


def test_a_saved_conversation_is_a_demonstration(tmp_path):
    file = tmp_path / "chats.jsonl"
    file.write_text('{"messages": [{"role": "user", "content": "a"}, {"role": "assistant", "content": "b"}]}\n')
    talk = Conversation("Be brief.")
    talk.ask("2 + 2?\n")
    talk.answer("4 \u2028")
    talk.save(file)
    data = DataConfig(train=str(file))
    records = list(read_splits(data, Decisions(data.decisions))[0].records)
    assert len(records) == 2  # what was in the file stays
    assert isinstance(records[1], Demonstration)
    assert [turn["content"] for turn in records[1].prompt] == ["Be brief.", "2 + 2?\n"]
    assert [turn["content"] for turn in records[1].completions[0]] == ["4 \u2028"]


def test_what_cannot_be_saved_says_why(tmp_path):
    with pytest.raises(ConfigError, match="nothing was said yet"):
        Conversation().save(tmp_path / "a.jsonl")
    talk = Conversation()
    talk.ask("a")
    with pytest.raises(ConfigError, match=r"name a .jsonl file"):
        talk.save(tmp_path / "model.safetensors")
