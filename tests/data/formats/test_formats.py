from __future__ import annotations

import math

import pytest
from invented_rows import bot, user

from exptilt.data.formats import ADAPTERS, asked_for_instead, find
from exptilt.data.records import Demonstration, Preference, Prompt, Ranking, Rating
from exptilt.errors import DataError

TEXT_PAIR = {"prompt": "Q", "chosen": "good", "rejected": "bad"}


def test_text_preference(read):
    assert read(TEXT_PAIR) == ("preference", Preference(id="file:1", prompt="Q", chosen="good", rejected="bad"))


def test_text_without_a_prompt_is_compared_whole(read):
    # a common prefix of characters would make "The s" or "Yes." the prompt
    _, record = read({"chosen": "The sky", "rejected": "The sun"})
    assert (record.prompt, record.chosen, record.rejected) == ("", "The sky", "The sun")


def test_messages_with_an_implicit_prompt_of_whole_turns(read):
    shared = [{"role": "system", "content": "S"}, user("Q1"), bot("A1"), user("Q2")]
    row = {"chosen": [*shared, bot("Yes. ")], "rejected": [*shared, bot("No, never."), user("Q3"), bot("x")]}
    _, record = read(row)
    assert record.prompt == tuple(shared)
    assert record.chosen == (bot("Yes. "),)
    assert record.rejected == (bot("No, never."), user("Q3"), bot("x"))


@pytest.mark.parametrize("prompt", ["Q", [user("Q")]])
def test_a_prompt_beside_full_message_lists_is_not_doubled(read, prompt):
    _, record = read({"prompt": prompt, "chosen": [user("Q"), bot("a")], "rejected": [user("Q"), bot("b")]})
    assert record.prompt == (user("Q"),)
    assert (record.chosen, record.rejected) == ((bot("a"),), (bot("b"),))


def test_text_prompt_with_replies_as_messages_becomes_a_turn(read):
    _, record = read({"prompt": "Q", "chosen": [bot("a")], "rejected": [bot("b")]})
    assert (record.prompt, record.rejected) == ((user("Q"),), (bot("b"),))


def test_reply_that_repeats_the_users_turn_stays_a_reply(read):
    _, record = read({"chosen": [user("Q"), bot("a"), user("Q"), bot("b")], "rejected": [user("Q"), bot("a")]})
    assert record.prompt == (user("Q"),)
    assert record.rejected == (bot("a"),)


def test_contexts_that_differ_are_reported_not_guessed(refused_with):
    system = {"role": "system", "content": "S"}
    assert (
        refused_with({"chosen": [system, user("Q"), bot("a")], "rejected": [user("Q"), bot("b")]})[0]
        == "no_shared_prompt"
    )
    mismatch = {"prompt": "other", "chosen": [user("Q"), bot("a")], "rejected": [user("Q"), bot("b")]}
    assert refused_with(mismatch)[0] == "prompt_mismatch"


def test_transcripts_are_told_from_text(read):
    row = {"chosen": "\n\nHuman: Q\n\nAssistant: ab", "rejected": "\n\nHuman: Q\n\nAssistant: ac"}
    name, record = read(row)
    assert name == "hh"
    assert (record.prompt, record.chosen, record.rejected) == ((user("Q"),), (bot("ab"),), (bot("ac"),))


def test_sharegpt_and_axolotl_preferences(read):
    sharegpt = {
        "conversations": [{"from": "system", "value": "S"}, {"from": "human", "value": "Q"}],
        "chosen": {"from": "gpt", "value": "a"},
        "rejected": {"from": "gpt", "value": "b"},
    }
    name, record = read(sharegpt)
    assert name == "sharegpt"
    assert record.prompt == ({"role": "system", "content": "S"}, user("Q"))
    assert record.chosen == (bot("a"),)
    assert read({"messages": [user("Q")], "chosen": bot("a"), "rejected": bot("b")})[1].prompt == (user("Q"),)


def test_optional_numbers_of_a_pair(read):
    _, record = read({**TEXT_PAIR, "p_chosen": "0.75", "margin": 2, "weight": 0.5})
    assert (record.p_chosen, record.margin, record.weight) == (0.75, 2.0, 0.5)
    _, scored = read({**TEXT_PAIR, "score_chosen": 8.5, "score_rejected": 3.0})
    assert (scored.margin, scored.p_chosen) == (5.5, 1.0)
    _, tie = read({**TEXT_PAIR, "score_chosen": 4, "score_rejected": 4})
    assert (tie.margin, tie.p_chosen) == (0.0, 0.5)


