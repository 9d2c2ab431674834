"""What each round begins with, trains on and compares with."""

from __future__ import annotations

import pytest

from exptilt.errors import ConfigError
from exptilt.runs.identity import changed_keys
from exptilt.runs.rounds.round_recipe import policy_of, prompt_data, recipe_of_round


def test_a_round_begins_with_the_model_of_the_one_before_and_compares_with_it(rounds_recipe, speaker, tmp_path):
    recipe = rounds_recipe()
    first, second, third = (recipe_of_round(recipe, number) for number in (1, 2, 3))
    assert [run.model.path for run in (first, second, third)] == [
        str(speaker / "model"),
        str(tmp_path / "run" / "round-1" / "model"),
        str(tmp_path / "run" / "round-2" / "model"),
    ]
    assert [run.reference.model for run in (first, second, third)] == [None, None, None]
    assert [run.seed for run in (first, second, third)] == [0, 1, 2]
    assert [run.rounds for run in (first, second)] == [None, None]
    assert second.output == str(tmp_path / "run" / "round-2")
    assert policy_of(recipe, 2).path == second.model.path


def test_an_old_reference_is_the_very_first_model(rounds_recipe, speaker):
    recipe = rounds_recipe(rounds={"reward": {"kind": "length"}, "fresh_reference": False})
    assert recipe_of_round(recipe, 1).reference.model is None
    assert recipe_of_round(recipe, 3).reference.model == str(speaker / "model")
    named = rounds_recipe(rounds={"fresh_reference": False}, reference={"model": "other"})
    assert recipe_of_round(named, 3).reference.model == "other"
    with pytest.raises(ConfigError, match=r"leave out reference\.model"):
        rounds_recipe(reference={"model": "other"})


def test_an_adapter_is_gone_on_with(rounds_recipe, speaker, tmp_path):
    recipe = rounds_recipe(adapter={"rank": 2})
    second = recipe_of_round(recipe, 2)
    assert (second.model.path, second.adapter.path) == (
        str(speaker / "model"),
        str(tmp_path / "run" / "round-1" / "model"),
    )
    assert policy_of(recipe, 1).path == str(speaker / "model")
    assert policy_of(recipe, 2).path == str(tmp_path / "run" / "round-1" / "model")


def test_the_supervised_phase_makes_the_first_model(rounds_recipe, tmp_path):
    scratch = {"config": {"hidden_size": 8, "num_heads": 2}}
    recipe = rounds_recipe(model=scratch, sft={}, rounds={"fresh_reference": False})
    assert policy_of(recipe, 1).path == str(tmp_path / "run" / "sft" / "model")
    assert recipe_of_round(recipe, 1).model.path == str(tmp_path / "run" / "sft" / "model")
    assert recipe_of_round(recipe, 2).reference.model == str(tmp_path / "run" / "sft" / "model")
    assert recipe.sft_recipe().rounds is None
    with pytest.raises(ConfigError, match=r"rounds needs model\.path or sft"):
        rounds_recipe(model=scratch)


def test_rows_are_those_of_the_round_and_held_out_rows_stay(rounds_recipe, speaker, tmp_path):
    data = {
        "train": str(speaker / "prompts.jsonl"), "limit": 5, "where": {"a": 1}, "columns": {"prompt": "question"},
        "test": "held-out.jsonl", "on_duplicate": "drop", "max_tokens": 40,
    }  # fmt: skip
    recipe = rounds_recipe(data=data)
    rows = recipe_of_round(recipe, 2).data
    assert rows.train == str(tmp_path / "run" / "round-2-rows.jsonl")
    assert (rows.limit, rows.where, rows.columns, rows.mixture) == (None, {}, {}, ())
    assert (rows.test, rows.max_tokens) == ("held-out.jsonl", 40)
    # What the recipe decides stays; the rest is decided for rows that the rounds made themselves.
    assert (rows.on_duplicate, rows.on_identical, rows.on_empty, rows.on_invalid) == ("drop", "drop", "keep", "error")
    asked = prompt_data(recipe)
    assert (asked.train, asked.limit, asked.where, asked.test) == (data["train"], 5, {"a": 1}, None)
    elsewhere = prompt_data(rounds_recipe(data=data, rounds={"prompts": "more.jsonl"}))
    assert (elsewhere.train, elsewhere.limit, elsewhere.columns) == ("more.jsonl", None, {})
    split = rounds_recipe(data={"train": "org/set", "subset": "x", "test_split": "test"})
    (held_out,) = recipe_of_round(split, 1).data.held_out_sources
    assert (held_out.path, held_out.split, held_out.subset) == ("org/set", "test", "x")


def test_earlier_rows_are_kept_where_asked(rounds_recipe, tmp_path):
    recipe = rounds_recipe(rounds={"keep_earlier_rows": True})
    rows = recipe_of_round(recipe, 3).data
    assert [source.path for source in rows.sources] == [
        str(tmp_path / "run" / f"round-{number}-rows.jsonl") for number in (3, 1, 2)
    ]
    assert len(recipe_of_round(recipe, 1).data.sources) == 1


def test_more_rounds_are_the_same_recipe_and_another_reward_is_not(rounds_recipe):
    recipe = rounds_recipe()
    more = rounds_recipe(rounds={"num_rounds": 5, "reward": {"kind": "length"}})
    assert changed_keys(recipe, more) == []
    words = rounds_recipe(rounds={"reward": {"kind": "length", "unit": "words"}})
    assert changed_keys(recipe, words) == ["rounds.reward.unit"]


@pytest.mark.parametrize(
    ("rounds", "message"),
    [
        ({"num_rounds": 0}, "num_rounds must be >= 1"),
        ({"num_samples": 1}, "num_samples must be >= 2"),
        ({"label": "judge"}, "judge is missing"),
        ({"label": "people", "reward": {"kind": "length"}}, "reward is not asked with label=people"),
        ({"reward": {"kind": "length"}, "judge": {"by": "longest"}}, "give one of them"),
        ({"pairs": "best_worst"}, "with labels by people"),
        ({"judge": {"by": "longest"}, "pairs": "adjacent"}, "with labels by judge"),
        ({"decide": "coin"}, "belong to a reward"),
        ({"least_labelled": 0}, "least_labelled"),
    ],
)
def test_settings_that_mean_nothing_are_refused(rounds_recipe, rounds, message):
    with pytest.raises(ConfigError, match=message):
        rounds_recipe(rounds=rounds)


def test_a_reward_model_is_not_trained_in_rounds(rounds_recipe):
    with pytest.raises(ConfigError, match="rounds belongs to policies"):
        rounds_recipe(loss="bradley_terry")
