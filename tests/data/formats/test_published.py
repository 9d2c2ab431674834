"""Rows of published data sets, invented, under the columns those have: the right adapter, and what its format is known for."""

from __future__ import annotations

import typing

import pytest
from invented_rows import DISTILABEL, OPENAI, bot, sides, user

from exptilt.data.conversions import ranking_to_preferences
from exptilt.data.formats import ADAPTERS
from exptilt.settings.source_settings import Format

SHP = {"post_id": "x1", "domain": "askbaking_train", "history": "My bread will not rise", "human_ref_A": "Warm oven.",
       "human_ref_B": "More yeast.", "score_A": 41, "score_B": 9, "labels": 1, "score_ratio": 4.56}  # fmt: skip
ULTRA = {"source": "x", "instruction": "Explain tides.", "models": ["m1", "m2", "m3"], "completions": [
    {"response": "The Moon.", "overall_score": 1.0, "fine-grained_score": 4.75, "custom_system_prompt": "S",
     "annotations": {"helpfulness": {"Rating": "5"}, "honesty": {"Rating": "4"}}},
    {"response": "Wind.", "overall_score": 10.0, "annotations": {"helpfulness": {"Rating": "N/A"}, "honesty": {"Rating": "1"}}},
    {"response": "Fish.", "fine-grained_score": 1.5, "annotations": {"helpfulness": {"Rating": "N/A"}}}]}  # fmt: skip
NECTAR = {"prompt": "\n\nHuman: What is a fjord? \n\nAssistant: ", "answers": [
    {"answer": "A kind of car.", "model": "m2", "rank": 7.0}, {"answer": "An inlet.", "model": "m1", "rank": 1.0}],
    "turns": 1, "num_responses": 2, "source": ["x"], "good_natured": True}  # fmt: skip
PKU = {"prompt": "How?", "response_0": "Ask.", "response_1": "Crack it.", "is_response_0_safe": True,
       "is_response_1_safe": False, "better_response_id": 1, "safer_response_id": 0}  # fmt: skip
STEER3 = {"domain": "general", "language": "english", "context": [user("Plan.")], "response1": "Fruit.",
          "response2": "No.", "overall_preference": -3, "individual_preference": []}  # fmt: skip
STEER2 = {"prompt": "Plan.", "response_1": "Fruit.", "response_2": "No.", "preference_strength": 2, "split": "train"}


def test_names_are_the_choices_of_the_setting():
    assert set(typing.get_args(Format)) == {"auto"} | {adapter.name for adapter in ADAPTERS}


