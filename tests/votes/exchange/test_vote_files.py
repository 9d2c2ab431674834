"""Votes of other tools, into a store and out of it: nothing is lost that the forms can hold, and what cannot is counted."""

import json
from collections import Counter
from pathlib import Path

import pytest

from exptilt.errors import ConfigError, DataError, DiskError
from exptilt.preferences import Comparison
from exptilt.verbs.agree import agree
from exptilt.verbs.votes import votes
from exptilt.votes.exchange.vote_files import VoteFile
from exptilt.votes.exchange.written_votes import write_votes
from exptilt.votes.vote_records import Rater, Vote
from exptilt.votes.vote_store import VoteStore

ALPACA = [
    {
        "instruction": "Say hi.", "output_1": "hi", "generator_1": "base", "dataset": "koala", "output_2": "Hello!",
        "generator_2": "mine", "annotator": "weighted", "preference": preference, "raw_completion": "m",
        "price_per_example": 0.01, "time_per_example": 0.5,
    }
    for preference in (1.0, 2.0, 1.25, 1.999, 1.5, None)
] + [
    {
        "instruction": "Add.", "input": "2 + 2", "output_1": "4", "generator_1": "base", "output_2": "5", "generator_2": "mine",
        "annotator": "old", "preference": 0, "raw_completion": {"choices": 1},
    },
    {
        "instruction": "Half \ud83d", "output_1": "same", "generator_1": "base", "output_2": "same", "generator_2": "mine",
        "annotator": "weighted", "preference": 1.5,
    },
]  # fmt: skip


def turns(*texts):
    return [{"role": ("user", "assistant")[k % 2], "content": text} for k, text in enumerate(texts)]


ARENA = [
    {
        "question_id": f"q{number}", "model_a": "x", "model_b": "y", "winner": winner, "judge": judge, "conversation_a": a,
        "conversation_b": b, "turn": turn, "anony": True, "language": "English", "tstamp": 1.5,
    }
    for number, (winner, judge, a, b, turn) in enumerate([
        ("model_a", "arena_user_1", turns("Hi", "Hello"), turns("Hi", "Go"), 1),
        ("model_b", "arena_user_1", turns("Hi", "Go"), turns("Hi", "Hello"), 1),
        ("tie", "arena_user_2", turns("Hi", "Hello", "More", "No"), turns("Hi", "Go", "More", "Yes"), 2),
        ("tie (bothbad)", "arena_user_2", turns("Hi", "Hello"), turns("Hi", "Go"), 1),
        ("both_bad", "arena_user_3", turns("Hi", "Hello"), turns("Hi", "Go"), 1),
        ("model_a", "expert_5", turns("Hi", "Hello", "More", "No"), turns("Hi", "Go", "More", "Yes"), 1),
        ("model_a", ["gpt-4", "pair-v2"], turns("Hi", "Hello"), turns("Hi", "Go"), 1),
        ("model_a", "arena_user_1", turns("Hi", "Hello"), turns("Hi", "Go"), 1),
    ])
]  # fmt: skip


def lines(path, rows):
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text("".join(json.dumps(row) + "\n" for row in rows))
    return path


def imported(tmp_path, path, name="votes.db"):
    file = VoteFile(path)
    with VoteStore(tmp_path / name) as store:
        return file.import_into(store), file.left_out


def content(where):
    """Votes without nonces, and who wrote what, as a multiset."""
    with VoteStore(where) as store:
        votes_ = Counter(
            (v.comparison, v.rater, v.order, v.outcome, v.probability, v.strength, v.question) for v in store.votes()
        )
        return votes_, store.comparisons(), store.sources()


def there_and_back(tmp_path, path, form, suffix):
    """Import, write, import what was written: the stores are equal. Returns what was written."""
    imported(tmp_path, path)
    output = tmp_path / f"written{suffix}"
    with VoteStore(tmp_path / "votes.db") as store:
        done = write_votes(store, form, output)
        assert done.count == len(store.votes())
    assert not done.left_out
    imported(tmp_path, output, "again.db")
    assert content(tmp_path / "again.db") == content(tmp_path / "votes.db")
    return output


