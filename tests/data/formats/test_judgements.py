"""Judgements, comparisons and gathered rows of published data sets, invented: what each format is known for."""

from __future__ import annotations

import json

import pytest
from invented_rows import DISTILABEL, OPENAI, bot, sides, user

from exptilt.data.conversions import preference_to_ratings, ranking_to_preferences
from exptilt.data.formats import find
from exptilt.data.problems import RowError
from exptilt.data.records import Demonstration, Preference, Ranking, Rating

PANDA = {"instruction": "Shorten.", "input": "a b", "response1": "a", "response2": "b", "annotators": [2, 2, 0]}
TLDR = {"info": {"id": "t3", "post": "My flatmate", "title": "What?", "subreddit": "relationships", "article": None},
        "summaries": [{"text": " First.", "policy": "a"}, {"text": " Second.", "policy": "b"}],
        "choice": 1, "worker": "w", "batch": "batch5", "split": "train", "extra": {"confidence": 8}}  # fmt: skip
ARENA = {"model_a": "m1", "model_b": "m2", "winner": "model_b", "turn": 2,
         "conversation_a": [{**user("hi"), "num_tokens": 1}, bot("hello"), user("joke"), bot("")],
         "conversation_b": [{**user("hi"), "num_tokens": 2}, bot("hi!"), user("joke"), bot("Knock")]}  # fmt: skip
ARENA_TEXTS = {"id": 7, "prompt": '["hi","joke"]', "response_a": '["hello",null]', "response_b": '["hi!","Knock"]',
               "winner_model_a": 0, "winner_model_b": 1, "winner_tie": 0}  # fmt: skip
COMPARED = {"question": "Q", "answers": ["a", "b", "c"], "pair_labels": [
    {"i": 0, "j": 1, "label": "tie"}, {"i": 0, "j": 2, "label": "j"}, {"i": 1, "j": 2, "label": "i"}]}  # fmt: skip


def test_arena_histories_differ_after_the_first_turn(read):
    name, record = read(ARENA)
    assert name == "arena"
    assert record.prompt == (user("hi"),)
    assert record.chosen == (bot("hi!"), user("joke"), bot("Knock"))
    assert record.rejected == (bot("hello"), user("joke"), bot(""))
    assert read(ARENA_TEXTS)[1] == Preference(
        id="file:1", prompt=record.prompt, chosen=record.chosen, rejected=record.rejected
    )


@pytest.mark.parametrize(("winner", "both"), [("tie", None), ("tie (bothbad)", False), ("both_bad", False)])
def test_arena_ties_and_two_bad_sides(read, winner, both):
    record = read({**ARENA, "winner": winner})[1]
    assert (record.p_chosen, record.both_desirable) == (0.5, both)
    assert [rating.desirable for rating in preference_to_ratings(record)] == ([] if both is None else [False, False])


def test_arena_cells_that_are_wrong(refused):
    assert refused({**ARENA, "winner": "nobody"}) == "wrong_type"
    assert refused({**ARENA_TEXTS, "winner_tie": 1}) == "bad_value"
    assert refused({**ARENA_TEXTS, "prompt": "[hi"}) == "wrong_type"
    assert refused({**ARENA_TEXTS, "response_a": '["one"]'}) == "bad_value"
    assert refused({**ARENA_TEXTS, "response_a": '["a", "\\ud800"]'}) == "wrong_type"
    assert refused({**ARENA, "conversation_b": [user("other"), bot("x")]}) == "no_shared_prompt"


@pytest.mark.parametrize(
    ("value", "chosen", "p_chosen"),
    [(1, "x", 1.0), (2, "y", 1.0), ("2", "y", 1.0), (1.5, "x", 0.5), (0, "x", 0.5), ("tie", "x", 0.5), (1.9, "y", 0.9)],
)
def test_alpaca_eval_verdicts(read, value, chosen, p_chosen):
    name, record = read({"instruction": "Q", "output_1": "x", "output_2": "y", "preference": value})
    assert name == "judgement"
    assert record.chosen == chosen
    assert record.p_chosen == pytest.approx(p_chosen)
    assert read({"input": "Q", "output_1": "x", "output_2": "y", "label": value})[1].chosen == chosen