@pytest.mark.parametrize(
    ("row", "name", "prompt", "completions"),
    [
        (SHP, "shp", "My bread will not rise", ("Warm oven.", "More yeast.")),
        (PKU, "pku_helpful", "How?", ("Crack it.", "Ask.")),
        (STEER3, "helpsteer3", (user("Plan."),), ((bot("Fruit."),), (bot("No."),))),
        (STEER2, "helpsteer2", "Plan.", ("No.", "Fruit.")),
        (OPENAI, "openai", (user("Cold?"),), ((bot("-5"),), (bot("Oslo"),))),
        (DISTILABEL, "orca", "2+2?", ("4", "5")),
        ({"system": "S", "question": "Q", "chosen": "a", "rejected": "b"}, "orca",
         ({"role": "system", "content": "S"}, user("Q")), ((bot("a"),), (bot("b"),))),
        ({"source": "x", "instruction": "Q", "chosen_response": "a", "rejected_response": "b", "chosen_avg_rating": 5.0,
          "rejected_avg_rating": 3.5, "chosen_model": "m"}, "argilla", "Q", ("a", "b")),
        ({"prompt": "Q", "chosen": [user("Q"), bot("a")], "chosen-rating": 5, "chosen-model": "m",
          "rejected": [user("Q"), bot("b")], "rejected-rating": 3.5, "rejected-model": "n"}, "preference",
         (user("Q"),), ((bot("a"),), (bot("b"),))),
        ({"prompt": "Q", "prompt_id": "x", "messages": [], "chosen": [user("Q"), bot("a")],
          "rejected": [user("Q"), bot("b")], "score_chosen": 8.5, "score_rejected": 3.0}, "preference",
         (user("Q"),), ((bot("a"),), (bot("b"),))),
        ({"instruction": "Add.", "input": "1 2", "chosen": "3", "rejected": "4"}, "alpaca_pair", "Add.\n\n1 2",
         ("3", "4")),
        ({"instruction": "Add.", "input": "", "output": ["3", "4"]}, "alpaca_pair", "Add.", ("3", "4")),
        ({"question": "Q", "response_j": "a", "response_k": "b", "qid": 1}, "stackexchange", "Q", ("a", "b")),
        ({"messages": [user("Q"), bot("a")], "rejected_response": "b"}, "rejected_response", (user("Q"),),
         ((bot("a"),), (bot("b"),))),
        ({"prompt": "Q", "chosen": "a", "rejected": "b", "subset": "donotanswer", "chosen_model": "m"}, "preference",
         "Q", ("a", "b")),
        (ULTRA, "ultrafeedback", "Explain tides.", ("The Moon.", "Wind.", "Fish.")),
        (NECTAR, "answers", (user("What is a fjord?"),), ((bot("A kind of car."),), (bot("An inlet."),))),
        ({"instruction": "Q", "generations": ["a", "b"], "ratings": [1, 5], "rationales": ["", ""]}, "generations", "Q",
         ("a", "b")),
        ({"question": "Q", "subject": "law", "choices": ["a", "b", "c", "d"], "answer": 2}, "multiple_choice", "Q",
         ("a", "b", "c", "d")),
        ({"prompt": "Q", "chosen": ["a"], "rejected": ["b", "c"], "num_correct": 1, "total_completions": 3}, "best_of",
         "Q", ("a", "b", "c")),
        ({"question": {"full_text": "Q"}, "answer_0": "a", "answer_1": "b", "score_0": -0.5, "score_1": 0.5}, "webgpt",
         "Q", ("b", "a")),
        ({"instruction": "Q", "input": "", "output": "a"}, "alpaca", "Q", ("a",)),
        ({"question": "Q", "answer": "a"}, "question", "Q", ("a",)),
        ({"prompt": [user("Q")]}, "prompt_only", (user("Q"),), ()),
        ({"prompt": "Q", "completions": ["a", "b"], "labels": [True, False]}, "stepwise", "Q", ("a\nb",)),
        ({"system": "S", "prompt": "Q", "completion": "a", "label": True, "rating": 4}, "rating",
         ({"role": "system", "content": "S"}, user("Q")), ((bot("a"),),)),
        ({"prompt": "Q", "completion": [user("Q"), bot("a")], "label": "true", "average_rating": 4.0}, "rating", None,
         None),
    ],
)  # fmt: skip
def test_the_adapter_is_found_from_the_columns(read, row, name, prompt, completions):
    found, record = read(row)
    assert found == name
    if prompt is not None:
        assert (record.prompt, record.completions) == (prompt, completions)


def test_shp_by_label_not_by_score_and_with_the_winners_ratio_as_margin(read, refused):
    assert sides(read({**SHP, "labels": 0})[1]) == ("More yeast.", "Warm oven.", 1.0)
    assert read({**SHP, "labels": 0})[1].margin == 4.56
    assert refused({**SHP, "labels": 2}) == "wrong_type"


def test_ultrafeedback_ratings_are_text_and_not_all_are_numbers(read, refused):
    record = read(ULTRA)[1]
    assert record.scores == (4.5, 1.0, 1.5)
    assert record.ranks == (1, 3, 2)
    bare = {"response": "x", "annotations": {"honesty": {"Rating": "N/A"}}}
    assert refused({**ULTRA, "completions": [bare, bare]}) == "unjudged"
    assert refused({**ULTRA, "completions": ULTRA["completions"][:1]}) == "wrong_type"
    equal = [{"response": said, "fine-grained_score": 2.0} for said in "ab"]
    assert ranking_to_preferences(read({**ULTRA, "completions": equal})[1])[0].p_chosen == 0.5