def test_alpaca_eval_comes_back_as_it_was(tmp_path):
    path = tmp_path / "annotations.json"
    path.write_text(json.dumps(ALPACA))
    output = there_and_back(tmp_path, path, "alpaca_eval", ".json")
    assert json.loads(output.read_text()) == ALPACA
    with VoteStore(tmp_path / "votes.db") as store:
        found = store.votes()
        assert [v.outcome for v in found[:6]] == ["first", "second", "first", "second", "tie", "unscored"]
        assert [v.probability for v in found[:4]] == [None, None, 0.75, pytest.approx(0.001)]
        hi = Comparison("Say hi.", ("hi", "Hello!"))
        assert found[2].comparison == hi.id
        assert found[2].first_share == 0.25  # "Hello!" is the first of the sorted answers
        assert store.sources()[hi.id] == {0: ["mine"], 1: ["base"]}
        assert found[6].comparison == Comparison("Add.\n\n2 + 2", ("4", "5")).id


def test_chatbot_arena_comes_back_as_it_was(tmp_path):
    output = there_and_back(tmp_path, lines(tmp_path / "arena.jsonl", ARENA), "chatbot_arena", ".jsonl")
    assert [json.loads(line) for line in output.read_text().splitlines()] == ARENA
    with VoteStore(tmp_path / "votes.db") as store:
        found = store.votes()
        one_turn = Comparison("Hi", ("Hello", "Go"))
        assert [v.comparison == one_turn.id for v in found] == [True, True, False, True, True, True, True, True]
        assert [v.rater.kind for v in found].count("judge") == 1
        assert [v.first_share for v in found[:2]] == [0.0, 0.0]  # "Hello" won twice, and "Go" is sorted first


def test_the_55k_form_of_the_arena_is_read(tmp_path):
    row = {
        "id": 7, "model_a": "x", "model_b": "y", "prompt": '["Hi", "More"]', "response_a": '["Hello", "No"]',
        "response_b": '["Go", "Yes"]', "winner_model_a": 0, "winner_model_b": 1, "winner_tie": 0,
    }  # fmt: skip
    bad = row | {"winner_tie": 1}
    (total, added), left_out = imported(tmp_path, lines(tmp_path / "a.jsonl", [row, bad]))
    assert (total, added) == (1, 1)
    assert left_out == {"not exactly one winner": 1}
    imported(tmp_path, lines(tmp_path / "b.jsonl", [ARENA[2] | {"winner": "model_b"}]), "other.db")
    assert content(tmp_path / "votes.db")[1] == content(tmp_path / "other.db")[1]
    with VoteStore(tmp_path / "votes.db") as store:
        write_votes(store, "chatbot_arena", tmp_path / "out.jsonl")
    written = json.loads((tmp_path / "out.jsonl").read_text())
    assert (written["id"], written["winner"], written["conversation_a"]) == (7, "model_b", ARENA[2]["conversation_a"])


def mt_bench(tmp_path):
    folder = tmp_path / "mt_bench"
    lines(
        folder / "question.jsonl",
        [
            {"question_id": 81, "category": "writing", "turns": ["Q1", "Q2"]},
            {"question_id": 82, "category": "math", "turns": ["R1", "R2"]},
        ],
    )
    for model in ("x", "y"):
        answers = [
            {
                "question_id": number,
                "answer_id": "a",
                "model_id": model,
                "choices": [{"index": 0, "turns": [f"{model}{number}", f"{model}{number}b"]}],
                "tstamp": 1.0,
            }
            for number in (81, 82)
        ]
        lines(folder / "model_answer" / f"{model}.jsonl", answers)
    rows = [
        {
            "question_id": number, "model_1": "x", "model_2": "y", "g1_winner": g1, "g2_winner": g2, "judge": ["gpt-4", "pair-v2"],
            "g1_user_prompt": "p1", "g1_judgment": "[[A]]", "g2_user_prompt": "p2", "g2_judgment": "[[B]]", "turn": turn, "tstamp": 2.0,
        }
        for number, turn, g1, g2 in [
            (81, 1, "model_1", "model_1"), (81, 2, "model_2", "tie"), (82, 1, "error", "model_2"), (82, 2, "tie", "tie"),
        ]
    ]  # fmt: skip
    lines(folder / "model_judgment" / "gpt-4_pair.jsonl", rows)
    return folder, rows