@pytest.mark.parametrize(
    ("value", "code"), [(None, "unjudged"), (float("nan"), "unjudged"), (3, "bad_value"), ("maybe", "wrong_type")]
)
def test_failed_judgements_are_no_preferences(refused, value, code):
    row = {"instruction": "Q", "output_1": "x", "output_2": "y", "preference": value}
    assert refused(row, "judgement") == code


def test_votes_become_a_probability(read, refused):
    assert sides(read(PANDA)[1]) == ("b", "a", pytest.approx(5 / 6))
    assert read(PANDA)[1].prompt == "Shorten.\n\na b"
    upstream = {
        "instruction": "Q",
        "response1": "x",
        "response2": "y",
        "annotator1": 1,
        "annotator2": 2,
        "annotator3": 0,
    }
    assert read(upstream)[1].p_chosen == 0.5
    assert refused({**PANDA, "response1": True}) == "wrong_type"


def test_summaries_keep_their_first_space_and_articles_have_their_own_prompt(read, refused):
    name, record = read(TLDR)
    assert name == "tldr_comparison"
    assert record.prompt == "SUBREDDIT: r/relationships\n\nTITLE: What?\n\nPOST: My flatmate\n\nTL;DR:"
    assert (*sides(record), record.margin) == (" Second.", " First.", 1.0, 8)
    news = {**TLDR, "info": {"post": None, "article": "News"}, "extra": {"confidence": None}}
    assert read(news)[1].prompt == "ARTICLE: News\n\nTL;DR:"
    assert read(news)[1].margin is None
    assert refused({**TLDR, "info": {"post": None}}) == "missing_column"


def test_orca_ties_and_failed_judgements(read, refused):
    assert read({**DISTILABEL, "status": "tie"})[1].p_chosen == 0.5
    assert read(DISTILABEL)[1].margin == 5.0
    assert refused({**DISTILABEL, "rating": None}, "orca") == "unjudged"


def test_openai_rows_have_one_reply_and_keep_their_tools(read, refused):
    assert read(OPENAI)[1].template_args == {"tools": [{"type": "function"}]}
    assert refused({**OPENAI, "preferred_output": [bot("a"), bot("b")]}) == "bad_roles"
    assert refused({**OPENAI, "input": {"messages": [user("Q"), bot("A")]}}) == "bad_roles"
    older = {"input": OPENAI["input"], "preferred_completion": [bot("a")], "non_preferred_completion": [bot("b")]}
    assert sides(read(older)[1]) == ((bot("a"),), (bot("b"),), 1.0)


def test_comparisons_two_by_two_lose_nothing_and_copeland_ranks_them(read, refused):
    name, pairs = read(COMPARED)
    assert name == "comparisons"
    assert [(pair.id, pair.chosen, pair.rejected, pair.p_chosen) for pair in pairs] == [
        ("file:1 1=2", "a", "b", 0.5), ("file:1 3>1", "c", "a", 1.0), ("file:1 2>3", "b", "c", 1.0),
    ]  # fmt: skip
    ranking = read(COMPARED, "copeland")[1]
    assert (ranking.scores, ranking.ranks) == ((0.5, 1.5, 1.0), (3, 1, 2))
    bad = {**COMPARED, "pair_labels": [{"i": 0, "j": 0, "label": "i"}]}
    assert refused(bad) == "bad_value"


def test_on_policy_sets_as_rankings_where_asked(read, refused):
    row = {"prompt": "Q", "chosen": [user("Q"), bot("a")], "rejected": [user("Q"), bot("b")],
           "all_generated_responses": ["a", "b", "c"], "all_rm_scores": [0.3, 0.1, 0.2]}  # fmt: skip
    assert read(row)[0] == "preference"
    assert read(row, "on_policy")[1].ranks == (1, 3, 2)
    assert refused({**row, "all_rm_scores": [1, 2]}, "on_policy") == "wrong_type"
    assert refused({**row, "all_rm_scores": [1, None, 2]}, "on_policy") == "unjudged"


def test_best_of_is_a_ranking_with_ties_among_the_right_ones(read):
    record = read({"prompt": "Q", "chosen": ["a", "b"], "rejected": ["c"]})[1]
    assert record == Ranking(id="file:1", prompt="Q", completions=("a", "b", "c"), ranks=(1, 1, 3))


