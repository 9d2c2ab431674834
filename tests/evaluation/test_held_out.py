"""What a finished run says of displacement and of every pair."""

from __future__ import annotations

import json
import os
from collections import Counter
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from exptilt.data.prepared import prepare
from exptilt.evaluation.held_out import Wanted, measure_ches, measure_policy, measure_sections
from exptilt.evaluation.held_out_samples import measure_samples
from exptilt.evaluation.intervals import Resampling
from exptilt.losses.dpo import DPO
from exptilt.losses.from_choice import build_loss
from exptilt.policies.engine.self_check import packable
from exptilt.policies.models import load_model, load_tokenizer
from exptilt.policies.reference.references import table_reference
from exptilt.policies.scoring import score_all
from exptilt.policies.tokenizers import train_word_tokenizer
from exptilt.run_folder.evaluation_record import ChesSummary
from exptilt.run_folder.folder import RunFolder
from exptilt.sampling.generate import sample, samples_as_groups
from exptilt.sampling.sampling_law import SamplingLaw
from exptilt.settings.data_settings import DataConfig
from exptilt.settings.evaluation_settings import EvaluateConfig
from exptilt.settings.model_settings import ModelConfig, SmallModel
from exptilt.types import LogProbs
from exptilt.verbs.evaluate import evaluate_run


@pytest.fixture
def evaluated(finished):
    folder = RunFolder(finished.folder)
    return finished, folder, folder.read("evaluation.json")


def held_out(recipe):
    tokenizer = load_tokenizer(ModelConfig(path=str(recipe.folder / "model")))
    return prepare(recipe.data, tokenizer, "pair", 64).test


def test_displacement_adds_up_with_its_forced_part(evaluated):
    _, _, evaluation = evaluated
    entries = evaluation["displacement"].items()
    moved = {name: one["value"] for name, one in entries if isinstance(one, dict) and "value" in one}
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
    assert trained.score.value != found["score"]["value"]
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


def test_the_slope_on_length_is_the_least_squares_line_of_the_implicit_reward(evaluated):
    recipe, folder, evaluation = evaluated
    groups = held_out(recipe)
    policy, start = (load_model(ModelConfig(path=str(path))) for path in (folder.model, folder.path / "sft" / "model"))
    sums = [np.concatenate([one.sum().numpy() for one in score_all(model, groups)]) for model in (policy, start)]
    lengths = [part.length for group in groups for part in group.completions]
    slope, _ = np.polyfit(lengths, recipe.loss.beta * (sums[0] - sums[1]), 1)
    found = evaluation["reward_on_length"]
    assert found["data"]["slope"]["value"] == pytest.approx(slope, abs=1e-6)
    assert 0 <= found["data"]["r_squared"]["value"] <= 1
    assert evaluation["length_difference"]["value"] == pytest.approx(
        np.mean([group.completions[0].length - group.completions[1].length for group in groups])
    )
    lengths = evaluation["lengths"]
    assert evaluation["length_change"]["value"] == pytest.approx(
        lengths["policy_samples"]["value"] - lengths["reference_samples"]["value"]
    )


def test_gainers_are_fresh_samples_with_their_log_ratio_the_highest_first(evaluated):
    recipe, folder, _ = evaluated
    tokenizer = load_tokenizer(ModelConfig(path=str(folder.model)))
    policy, start = (load_model(ModelConfig(path=str(path))) for path in (folder.model, folder.path / "sft" / "model"))
    settings = EvaluateConfig(num_prompts=3, num_samples=4, max_new_tokens=6)
    found = measure_samples(policy, start, tokenizer, held_out(recipe), settings, seed=1, beta=0.5)
    values = [row.log_ratio for row in found.gainers]
    assert values == sorted(values, reverse=True)
    assert len(values) == 5
    drawn = sample(
        policy, tokenizer, [group.prompt for group in held_out(recipe)[:3]], num_samples=4,
        law=SamplingLaw(max_new_tokens=6), seed=1,
    )  # fmt: skip
    groups = samples_as_groups(drawn)
    ratio = [LogProbs.cat(score_all(model, groups)).sum() for model in (policy, start)]
    ratio = (ratio[0] - ratio[1]).tolist()
    assert values[0] == pytest.approx(max(ratio), abs=1e-4)
    assert found.gainers[0].completion == drawn[int(np.argmax(ratio))].text(tokenizer)
    lengths = [len(one.ids) for one in drawn]
    if np.ptp(lengths):
        slope, _ = np.polyfit(lengths, 0.5 * np.array(ratio), 1)
        assert found.evaluation.reward_on_length["samples"].slope.value == pytest.approx(slope, abs=1e-5)
    else:
        assert found.evaluation.reward_on_length["samples"] is None