def test_mt_bench_comes_back_as_it_was(tmp_path):
    folder, rows = mt_bench(tmp_path)
    output = there_and_back(tmp_path, folder, "mt_bench", "")
    written = [json.loads(line) for line in (output / "model_judgment" / "gpt-4_pair.jsonl").read_text().splitlines()]
    assert written == rows
    questions = [json.loads(line) for line in (output / "question.jsonl").read_text().splitlines()]
    assert [(q["question_id"], q["turns"]) for q in questions] == [(81, ["Q1", "Q2"]), (82, ["R1", "R2"])]
    with VoteStore(tmp_path / "votes.db") as store:
        first = Comparison("Q1", ("x81", "y81"))
        assert [(v.comparison == first.id, v.outcome, v.order) for v in store.votes()[:2]] == [
            (True, "first", (0, 1)), (True, "second", (1, 0)),
        ]  # fmt: skip


def arena_hard(tmp_path, version):
    folder = tmp_path / version
    if version == "v0.1":
        lines(
            folder / "question.jsonl",
            [{"question_id": "u1", "category": "arena-hard", "cluster": "c", "turns": [{"content": "Q"}]}],
        )
        for model in ("gpt-4-0314", "mine"):
            lines(
                folder / "model_answer" / f"{model}.jsonl",
                [
                    {
                        "question_id": "u1",
                        "answer_id": "a",
                        "model_id": model,
                        "choices": [{"index": 0, "turns": [{"content": f"by {model}", "token_len": 2}]}],
                        "tstamp": 1.0,
                    }
                ],
            )
        row = {
            "question_id": "u1",
            "model": "mine",
            "judge": "gpt-4",
            "games": [
                {"user_prompt": "p", "judgment": "[[B>>A]]", "score": "B>>A"},
                {"user_prompt": "p", "judgment": "[[A>B]]", "score": "A>B"},
            ],
        }
        lines(folder / "model_judgment" / "gpt-4" / "mine.jsonl", [row])
    else:
        lines(folder / "question.jsonl", [{"uid": "u1", "category": "hard_prompt", "subcategory": "c", "prompt": "Q"}])
        for model in ("o3", "mine"):
            messages = [{"role": "user", "content": "Q"}, {"role": "assistant", "content": {"answer": f"by {model}"}}]
            lines(
                folder / "model_answer" / f"{model}.jsonl",
                [
                    {
                        "uid": "u1",
                        "ans_id": "a",
                        "model": model,
                        "messages": messages,
                        "tstamp": 1.0,
                        "metadata": {"token_len": 2},
                    }
                ],
            )
        row = {
            "uid": "u1",
            "category": "hard_prompt",
            "judge": "g",
            "model": "mine",
            "baseline": "o3",
            "games": [
                {"score": "A<B", "judgment": {"answer": "[[A<B]]"}, "prompt": [1]},
                {"score": None, "judgment": None, "prompt": [2]},
            ],
        }
        lines(folder / "model_judgment" / "g" / "mine.jsonl", [row])
    return folder, row


@pytest.mark.parametrize("version", ["v0.1", "v2.0"])
def test_arena_hard_comes_back_as_it_was(tmp_path, version):
    folder, row = arena_hard(tmp_path, version)
    output = there_and_back(tmp_path, folder, "arena_hard", "")
    judge = row["judge"]
    written = json.loads((output / "model_judgment" / judge / "mine.jsonl").read_text())
    assert written.items() >= row.items()
    with VoteStore(tmp_path / "votes.db") as store:
        found = store.votes()
    if version == "v0.1":
        assert [(v.outcome, v.strength) for v in found] == [("second", "much"), ("first", "slightly")]
    else:
        assert [(v.outcome, v.strength) for v in found] == [("second", "slightly"), ("unscored", "")]


