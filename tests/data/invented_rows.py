"""Turns, and the invented rows of published data sets that several test files need."""

from __future__ import annotations


def user(text):
    return {"role": "user", "content": text}


def bot(text):
    return {"role": "assistant", "content": text}


def sides(record):
    return record.chosen, record.rejected, record.p_chosen


OPENAI = {"input": {"messages": [user("Cold?")], "tools": [{"type": "function"}], "parallel_tool_calls": True},
          "preferred_output": [bot("-5")], "non_preferred_output": [bot("Oslo")]}  # fmt: skip
DISTILABEL = {
    "system": "",
    "input": "2+2?",
    "chosen": "4",
    "rejected": "5",
    "rating": [9.0, 4.0],
    "status": "unchanged",
}