def test_best_of_keeps_its_subset_and_which_tie_it_belongs_to(read):
    row = {"prompt": "Q", "chosen": ["a"], "rejected": ["b", "c", "d"], "subset": "Math", "id": "17"}
    assert read(row)[1].section == "Math"
    assert read({**row, "subset": "Ties", "id": "tied:3"})[1].section == "Ties/tied:3"
    pairs = ranking_to_preferences(read({**row, "subset": "Ties", "id": "ref:3"})[1])
    assert {pair.section for pair in pairs} == {"Ties/ref:3"}


def test_steps_make_one_rated_solution(read, refused):
    record = read({"prompt": "Q", "completions": ["a", "b", "c"], "labels": [True, False, True]})[1]
    assert (record.desirable, record.score) == (False, pytest.approx(1 / 3))
    assert refused({"prompt": "Q", "completions": ["a"], "labels": [True, True]}) == "wrong_type"


def test_reviews_are_text_and_rated_where_asked(read, refused):
    row = {"text": "Fine<br />film", "label": 1}
    assert read(row)[1] == Demonstration(id="file:1", prompt="", completion="Fine<br />film")
    assert read(row, "rated_text")[1] == Rating(id="file:1", prompt="", completion="Fine<br />film", desirable=True)
    assert refused({**row, "label": -1}, "rated_text") == "unjudged"


def gathered(rows, name):
    adapter, _ = find(rows, "file")
    assert adapter.name == name
    return adapter.record({"rows": rows}, "file:1")


def test_helpsteer_ratings_of_one_prompt_are_a_ranking():
    scores = {"correctness": 4, "coherence": 4, "complexity": 2}
    rows = [
        {"prompt": "Q", "response": "long", "helpfulness": 3, "verbosity": 4, **scores},
        {"prompt": "Q", "response": "good", "helpfulness": 4, "verbosity": 2, **scores},
    ]
    record = gathered(rows, "helpsteer_ratings")
    assert (record.completions, record.ranks) == (("long", "good"), (2, 1))
    # 0.65 * helpfulness + 0.8 * 4 + 0.45 * 4 + 0.55 * 2 - 0.4 * verbosity
    assert record.scores == pytest.approx((6.45, 7.9))
    with pytest.raises(RowError, match="only one completion"):
        gathered(rows[:1], "helpsteer_ratings")


def test_axis_rows_of_one_post_are_a_ranking_by_the_mean_of_its_workers():
    said = [("a", 3), ("b", 6), ("a", 7)]
    rows = [
        {"info": TLDR["info"], "summary": {"text": text, "axes": {"overall": n, "accuracy": None}}} for text, n in said
    ]
    record = gathered(rows, "tldr_axis")
    assert (record.completions, record.scores, record.ranks) == (("a", "b"), (5.0, 6.0), (2, 1))
    rows[0]["summary"]["axes"]["overall"] = None
    with pytest.raises(RowError) as caught:
        gathered(rows, "tldr_axis")
    assert caught.value.code == "unjudged"


def test_trees_rank_siblings_from_0():
    def node(own, parent, role, rank=None):
        return {"message_id": own, "parent_id": parent, "role": role, "text": own, "rank": rank, "message_tree_id": "r"}

    rows = [node("r", None, "prompter"), node("a", "r", "assistant", 1), node("b", "r", "assistant", 0),
            node("c", "r", "assistant"), node("d", "a", "prompter"), node("e", "d", "assistant", 0)]  # fmt: skip
    (ranking,) = gathered(rows, "oasst")
    assert (ranking.prompt, ranking.completions) == ((user("r"),), ((bot("a"),), (bot("b"),)))
    assert ranking.ranks == (2, 1)
    rows += [node("f", "d", "assistant", 1)]
    assert gathered(rows, "oasst")[1].prompt == (user("r"), bot("a"), user("d"))


def test_turns_in_columns_of_text_stay_json(read):
    """Cells are read as JSON, never cut at quotes."""
    asked = ['say "hi"', "a, b"]
    row = {**ARENA_TEXTS, "prompt": json.dumps(asked), "response_a": '["x","y"]', "response_b": '["z","w"]'}
    assert read(row)[1].prompt == (user('say "hi"'),)
    assert read(row)[1].chosen == (bot("z"), user("a, b"), bot("w"))