def test_importing_twice_adds_nothing_and_equal_rows_of_one_file_are_two_votes(tmp_path):
    path = lines(tmp_path / "arena.jsonl", [ARENA[0], ARENA[0], ARENA[1]])
    assert imported(tmp_path, path)[0] == (3, 3)
    assert imported(tmp_path, path)[0] == (3, 0)
    longer = lines(tmp_path / "more.jsonl", [ARENA[1], ARENA[0], ARENA[0], ARENA[0]])
    assert imported(tmp_path, longer)[0] == (4, 1)


def test_what_does_not_fit_is_counted_with_its_reason(tmp_path, capsys):
    rows = [
        ARENA[0],
        ARENA[0] | {"winner": "nobody"},
        ARENA[0] | {"conversation_b": turns("Bye", "x")},
        ARENA[0] | {"conversation_a": None},
        {"winner": 1},
    ]
    path = lines(tmp_path / "arena.jsonl", rows)
    path.write_text(path.read_text() + "not json\n")
    votes([path], tmp_path / "votes.db")
    out = capsys.readouterr().out
    assert "1 vote" in out
    for reason in (
        "the winner 'nobody'",
        "do not begin with the same prompt",
        "no list of turns",
        "another shape",
        "cannot be read",
    ):
        assert f"left out: 1 with {reason}" in out or reason in out
    folder, _ = mt_bench(tmp_path)
    (folder / "model_answer" / "y.jsonl").write_text(
        json.dumps({"question_id": 81, "model_id": "y", "choices": [{"turns": ["a", "b"]}]}) + "\n"
    )
    lines(
        folder / "model_judgment" / "gpt-4_single.jsonl",
        [{"question_id": 81, "model": "x", "judge": ["gpt-4", "single-v1"], "score": 9, "turn": 1}],
    )
    (total, _), left_out = imported(tmp_path, folder, "mt.db")
    assert total == 4
    assert left_out == {"no answer of y": 2, "a row that rates one answer, or is of another tool": 1}


def test_votes_of_our_own_are_written_in_every_form(tmp_path, capsys):
    pairs = [Comparison(f"p{k}", (f"mine {k}", f"base {k}")) for k in range(3)]
    judge, anna = Rater("judge", "org/judge", "server m"), Rater("person", "anna")
    with VoteStore(tmp_path / "votes.db") as store:
        for k, pair in enumerate(pairs):
            for order, outcome in (((0, 1), "first"), ((1, 0), "tie")):
                vote = Vote(
                    comparison=pair.id,
                    rater=judge,
                    order=order,
                    outcome=outcome,
                    probability=0.75 if outcome == "first" else None,
                    nonce=f"{k}{order}",
                )
                store.add(pair, vote, sources=("mine", "base"))
        store.add(pairs[0], Vote(comparison=pairs[0].id, rater=anna, order=(0, 1), outcome="skip", nonce="s"))
        three = Comparison("p", ("a", "b", "c"))
        store.add(three, Vote(comparison=three.id, rater=anna, order=(0, 1, 2), ranking=(1, 2, 2), nonce="r"))
        for form, suffix in (
            ("alpaca_eval", ".json"),
            ("chatbot_arena", ".jsonl"),
            ("mt_bench", ""),
            ("arena_hard", ""),
        ):
            output = tmp_path / f"{form}{suffix}"
            done = write_votes(store, form, output)
            assert done.count == 6, form
            assert done.left_out.total() == 2, form
            assert imported(tmp_path, output, f"{form}.db")[0] == (6, 6)
            given, comparisons, sources = content(tmp_path / f"{form}.db")
            assert comparisons == {pair.id: Comparison(pair.prompt, tuple(sorted(pair.answers))) for pair in pairs}
            assert Counter(v[3] for v in given.elements()) == {"first": 3, "tie": 3}
            assert sources[pairs[0].id] == {0: ["base"], 1: ["mine"]}
        done = write_votes(store, "model_outputs", tmp_path / "outputs")
    assert done.count == 6
    rows = json.loads((tmp_path / "outputs" / "mine" / "model_outputs.json").read_text())
    assert rows[0] == {"instruction": "p0", "output": "mine 0", "generator": "mine"}
    games = [
        json.loads(line)
        for line in (tmp_path / "arena_hard" / "model_judgment" / "org_judge" / "mine.jsonl").read_text().splitlines()
    ]
    assert games[0]["baseline"] == "base"
    # Sorted answers begin with the baseline's, so the first vote shows it first and prefers it.
    assert [game["score"] for game in games[0]["games"]] == ["A>B", "A=B"]


