"""What a finished run says of displacement and of every pair."""

from __future__ import annotations

import json

import numpy as np
import pytest

from exptilt.data.prepare import prepare
from exptilt.evaluate.intervals import Resampling
from exptilt.policies.models import ModelConfig, load_model, load_tokenizer
from exptilt.policies.scoring import score_all
from exptilt.recipes.evaluation import evaluate_run
from exptilt.recipes.measure import measure_ches
from exptilt.recipes.run_folder import RunFolder


@pytest.fixture
def evaluated(finished):
    folder = RunFolder(finished.folder)
    return finished, folder, folder.read("evaluation.json")


def held_out(recipe):
    tokenizer = load_tokenizer(ModelConfig(path=str(recipe.folder / "model")))
    return prepare(recipe.data, tokenizer, "pair", 64).test


def test_displacement_adds_up_with_its_forced_part(evaluated):
    _, _, evaluation = evaluated
    moved = {name: one["value"] for name, one in evaluation["displacement"].items() if "value" in one}
    assert set(moved) == {"chosen", "rejected", "mean", "forced", "remainder"}
    assert moved["mean"] == pytest.approx((moved["chosen"] + moved["rejected"]) / 2)
    assert moved["forced"] <= 0
    assert moved["remainder"] == pytest.approx(moved["mean"] - moved["forced"])


def test_every_held_out_pair_has_its_margins(evaluated):
    recipe, folder, evaluation = evaluated
    rows = [json.loads(line) for line in (folder.path / "evaluation-margins.jsonl").read_text().splitlines()]
    groups = held_out(recipe)
    assert len(rows) == len(groups) == evaluation["num_pairs"]
    assert len({row["pair"] for row in rows}) == len(rows)
    model = load_model(ModelConfig(path=str(folder.model)))
    own = [float(one.sum()[0] - one.sum()[1]) for one in score_all(model, groups)]
    assert [row["likelihood"] for row in rows] == pytest.approx(own, abs=1e-3)
    wins = np.mean([(np.sign(row["log_ratio"]) + 1) / 2 for row in rows])
    assert evaluation["accuracy"]["with_reference"]["sum"]["value"] == pytest.approx(wins)
    ranked = np.mean([(np.sign(row["likelihood"]) + 1) / 2 for row in rows])
    assert evaluation["accuracy"]["without_reference"]["sum"]["value"] == pytest.approx(ranked)


def test_ches_is_of_the_weights_the_run_started_from_and_names_rows(evaluated):
    recipe, folder, evaluation = evaluated
    found = evaluation["displacement"]["ches"]
    groups = held_out(recipe)
    ids = [group.id for group in groups]
    assert [row["id"] for row in found["highest"]] == sorted(
        (row["id"] for row in found["highest"]), key=lambda name: -dict(_scores(found))[name]
    )
    assert {row["id"] for row in found["highest"]} <= set(ids)
    trained = measure_ches(load_model(ModelConfig(path=str(folder.model))), groups, 8192, Resampling())
    assert trained["score"]["value"] != found["score"]["value"]
    assert found["score"]["n"] == len({group.prompt.tobytes() for group in groups})


def _scores(found):
    return [(row["id"], row["normalised"]) for row in found["highest"]]


def test_evaluating_again_gives_the_same_numbers_and_another_source_has_margins_of_its_own(
    evaluated, write_rows, pairs
):
    recipe, folder, evaluation = evaluated
    again = evaluate_run(recipe.folder, [])
    assert again["displacement"]["ches"]["score"]["value"] == pytest.approx(
        evaluation["displacement"]["ches"]["score"]["value"], rel=1e-5
    )
    write_rows("others.jsonl", pairs(6, "she"))
    evaluate_run(recipe.folder, [f"data.test={folder.path.parent / 'others.jsonl'}"])
    assert len((folder.path / "evaluation-others-margins.jsonl").read_text().splitlines()) == 6
