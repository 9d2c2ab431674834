"""What is told of rounds before they begin: by the run, `exptilt doctor`, `exptilt plan`, `exptilt prepare`."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
from rich.console import Console

from exptilt.errors import CheckpointError, ConfigError
from exptilt.planning.planned_rounds import planned_round
from exptilt.policies.models import load_tokenizer
from exptilt.runs.rounds.round_recipe import rounds_of
from exptilt.runs.rounds.round_work import check_rounds, work_of
from exptilt.runs.rounds.run_rounds import run_rounds
from exptilt.runs.run_recipe import run_recipe
from exptilt.settings.evaluated_recipe import recipe_of_run
from exptilt.settings.load import dump
from exptilt.verbs.doctor import doctor
from exptilt.verbs.plan import plan
from exptilt.verbs.prepare import prepare


def test_the_work_is_counted(rounds_recipe):
    recipe = rounds_recipe(
        rounds={"num_rounds": 3, "num_samples": 6, "pairs": "all", "prompts_per_round": 5, "wanted": 2}
    )
    assert work_of(rounds_of(recipe), recipe, 12) == [
        "3 rounds, one after the other. In each:",
        "  sample  30 completions, 6 of 5 prompts, of at most 6 tokens",
        "  label   people compare (2 votes each) at most 75 pairs (all)",  # 15 pairs of 6 completions
        "  train   dpo on them, against the model it begins with",
    ]


def test_prompts_and_reward_are_checked_before_anything_is_sampled(rounds_recipe, speaker):
    tokenizer = load_tokenizer(rounds_recipe().model)
    good = check_rounds(rounds_recipe(), tokenizer)
    assert (good.num_prompts, good.num_samples, good.most_pairs, good.refusal) == (12, 48, 12, "")
    long = rounds_recipe(rounds={"reward": {"kind": "length"}, "law": {"max_new_tokens": 30}})
    assert f"has {good.longest_prompt} tokens and leaves no room" in check_rounds(long, tokenizer).refusal
    absent = rounds_recipe(rounds={"reward": {"kind": "classifier", "path": "no-such.npz"}})
    assert "is no file of a text classifier" in check_rounds(absent, None).refusal
    with pytest.raises(ConfigError, match=r"rounds\.reward: no-such\.npz: is no file"):
        run_rounds(absent, Console(quiet=True))
    assert not absent.folder.exists()


def test_the_verbs_know_rounds(rounds_recipe, tmp_path, capsys):
    written = tmp_path / "recipe.yaml"
    written.write_text(dump(rounds_recipe()))
    assert doctor(str(written), [], None, True, 2) == 0
    assert json.loads(capsys.readouterr().out)["most_pairs"] == 12
    assert doctor(str(written), ["rounds.law.max_new_tokens=30"], None, False, 2) == 1
    assert "these rounds would stop" in capsys.readouterr().out
    with pytest.raises(ConfigError, match="none to prepare"):
        prepare(rounds_recipe())
    with pytest.raises(ConfigError, match="several runs"):
        run_recipe(rounds_recipe())
    folder = tmp_path / "finished"
    folder.mkdir()
    (folder / "config.yaml").write_text(dump(rounds_recipe()))
    with pytest.raises(CheckpointError, match=r"holds 2 rounds.*finished/round-2"):
        recipe_of_run(folder, [])


@pytest.mark.slow
def test_a_plan_is_that_of_a_round_with_as_many_and_as_long_rows_as_it_can_have(rounds_recipe, capsys):
    recipe = rounds_recipe()
    with planned_round(recipe) as one:
        rows = [json.loads(line) for line in Path(one.data.train).read_text("utf-8").splitlines()]
        assert len(rows) == 12
        assert {len(row[side]) for row in rows for side in ("chosen_ids", "rejected_ids")} == {6}
    assert plan(recipe, "cpu", True) == 0
    content = json.loads(capsys.readouterr().out)
    assert (content["num_rounds"], content["num_prompts"]) == (2, 12)
    (phase,) = content["phases"]
    assert (phase["rows"], phase["steps"]) == (12, 6)
    assert "samples of the round (roughly)" in phase["seconds"]