def test_the_command_shows_what_a_store_holds_and_imported_people_can_be_compared(tmp_path, capsys):
    path = lines(tmp_path / "arena.jsonl", ARENA)
    votes([path], tmp_path / "votes.db")
    votes([], tmp_path / "votes.db")
    out = capsys.readouterr().out
    assert "arena_user_1" in out
    assert "3 first" in out or "2 first" in out
    assert agree([str(tmp_path / "votes.db")])["items"] == 2


@pytest.mark.parametrize(
    ("name", "rows", "message"),
    [
        ("x.jsonl", [{"a": 1}], "no known form of votes"),
        ("x.jsonl", [{"instruction": "i", "output": "o", "generator": "g"}], "answers, not votes"),
        ("x.jsonl", [ARENA[0] | {"winner": "?"}], "there is no vote in it .the winner"),
        ("absent.jsonl", None, "no such file of votes"),
        (".", None, "is no folder of MT-Bench or Arena-Hard"),
    ],
)
def test_a_file_of_another_form_is_one_line(tmp_path, name, rows, message):
    if rows is not None:
        lines(tmp_path / name, rows)
    with pytest.raises(DataError, match=message) as error:
        votes([Path(tmp_path / name)], tmp_path / "votes.db")
    assert len(str(error.value)) < 300


@pytest.mark.parametrize(
    ("file", "row", "message"),
    [
        ("question.jsonl", {"x": 1}, "question.jsonl:1: a row without question_id"),
        ("question.jsonl", {"question_id": 1}, "neither `turns` nor `prompt`"),
        ("model_answer/x.jsonl", {"question_id": 1, "choices": [{}]}, "another shape .KeyError: 'turns'"),
        ("model_answer/x.jsonl", {"question_id": 1}, "neither `choices` nor `messages`"),
        (
            "model_judgment/gpt-4_pair.jsonl",
            {"model_1": "x", "model_2": "y", "g1_winner": "tie"},
            "a row without question_id",
        ),
    ],
)
def test_a_folder_with_a_row_of_another_shape_is_one_line(tmp_path, file, row, message):
    folder, _ = mt_bench(tmp_path)
    lines(folder / file, [row])
    with pytest.raises(DataError, match=message) as error:
        votes([folder], tmp_path / "votes.db")
    assert "\n" not in str(error.value)


def test_nothing_is_replaced_and_half_a_request_is_refused(tmp_path):
    votes([lines(tmp_path / "arena.jsonl", ARENA)], tmp_path / "votes.db")
    with pytest.raises(DiskError, match="is there already"):
        votes([], tmp_path / "votes.db", form="chatbot_arena", output=tmp_path / "arena.jsonl")
    with pytest.raises(ConfigError, match="go together"):
        votes([], tmp_path / "votes.db", form="chatbot_arena")
    with pytest.raises(ConfigError, match="there are alpaca_eval"):
        votes([], tmp_path / "votes.db", form="csv", output=tmp_path / "o")
    with pytest.raises(DataError, match="no such store"):
        votes([], tmp_path / "absent.db")
