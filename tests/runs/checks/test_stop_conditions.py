from __future__ import annotations

import json
from dataclasses import replace

import pytest

from exptilt.errors import ConfigError
from exptilt.run_folder.file_names import METRICS
from exptilt.runs.checks.stop_conditions import refuse_impossible
from exptilt.runs.run_recipe import run_recipe
from exptilt.settings.load import load
from exptilt.settings.loss_choice import LossChoice
from exptilt.settings.recipe import Recipe

NAMES = {"train": {"loss", "lr", "grad_norm", "rewards/accuracies"}, "eval": {"loss", "rewards/accuracies"}}
WITHOUT_HELD_OUT = {
    "eval/loss > 1": "'eval/loss > 1' can never be true: there are no held-out rows; set data.test",
    "overfitting": "'overfitting' can never be true: there are no held-out rows",
}
NEVER = {
    "eval/kl > 30": "'eval/kl > 30' can never be true: it is measured only where train.eval_samples is above 0",
    "kl > 30": "kl is measured on held-out prompts: eval/kl",
    "kl": "KL is measured only where train.eval_samples is above 0",
    "lss > 3": "there is no such metric; did you mean 'loss'?",
    "eval/accuracies < 0.5": "there is no such metric; did you mean 'rewards/accuracies'?",
    "eval/lr > 1": "measured are loss, rewards/accuracies",
    "rewards/accuracies > 1": "it is between 0 and 1",
    "eval/rewards/accuracies == -1": "it is between 0 and 1",
    "grad_norm < 0": "it is never below 0",
    "lr > 1e-3": "it is between 0 and 1e-05",
}
POSSIBLE = [
    *("loss > 1e6", "eval/loss > 1", "rewards/accuracies >= 1", "grad_norm == 0", "lr >= 1e-5", "overfitting", "alarm"),
    *("train/loss < 0", "eval/rewards/accuracies <= 0"),
]


def recipe_with(*overrides):
    return load(
        Recipe, None, ["output=o", "model.path=m", "data.train=t.jsonl", "optim.learning_rate=1e-5", *overrides]
    )


@pytest.mark.parametrize("condition", WITHOUT_HELD_OUT)
def test_a_condition_on_held_out_rows_needs_held_out_rows(condition):
    recipe = recipe_with(f"train.stop_if={json.dumps([condition])}")
    with pytest.raises(ConfigError) as refusal:
        refuse_impossible(recipe)
    assert WITHOUT_HELD_OUT[condition] in str(refusal.value)
    for key in ("data.test=x", "data.test_split=test", "data.test_fraction=0.1", "data.test_where={a: 1}"):
        refuse_impossible(recipe_with(f"train.stop_if={json.dumps([condition])}", key))


@pytest.mark.parametrize("condition", NEVER)
def test_a_condition_that_can_never_be_true_is_refused_with_the_reason(condition):
    recipe = recipe_with(f"train.stop_if={json.dumps([condition])}", "data.test_fraction=0.1")
    with pytest.raises(ConfigError) as refusal:
        refuse_impossible(recipe, NAMES)
    assert NEVER[condition] in str(refusal.value)
    assert len(str(refusal.value)) < 300


def test_conditions_that_can_be_true_are_taken():
    refuse_impossible(recipe_with(f"train.stop_if={json.dumps(POSSIBLE)}", "data.test=x"), NAMES)
    refuse_impossible(recipe_with('train.stop_if=["eval/kl > 3", kl]', "train.eval_samples=2", "data.test=x"), NAMES)


def test_the_supervised_phase_and_best_are_looked_at_as_well():
    with pytest.raises(ConfigError, match=r"sft\.train\.stop_if: 'eval/loss > 1'"):
        refuse_impossible(recipe_with('sft={train: {stop_if: ["eval/loss > 1"]}}'))
    best = ('train.best="min eval/los"', "train.eval_every=1")
    with pytest.raises(ConfigError, match=r"train\.best: 'min eval/los' can never be told: there are no held-out rows"):
        refuse_impossible(recipe_with(*best))
    with pytest.raises(ConfigError, match="did you mean 'loss'"):
        refuse_impossible(recipe_with(*best, "data.test=x"), NAMES)


OBJECTIVES = ("dpo", "kto", "orpo", "tdpo2", "sft", "bradley_terry")


@pytest.mark.parametrize("loss", OBJECTIVES)
def test_the_names_known_before_step_1_are_those_of_metrics_jsonl(make_recipe, monkeypatch, loss):
    """Whatever a run writes could have been named, and a name that no run writes is refused before a step."""
    more = ["train.eval_samples=2"] if loss not in ("sft", "bradley_terry") else []
    recipe = make_recipe("evaluate.num_prompts=0", "train.max_steps=2", "train.log_every=1", *more)
    recipe = replace(recipe, loss=LossChoice.of(loss))
    seen = {}
    monkeypatch.setattr("exptilt.runs.session.refuse_impossible", lambda recipe, names=None: seen.update(names or {}))
    run_recipe(recipe, page=False)
    lines = [json.loads(line) for line in (recipe.folder / METRICS).read_text().splitlines()]
    written = {name for line in lines for name in line if "/" in name}
    known = {f"{side}/{name}" for side, names in seen.items() for name in names}
    assert written - known <= {"eval/kl", "eval/sample_length", "eval/ended"}
    unwritten = {
        "train/router_balance",
        "train/matmul_floor_share",
        "train/model_flop_utilisation",
        "train/peak_memory_gb",
        "train/rollout/seconds_drawing",
        "train/rollout/seconds_learning",
    }
    assert known - written <= unwritten


def test_a_run_refuses_before_its_first_step(make_recipe):
    recipe = make_recipe('train.stop_if=["rewards/acuracies < 0.1"]')
    with pytest.raises(ConfigError, match=r"did you mean 'rewards/accuracies'\?"):
        run_recipe(recipe, page=False)
    assert not (recipe.folder / METRICS).exists()
