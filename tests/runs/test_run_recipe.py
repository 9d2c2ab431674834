from __future__ import annotations

import json
import math
from dataclasses import replace

import pytest
import torch
from transformers import AutoModelForCausalLM, AutoTokenizer

from exptilt.errors import CheckpointError, DataError, ModelError, TrainingError
from exptilt.run_folder.folder import RunFolder
from exptilt.runs.identity import is_finished
from exptilt.runs.run_recipe import run_recipe


def metrics_of(folder):
    return [json.loads(line) for line in (folder / "metrics.jsonl").read_text().splitlines()]


def test_a_run_leaves_what_the_folder_promises(finished):
    names = {path.name for path in finished.folder.iterdir()}
    assert {"config.yaml", "run.json", "data.json", "metrics.jsonl", "checkpoints", "model", "evaluation.json"} <= names
    run = RunFolder(finished.folder).read("run.json")
    assert (run["status"], run["seed"], run["steps"]) == ("done", 0, 3)  # 23 rows in batches of 8
    assert AutoTokenizer.from_pretrained(finished.folder / "model").eos_token == "<eos>"
    model = AutoModelForCausalLM.from_pretrained(finished.folder / "model")
    start = AutoModelForCausalLM.from_pretrained(finished.folder / "sft" / "model")
    moved = [not torch.equal(a, b) for a, b in zip(model.parameters(), start.parameters(), strict=True)]
    assert any(moved)


def test_step_zero_is_zero_and_every_number_is_one(finished):
    lines = metrics_of(finished.folder)
    first = next(line for line in lines if any("rewards/margins" in name for name in line))
    losses = [value for name, value in first.items() if name.endswith("loss")]
    assert losses[0] == pytest.approx(math.log(2), abs=1e-4)
    assert all(math.isfinite(value) for line in lines for value in line.values() if isinstance(value, float))


def test_a_finished_run_is_not_trained_again(finished):
    before = (finished.folder / "model" / "model.safetensors").stat().st_mtime_ns
    outcome = run_recipe(finished, page=False)
    assert (outcome.finished, outcome.step) == (True, 3)
    assert (finished.folder / "model" / "model.safetensors").stat().st_mtime_ns == before


def test_measuring_anew_trains_nothing(finished):
    weights = (finished.folder / "model" / "model.safetensors").read_bytes()
    run_recipe(replace(finished, evaluate=replace(finished.evaluate, num_prompts=3)), page=False)
    assert (finished.folder / "model" / "model.safetensors").read_bytes() == weights
    assert RunFolder(finished.folder).read("evaluation.json")["kl"]["n"] == 3


def test_equal_recipes_give_equal_weights(make_recipe, tmp_path):
    weights = []
    for name in ("one", "two"):
        run_recipe(replace(make_recipe("evaluate.num_prompts=0"), output=str(tmp_path / name)), page=False)
        weights.append((tmp_path / name / "model" / "model.safetensors").read_bytes())
    assert weights[0] == weights[1]


PROMPT = "{name: orpo, nll_over: all}"
MIXED = f"{{name: mixture, terms: [{{loss: {{name: dpo}}}}, {{loss: {PROMPT}, weight: 0.5}}]}}"


@pytest.mark.parametrize("loss", ["ipo", "kto", "plackett_luce", "simpo", PROMPT, MIXED])
def test_other_kinds_of_objectives_run(make_recipe, loss):
    outcome = run_recipe(make_recipe(f"loss={loss}", "evaluate.num_prompts=0", "train.max_steps=1"), page=False)
    assert (outcome.finished, outcome.step) == (True, 1)
    assert metrics_of(outcome.folder.path)[-1]
    pairs = loss not in ("kto", "plackett_luce")
    assert bool(outcome.folder.read("evaluation.json")) == pairs  # measured on the rows' own completions


@pytest.mark.parametrize("loss", ["rebel", "sppo"])
def test_losses_on_scores_take_those_of_the_columns(make_recipe, write_rows, pairs, loss):
    """The gap of the first step's rewards is 0, so REBEL's loss is the mean squared gap of the scores: (0.75 - 0.25)^2."""
    rows = [{**row, "chosen_score": 0.75, "rejected_score": 0.25} for row in pairs(12)]
    data = f"data.train={write_rows('scored.jsonl', rows)}"
    recipe = make_recipe(f"loss={loss}", data, "evaluate.num_prompts=0", "train={max_steps: 1, log_every: 1}")
    losses = [
        line["train/loss"] for line in metrics_of(run_recipe(recipe, page=False).folder.path) if "train/loss" in line
    ]
    if loss == "rebel":
        assert losses == [pytest.approx(0.25)]


@pytest.mark.parametrize(
    ("overrides", "error", "expected"),
    [
        (["model.config.max_positions=8"], DataError, "tokens and max_tokens is 8 (30 rows: pairs.jsonl:"),
        (["data.test_fraction=0.0001"], DataError, "leaves 30 rows to train on and 0 to test on"),
        (["model.config=null"], ModelError, "no model given: set model.path"),
        (["model.tokenizer=EMPTY"], ModelError, "model.tokenizer: EMPTY: is no tokenizer folder"),
        (["reference.model=EMPTY"], ModelError, "EMPTY: is no model folder, config.json is not in it"),
        (["optim.learning_rate=1e9", "train.epochs=5"], TrainingError, "lower optim.learning_rate"),
    ],
)
def test_what_cannot_run_says_why(make_recipe, tmp_path, overrides, error, expected):
    (tmp_path / "empty").mkdir()
    empty = str(tmp_path / "empty")
    with pytest.raises(error) as caught:
        run_recipe(make_recipe(*(item.replace("EMPTY", empty) for item in overrides)), page=False)
    assert expected.replace("EMPTY", empty) in str(caught.value)
    assert "\n" not in str(caught.value)
    assert "NaN" not in (tmp_path / "run" / "run.json").read_text()
    assert RunFolder(tmp_path / "run").read("run.json")["status"] != "done"


def test_a_folder_of_another_run_is_left_alone(finished):
    with pytest.raises(CheckpointError, match="holds a run of another recipe"):
        run_recipe(replace(finished, seed=5), page=False)
    assert is_finished(RunFolder(finished.folder), finished)