@pytest.mark.parametrize(
    "row",
    [
        {"choices": ["a", "b", "c"], "answer": 1, "subject": "law"},
        {"options": ["a", "b", "c"], "answer": "B", "answer_index": 1, "category": "law"},
        {"choices": {"text": ["a", "b", "c"], "label": ["1", "2", "3"]}, "answerKey": "2", "section": "law"},
        {"choices": "{'text': ['a', 'b', 'c'], 'label': ['A', 'B', 'C']}", "answerKey": "B", "subset": "law"},
        {"choices": [{"label": "x", "text": "a"}, {"label": "y", "text": "b"}, {"label": "z", "text": "c"}],
         "answerKey": "y", "subject": "law"},
        {"endings": ["a", "b", "c"], "label": "1", "section": "law"},
        {"choices": ["a", "b", "c"], "answer": "b", "subject": "law"},
    ],
    ids=["mmlu", "mmlu-pro", "arc", "arc in a table", "commonsense", "hellaswag", "by its text"],
)  # fmt: skip
def test_multiple_choice_has_one_right_option_and_the_others_alike(read, row):
    name, record = read({"question": "Q", **row})
    assert (name, record.prompt, record.completions, record.ranks) == (
        "multiple_choice",
        "Q",
        ("a", "b", "c"),
        (2, 1, 2),
    )
    assert record.section == "law"


def test_an_answer_that_names_no_option_or_two_is_refused(read, refused):
    row = {"question": "Q", "choices": ["a", "b"]}
    for answer in (2, "C", "none of these", -1, True):
        assert refused({**row, "answer": answer}) == "bad_value"
    assert refused({"question": "Q", "choices": ["a", "a"], "answer": "a"}) == "bad_value"
    assert refused({"question": "Q", "choices": {"text": ["a", "b"], "label": ["A"]}, "answerKey": "A"}) == "wrong_type"


def test_nectars_rank_1_is_the_best(read, refused):
    record = read(NECTAR)[1]
    assert record.ranks == (7, 1)
    (pair,) = ranking_to_preferences(record, "best_worst")
    assert pair.chosen == (bot("An inlet."),)
    scored = {"prompt": "Q", "answers": [{"response": "x", "score": 0.1}, {"response": "y", "score": 0.9}]}
    assert read(scored)[1].ranks == (2, 1)
    two_turns = "\n\nHuman: a \n\nAssistant: b \n\nHuman: c \n\nAssistant: "
    assert read({**NECTAR, "prompt": two_turns})[1].prompt == (user("a"), bot("b"), user("c"))
    assert refused({**NECTAR, "answers": [{"answer": "a", "rank": 0}, {"answer": "b", "rank": 1}]}) == "bad_value"


def test_pku_keeps_the_two_axes_apart(read):
    helpful, harmless = read(PKU)[1], read(PKU, "pku_harmless")[1]
    assert (helpful.chosen, harmless.chosen) == ("Crack it.", "Ask.")
    assert (helpful.id, harmless.id) == ("file:1 helpful", "file:1 harmless")
    ratings = read(PKU, "pku_safe")[1]
    assert [(rating.completion, rating.desirable) for rating in ratings] == [("Ask.", True), ("Crack it.", False)]
    single = {key: value for key, value in PKU.items() if "safe" not in key}
    assert read(single)[0] == "pku_helpful"


def test_zero_preference_is_a_tie_and_negative_means_the_first(read, refused):
    assert sides(read(STEER3)[1]) == ((bot("Fruit."),), (bot("No."),), 1.0)
    assert read(STEER3)[1].margin == 3
    for row, column in ((STEER3, "overall_preference"), (STEER2, "preference_strength")):
        assert read({**row, column: 0})[1].p_chosen == 0.5
        assert refused({**row, column: 4}) == "bad_value"
        assert refused({**row, column: None}, read(row)[0]) == "missing_column"