def test_ratings(read):
    assert read({"prompt": "Q", "completion": "a", "label": "False", "score": 2}) == (
        "rating",
        Rating(id="file:1", prompt="Q", completion="a", desirable=False, score=2.0),
    )
    name, record = read({"messages": [user("Q1"), bot("A1"), user("Q2"), bot("A2")], "label": True})
    assert name == "rated_messages"
    assert (record.prompt, record.completion) == ((user("Q1"), bot("A1"), user("Q2")), (bot("A2"),))


@pytest.mark.parametrize(
    ("label", "desirable"), [(True, True), (0, False), (1.0, True), ("1", True), ("rejected", False), ("chosen", True)]
)
def test_labels_as_they_are_written(read, label, desirable):
    assert read({"prompt": "Q", "completion": "a", "label": label})[1].desirable is desirable


@pytest.mark.parametrize("label", [2, 0.5, "maybe", math.nan, [1]])
def test_labels_that_are_none(refused_with, label):
    assert refused_with({"prompt": "Q", "completion": "a", "label": label})[0] == "wrong_type"


def test_demonstrations(read, refused_with):
    assert read({"prompt": "Q", "completion": "a"})[1] == Demonstration(id="file:1", prompt="Q", completion="a")
    assert read({"text": "all of it", "label": 1})[1] == Demonstration(id="file:1", prompt="", completion="all of it")
    turns = [{"role": "system", "content": "S"}, user("Q1"), bot("A1"), user("Q2"), bot("A2")]
    name, record = read({"messages": turns})
    assert name == "messages"
    assert (record.prompt, record.completion) == (tuple(turns[:2]), tuple(turns[2:]))
    asked = (user("Q"), bot("A"), user("thanks"))
    name, record = read({"messages": list(asked)})
    assert (name, type(record), record.prompt, record.completions) == ("messages", Prompt, asked, ())
    assert refused_with({"messages": [user("Q"), {"role": "system", "content": "S"}]})[0] == "bad_roles"


@pytest.mark.parametrize("name", ["gold", "reference"])
def test_a_gold_answer_above_a_pair_is_a_ranking_of_three(read, name):
    row = {"prompt": "Q", name: "best", "chosen": "good", "rejected": "bad"}
    expected = Ranking(id="file:1", prompt="Q", completions=("best", "good", "bad"), ranks=(1, 2, 3))
    adapter = next(one for one in ADAPTERS if one.name == "triple")
    assert adapter.record(row, "file:1") == expected
    if name == "gold":  # `reference` may mean something else, so it must be asked for
        assert read(row) == ("triple", expected)
    else:
        assert not adapter.fits(row)


def test_rankings_by_rank_and_by_score(read, refused_with):
    name, record = read({"prompt": "Q", "completions": ["x", "y", "z"], "ranks": [2.0, 1, 2]})
    assert name == "ranking"
    assert record == Ranking(id="file:1", prompt="Q", completions=("x", "y", "z"), ranks=(2, 1, 2))
    _, scored = read({"prompt": "Q", "completions": ["x", "y"], "scores": [0.1, 0.7]})
    assert (scored.ranks, scored.scores) == ((2, 1), (0.1, 0.7))
    assert refused_with({"prompt": "Q", "completions": ["x", "y"], "ranks": [0, 1]})[0] == "bad_value"
    assert refused_with({"prompt": "Q", "completions": ["x", "y"], "scores": [0.1]})[0] == "wrong_type"
    assert refused_with({"prompt": "Q", "completions": ["x", "y"], "scores": [0.1, math.nan]})[0] == "wrong_type"
    assert refused_with({"prompt": "Q", "completions": ["x"], "ranks": [1]})[0] == "wrong_type"


@pytest.mark.parametrize(
    ("change", "code", "detail"),
    [
        ({"rejected": None}, "missing_column", "column 'rejected' is null"),
        ({"chosen": 7}, "wrong_type", "chosen must be text or a list of turns, got a number"),
        ({"chosen": []}, "wrong_type", "got an empty list"),
        ({"chosen": "\ud800"}, "wrong_type", "chosen holds half of a surrogate pair at character 1"),
        ({"chosen": [{"role": "alien", "content": "x"}]}, "bad_roles", "unknown role 'alien'"),
        ({"chosen": [{"role": "user", "content": None}]}, "wrong_type", "the content of chosen[0] must be text"),
        ({"chosen": ["x"]}, "wrong_type", "chosen[0] must be a turn with role and content, got text"),
        ({"chosen": [{"role": "user", "content": [{"type": "image"}]}]}, "wrong_type", "a part of type 'image'"),
        ({"p_chosen": 1.5}, "bad_value", "p_chosen must be in [0, 1], got 1.5"),
        ({"p_chosen": math.nan}, "wrong_type", "p_chosen must be a finite number, got 'nan'"),
        ({"margin": "N/A"}, "wrong_type", "margin must be a finite number, got 'N/A'"),
        ({"weight": -1}, "bad_value", "weight must be in [0, inf], got -1"),
    ],
)
def test_rows_that_are_wrong_say_where(refused_with, change, code, detail):
    got = refused_with({**TEXT_PAIR, **change}, TEXT_PAIR)
    assert got[0] == code
    assert detail in got[1]


