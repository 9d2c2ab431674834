"""Votes of other tools, by rows written by hand in the shape of their exports."""

from __future__ import annotations

import json

import pytest

from exptilt.errors import DataError
from exptilt.people.raw_votes import raw_rows
from exptilt.people.tool_votes import read_tool_votes
from exptilt.preferences import Comparison, Verdict
from exptilt.votes.vote_records import Rater, verdict_of, vote_of
from exptilt.votes.vote_store import VoteStore

ARGILLA_2 = {
    "id": "7",
    "fields": {"prompt": "2 + 2?", "response-1": "five", "response-2": "four"},
    "responses": {
        "preference": [
            {"value": "response-2", "user_id": "u1", "status": "submitted"},
            {"value": "response-1", "user_id": "u2", "status": "draft"},
            {"value": "tie", "user_id": "u3", "status": "submitted"},
        ],
        "helpful": [
            {"value": [{"value": "response-1", "rank": 2}, {"value": "response-2", "rank": 1}], "user_id": "u1"}
        ],
        "stars": [{"value": 4, "user_id": "u1", "status": "submitted"}],
    },
}
ARGILLA_FLAT = {
    "prompt": "2 + 2?",
    "response_a": "five",
    "response_b": "four",
    "preference.responses": ["b", "response_a"],
    "preference.responses.users": ["u1", "u2"],
    "preference.responses.status": ["submitted", "submitted"],
}
ARGILLA_1 = {
    "fields": {"instruction": "2 + 2?", "response-1": "five", "response-2": "four"},
    "responses": [{"user_id": "u1", "status": "submitted", "values": {"preference": {"value": "response-1"}}}],
}
LABEL_STUDIO = {
    "id": 1,
    "data": {"prompt": "2 + 2?", "text1": "five", "text2": "four"},
    "annotations": [
        {
            "id": 1,
            "completed_by": {"id": 3, "email": "a@b.c"},
            "result": [{"type": "pairwise", "value": {"selected": "right"}}],
        },
        {"id": 2, "completed_by": 4, "result": [{"type": "choices", "value": {"choices": ["tie"]}}]},
        {
            "id": 3,
            "completed_by": 5,
            "was_cancelled": True,
            "result": [{"type": "pairwise", "value": {"selected": "left"}}],
        },
    ],
}
TALK = [{"role": "user", "content": "2 + 2?"}]
ARENA = {
    "question_id": "q",
    "model_a": "vicuna",
    "model_b": "alpaca",
    "winner": "tie (bothbad)",
    "judge": "arena_user_1",
    "conversation_a": [*TALK, {"role": "assistant", "content": "five"}],
    "conversation_b": [*TALK, {"role": "assistant", "content": "four"}],
}
FASTCHAT = {
    "tstamp": 1.0,
    "type": "rightvote",
    "models": ["vicuna", "alpaca"],
    "ip": "1.2.3.4",
    "states": [
        {"roles": ["USER", "ASSISTANT"], "offset": 0, "messages": [["USER", "2 + 2?"], ["ASSISTANT", "five"]]},
        {"roles": ["USER", "ASSISTANT"], "offset": 0, "messages": [["USER", "2 + 2?"], ["ASSISTANT", "four"]]},
    ],
}
KAGGLE = {
    "id": 3,
    "model_a": "x",
    "model_b": "y",
    "prompt": '["2 + 2?"]',
    "response_a": '["five"]',
    "response_b": '["four"]',
    "winner_model_a": 0,
    "winner_model_b": 1,
    "winner_tie": 0,
}