def test_without_a_reference_only_what_needs_none_is_measured(evaluated):
    recipe, folder, _ = evaluated
    where = ModelConfig(path=str(folder.model))
    tokenizer = load_tokenizer(where)
    found = measure_policy(
        load_model(where),
        None,
        tokenizer,
        held_out(recipe),
        None,
        Wanted.of(build_loss(recipe.loss), recipe.evaluate, 4096, 0),
    )
    evaluation = found.evaluation.as_dict()
    assert list(evaluation["accuracy"]) == ["without_reference"]
    assert not {"kl", "calibration", "displacement", "margins", "reward_on_length"} & evaluation.keys()
    assert set(evaluation["lengths"]) == {"chosen", "rejected", "policy_samples"}
    assert {row.log_ratio for row in found.margins} == {None}
    assert {row.reference for row in found.samples} == {None}


def test_sections_are_weighted_as_the_recipe_says_and_else_as_the_benchmark(evaluated):
    recipe, folder, _ = evaluated
    groups = held_out(recipe)
    logps = LogProbs.cat(score_all(load_model(ModelConfig(path=str(folder.model))), groups))
    wins = (logps.sum()[::2] > logps.sum()[1::2]).double().numpy()
    resampling, half = Resampling(num_resamples=100), len(groups) // 2
    assert measure_sections(logps, None, groups, {}, resampling) is None
    named = [replace(group, section="easy" if at < half else "hard") for at, group in enumerate(groups)]
    named[-1] = replace(named[-1], section=None)
    easy, hard = wins[:half].mean(), wins[half:-1].mean()
    plain = measure_sections(logps, None, named, {}, resampling).as_dict()
    assert {name: one["value"] for name, one in plain["sections"].items()} == pytest.approx(
        {"easy": easy, "hard": hard}
    )
    assert plain["overall"]["value"] == pytest.approx((easy + hard) / 2)
    assert (plain["num_pairs"], plain["num_without_label"]) == (len(groups) - 1, 1)
    weighed = measure_sections(logps, None, named, {"all": {"easy": 3.0, "hard": 1.0}}, resampling).as_dict()
    assert weighed["overall"]["value"] == pytest.approx((3 * easy + hard) / 4)
    bench = [replace(group, section="hep-go" if at < half else "math-prm") for at, group in enumerate(groups)]
    found = measure_sections(logps, None, bench, {}, resampling).as_dict()
    assert list(found["sections"]) == ["Reasoning"]
    assert found["sections"]["Reasoning"]["value"] == pytest.approx((164 * easy + 984 * wins[half:].mean()) / 1148)
    many = [replace(groups[at % len(groups)], section=str(at)) for at in range(101)]
    logps = LogProbs.cat(score_all(load_model(ModelConfig(path=str(folder.model))), many))
    assert "101 different labels" in measure_sections(logps, None, many, {}, resampling).not_measured


def test_one_pass_for_each_model_scores_a_thousand_real_pairs_with_and_without_reference(tmp_path, monkeypatch):
    """What is fed is every prompt once and every completion once, to each model."""
    folder = Path(os.environ.get("EXPTILT_DATA", "../shared/data")) / "hh_rlhf" / "harmless-base.test.jsonl.gz"
    if not folder.exists():
        pytest.skip(f"no real data at {folder}; set EXPTILT_DATA")
    tokenizer = train_word_tokenizer(["a b c"])
    data = DataConfig(
        train=str(folder), on_empty="drop", on_identical="drop", on_duplicate="drop", on_conflict="drop",
        max_tokens=200, on_too_long="trim_prompt_start",
    )  # fmt: skip
    groups = prepare(data, tokenizer, "pair").train[:1000]
    assert len(groups) == 1000
    size = SmallModel(hidden_size=8, num_layers=1, num_heads=1, max_positions=512)
    policy, start = (load_model(ModelConfig(config=size), tokenizer, seed=seed) for seed in (0, 1))
    monkeypatch.setattr("exptilt.policies.engine.packing.FEW_LENGTHS", 1)  # nothing is filled up
    fed = Counter()

    def counted(module, args, kwargs):
        ids = kwargs.get("input_ids", args[0] if args else None)
        fed[id(module)] += ids.numel()

    for model in (policy, start):
        packable(model)  # the self-check before a model's first use is not part of a pass
        model.base_model.register_forward_pre_hook(counted, with_kwargs=True)
    settings = EvaluateConfig(num_prompts=0)
    table = table_reference(start, groups)
    monkeypatch.setattr(
        "exptilt.evaluation.held_out.measure_ches", lambda *given: ChesSummary()
    )  # a pass over 512 pairs of its own
    found = measure_policy(
        policy, lambda: start, tokenizer, groups, table, Wanted.of(DPO(), settings, 4096, 0)
    ).evaluation
    whole = sum(group.num_tokens for group in groups) - 2 * len(groups)  # nothing is asked of a completion's last token
    assert fed == {id(policy.base_model): whole, id(start.base_model): whole}
    assert found.num_pairs == 1000
    assert {form for family in found.accuracy.values() for form in family} == {"sum", "mean", "shared_length"}
    assert list(found.accuracy) == ["with_reference", "without_reference"]