def test_text_parts_are_joined_and_empty_columns_of_a_table_are_dropped(read):
    said = {"role": "user", "content": [{"type": "text", "text": "a"}, {"type": "text", "text": "b"}], "name": None}
    assert read({"messages": [said, bot("c")]})[1].prompt == (user("ab"),)


def test_unknown_columns_say_what_was_meant():
    with pytest.raises(
        DataError, match=r"file: no known format has its columns \(prompt, chosen, reject\).*\{rejected: reject\}"
    ):
        find([{"prompt": "Q", "chosen": "a", "reject": "b"}], "file")


def test_format_is_told_from_several_rows_and_names_what_it_does_not_read():
    adapter, unread = find([{"prompt": "Q", "chosen": "a"}, {**TEXT_PAIR, "source": "x", "id": 3}], "file")
    assert (adapter.name, unread) == ("preference", ("source",))


def test_format_can_be_forced():
    row = {"chosen": "\n\nHuman: Q\n\nAssistant: ab", "rejected": "\n\nHuman: Q\n\nAssistant: ac"}
    assert find([row], "file", "preference")[0].name == "preference"
    assert len({adapter.name for adapter in ADAPTERS}) == len(ADAPTERS)


RANKED = {"prompt": "q", "completions": ["a", "b"]}


@pytest.mark.parametrize(
    ("row", "detail"),
    [
        ({**RANKED, "ranks": [1, 1e300]}, "ranks[1] must be at most 1e+30 in size, got 1e+300"),
        ({**RANKED, "ranks": [1, 3_000_000_000]}, "ranks[1] must be a whole number from 1 to 2147483647, got 3e+09"),
        ({**RANKED, "ranks": [0, 1]}, "ranks[0] must be a whole number from 1"),
        ({**RANKED, "ranks": [1, 1.5]}, "ranks[1] must be a whole number from 1"),
        ({**RANKED, "scores": [1, 10**400]}, "scores[1] must be a finite number"),
        ({**TEXT_PAIR, "score_chosen": 1e308, "score_rejected": -1e308}, "score_chosen must be at most 1e+30 in size"),
        ({**TEXT_PAIR, "weight": 1e308}, "weight must be at most 1e+30 in size"),
        (
            {"question": "q", "answers": ["a", "b"], "pair_labels": [{"i": 0.5, "j": 1, "label": "i"}]},
            "pair_labels[0].i must be a whole",
        ),
    ],
)
def test_numbers_no_table_can_hold_are_refused_where_they_stand(refused_with, row, detail):
    code, said = refused_with(row)
    assert code in ("bad_value", "wrong_type")
    assert said.startswith(detail)


def test_a_column_whose_name_is_no_text_can_still_be_named():
    assert find([{**TEXT_PAIR, "a\ud800": 1}], "file")[1] == ("a?",)


def test_a_format_that_must_be_asked_for_is_named_where_it_reads_more():
    row = {"text": "a", "label": 1, "split": "x"}
    adapter, unread = find([row], "file")
    assert (adapter.name, unread) == ("text", ("label", "split"))
    other, more = asked_for_instead(row.keys(), adapter, set(unread))
    assert (other.name, more) == ("rated_text", ["label"])
    adapter, unread = find([TEXT_PAIR], "file")
    assert asked_for_instead(TEXT_PAIR.keys(), adapter, set(unread)) is None


def test_a_misspelt_column_brings_the_format_that_was_meant_first():
    with pytest.raises(DataError) as caught:
        find([{"promt": "a", "choosen": "b", "rejected": "c"}], "file")
    assert "did you mean 'data.columns={prompt: promt, chosen: choosen}'?" in str(caught.value)
    assert "preference: prompt, chosen, rejected" in str(caught.value)
    with pytest.raises(DataError, match="the most common formats: preference: prompt, chosen, rejected; ranking: "):
        find([{"x": 1}], "file")


def test_scores_of_both_sides_stay_with_them_and_the_margin_is_their_difference(read):
    row = {"prompt": "Q", "chosen": "a", "rejected": "b", "chosen_score": 3.0, "rejected_score": 0.5}
    assert (read(row)[1].scores, read(row)[1].margin) == ((3.0, 0.5), 2.5)
    assert (read({**row, "margin": 1.0})[1].scores, read({**row, "margin": 1.0})[1].margin) == ((3.0, 0.5), 1.0)
    del row["rejected_score"]
    assert (read(row)[1].scores, read(row)[1].margin) == (None, None)