@pytest.mark.parametrize(
    ("row", "expected"),
    [
        (ARGILLA_2, [("u1", "four"), ("u3", "tie"), ("u1", "four")]),
        (ARGILLA_FLAT, [("u1", "four"), ("u2", "five")]),
        (ARGILLA_1, [("u1", "five")]),
        (LABEL_STUDIO, [("a@b.c", "four"), ("annotator 4", "tie")]),
        (ARENA, [("arena_user_1", "both_bad")]),
        (FASTCHAT, [("visitor-6694f83c", "four")]),
        (KAGGLE, [("arena", "four")]),
        (KAGGLE | {"winner_model_b": 0, "winner_tie": 1}, [("arena", "tie")]),
        (ARENA | {"winner": "model_b"}, [("arena_user_1", "four")]),
    ],
)
def test_every_tools_votes_name_the_answer_that_won(write_rows, row, expected):
    found = read_tool_votes(str(write_rows("votes.jsonl", [row])))
    said = []
    for comparison, vote, _ in found.rows:
        assert (comparison.prompt, sorted(comparison.answers)) == ("2 + 2?", ["five", "four"])
        verdict = verdict_of(comparison, vote)
        said.append(
            (vote.rater.name, verdict.outcome if verdict.winner is None else comparison.answers[verdict.winner])
        )
    assert said == expected


def test_a_file_imported_twice_counts_once_and_models_are_kept(write_rows, tmp_path):
    path = str(
        write_rows("votes.jsonl", [ARENA, ARENA | {"question_id": "r", "winner": "model_a"}, ARENA | {"winner": None}])
    )
    with VoteStore(tmp_path / "votes.db") as store:
        assert store.add_all(read_tool_votes(path).rows) == 2
        assert store.add_all(read_tool_votes(path).rows) == 0
        ((_, sources),) = store.sources().items()
    assert sources == {0: ["vicuna"], 1: ["alpaca"]}  # "five" sorts before "four"


def test_turns_that_both_sides_share_are_the_prompt(write_rows):
    more = {"role": "user", "content": "Sure?"}
    row = ARENA | {
        "winner": "model_a",
        "conversation_a": [*ARENA["conversation_a"], more, {"role": "assistant", "content": "yes"}],
        "conversation_b": [*ARENA["conversation_a"], more, {"role": "assistant", "content": "no"}],
    }
    ((comparison, _, _),) = read_tool_votes(str(write_rows("votes.jsonl", [row]))).rows
    assert [turn["content"] for turn in comparison.prompt] == ["2 + 2?", "five", "Sure?"]
    assert comparison.answers == ("yes", "no")


def test_what_is_no_vote_is_counted_or_refused(write_rows):
    rows = [ARENA, ARENA | {"winner": "?"}, ARENA | {"conversation_b": []}]
    assert read_tool_votes(str(write_rows("some.jsonl", rows))).left_out.total() == 2
    for row in ({"colour": "red"}, LABEL_STUDIO | {"annotations": []}):
        with pytest.raises(DataError, match="no vote"):
            read_tool_votes(str(write_rows("none.jsonl", [row])))


def test_the_export_names_nobody_and_comes_back(tmp_path):
    asked = Comparison("2 + 2?", ("five", "four"))
    with VoteStore(tmp_path / "votes.db") as store:
        for name, nonce, outcome in (("anna", "a", "first"), ("ben", "b", "second"), ("anna", "c", "tie")):
            verdict = Verdict(comparison=asked.id, order=(1, 0), outcome=outcome)
            store.add(asked, vote_of(asked, verdict, Rater("person", name), nonce), sources=("x", "y"))
        rows = list(raw_rows(store))
        assert "anna" not in json.dumps(rows)
        assert [row["rater"] for row in rows] == ["rater-1", "rater-2", "rater-1"]
        assert rows[0]["answers"] == ["four", "five"]
        assert rows[0]["sources"] == [["y"], ["x"]]
        assert [row["rater"] for row in raw_rows(store, names=True)] == ["anna", "ben", "anna"]
    (tmp_path / "raw.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    found = read_tool_votes(str(tmp_path / "raw.jsonl"))
    winners = [verdict_of(asked, vote).winner for _, vote, _ in found.rows]
    assert winners == [1, 0, None]
