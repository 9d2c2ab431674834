"""A reward model as a run: what its folder holds, where it starts, what it refuses."""

from __future__ import annotations

import json
import math
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from peft import AutoPeftModelForSequenceClassification, PeftConfig
from rich.console import Console
from transformers import AutoModelForSequenceClassification, AutoTokenizer

from exptilt.errors import ConfigError, ModelError
from exptilt.planning.devices import Fleet, parse_fleet
from exptilt.planning.planner import Planner
from exptilt.policies.models import load_model
from exptilt.policies.saving import save_model
from exptilt.policies.tokenizers import train_tokenizer
from exptilt.preferences import Answer
from exptilt.reports.tables.evaluation_table import print_summary
from exptilt.rewards.model_reward import ModelReward
from exptilt.run_folder.evaluation_record import Evaluation
from exptilt.run_folder.folder import RunFolder
from exptilt.runs.run_recipe import run_recipe
from exptilt.settings.grid_settings import GridRecipe
from exptilt.settings.load import dump, load
from exptilt.settings.model_settings import ModelConfig, SmallModel
from exptilt.settings.recipe import Recipe
from exptilt.settings.reward_settings import RewardModelConfig
from exptilt.studies.tasks.own_task import rewarding
from exptilt.verbs.doctor import doctor
from exptilt.verbs.evaluate import evaluate
from exptilt.verbs.export import export

WORDS = ("red", "blue", "green", "good", "bad", "tall", "short", "wet", "dry", "old")
QUIET = Console(quiet=True)


def pair_rows(count: int = 60) -> list[dict[str, Any]]:
    return [
        {
            "prompt": f"Question {number}: is it {WORDS[number % 10]}?",
            "chosen": f" Yes, it is {WORDS[number % 10]}.",
            "rejected": f" No, never {WORDS[(number + 3) % 10]} at all.",
        }
        for number in range(count)
    ]


def ranking_rows(count: int = 60) -> list[dict[str, Any]]:
    return [
        {
            "prompt": f"Question {number}: is it {WORDS[number % 10]}?",
            "completions": [" perhaps", " yes", " no way", " no"],
            "ranks": [2, 1, 3, 3],
        }
        for number in range(count)
    ]


@pytest.fixture(scope="module")
def tokenizer() -> Any:
    texts = [row[key] for row in pair_rows() for key in ("prompt", "chosen", "rejected")]
    return train_tokenizer(texts, 300)


@pytest.fixture(scope="module")
def base(tokenizer: Any, tmp_path_factory: pytest.TempPathFactory) -> Path:
    small = SmallModel(hidden_size=16, num_layers=1, num_heads=2, max_positions=64, initializer_range=0.1)
    folder = tmp_path_factory.mktemp("start") / "base"
    save_model(load_model(ModelConfig(config=small), tokenizer), tokenizer, folder)
    return folder


@pytest.fixture
def recipe_of(tmp_path: Path, base: Path, write_rows: Any) -> Any:
    """`recipe_of("key=value", ..., rows=...)`: 24 steps of a reward model on sixty rows, 17 of them held out."""

    def make(*overrides: str, rows: Any = None, name: str = "run") -> Recipe:
        path = write_rows(f"{name}.jsonl", pair_rows() if rows is None else rows)
        keys = [
            f"output={tmp_path / name}", f"model.path={base}", f"data.train={path}", "data.test_fraction=0.3",
            "loss=bradley_terry", "batch.size=8", "optim.learning_rate=1e-2", "train.epochs=4", "train.eval_every=6",
        ]  # fmt: skip
        return load(Recipe, None, [*keys, *overrides])

    return make


def lines_of(recipe: Recipe) -> list[dict[str, float]]:
    return [json.loads(line) for line in (recipe.folder / "metrics.jsonl").read_text().splitlines()]


def scores_by_hand(model: Any, tokenizer: Any, rows: list[tuple[str, str]]) -> list[float]:
    """Each text by itself through the model's own forward."""
    scores = []
    for prompt, completion in rows:
        ids = tokenizer(prompt)["input_ids"] + tokenizer(completion, add_special_tokens=False)["input_ids"]
        with torch.no_grad():
            scores.append(float(model(input_ids=torch.tensor([[*ids, tokenizer.eos_token_id]])).logits[0, 0]))
    return scores


def test_the_model_is_a_plain_folder_with_the_scores_that_were_measured(recipe_of):
    recipe = recipe_of()
    run_recipe(recipe, QUIET)
    model = AutoModelForSequenceClassification.from_pretrained(recipe.folder / "model").eval()
    tokenizer = AutoTokenizer.from_pretrained(recipe.folder / "model")
    assert type(model).__name__ == "LlamaForSequenceClassification"
    assert (model.config.num_labels, model.config.pad_token_id) == (1, tokenizer.pad_token_id)
    rows = {row["prompt"]: row for row in pair_rows()}
    answers = [Answer(prompt=prompt, text=row["chosen"]) for prompt, row in rows.items()]
    reward = ModelReward.load(RewardModelConfig(path=str(recipe.folder)))
    by_hand = scores_by_hand(model, tokenizer, [(one.prompt, one.text) for one in answers])
    np.testing.assert_allclose(reward(answers), by_hand, atol=1e-5)
    margins = [
        first - second
        for row in rows.values()
        for first, second in [
            scores_by_hand(model, tokenizer, [(row["prompt"], row[side]) for side in ("chosen", "rejected")])
        ]
    ]
    measured = [
        json.loads(line)["score"] for line in (recipe.folder / "evaluation-margins.jsonl").read_text().splitlines()
    ]
    assert len(measured) == RunFolder(recipe.folder).read("evaluation.json")["num_pairs"] > 10
    assert all(min(abs(one - other) for other in margins) < 1e-5 for one in measured)
    evaluation = RunFolder(recipe.folder).record(Evaluation, "evaluation.json")
    right = np.mean([(np.sign(one) + 1) / 2 for one in measured])
    assert evaluation.accuracy["reward_model"]["score"].value == pytest.approx(right)
    assert evaluation.log_loss.value == pytest.approx(
        np.mean([math.log1p(math.exp(-one)) for one in measured]), abs=1e-6
    )
    last = next(line for line in reversed(lines_of(recipe)) if "eval/loss" in line)
    assert (last["eval/accuracy"], last["eval/margin"]) == pytest.approx((right, np.mean(measured)), abs=1e-5)
    assert last["eval/loss"] == pytest.approx(evaluation.log_loss.value, abs=1e-5)
    assert evaluation.kl is None
    assert not (recipe.folder / "samples.jsonl").exists()


def test_the_start_is_the_one_that_everybody_draws_with_the_seed(recipe_of, base):
    """TRL seeds torch and loads; so does this, and the language model's weights are untouched."""
    recipe = recipe_of("train.max_steps=1", "optim.learning_rate=1e-12", "seed=5")
    run_recipe(recipe, QUIET, page=False)
    torch.manual_seed(5)
    start = AutoModelForSequenceClassification.from_pretrained(base, num_labels=1)
    saved = AutoModelForSequenceClassification.from_pretrained(recipe.folder / "model")
    for (name, one), other in zip(saved.named_parameters(), start.parameters(), strict=True):
        torch.testing.assert_close(one, other, atol=1e-9, rtol=0, msg=name)
    assert float(saved.score.weight.detach().std()) == pytest.approx(0.1, rel=0.6)  # the model's own initializer_range


def test_rankings_train_a_reward_model_and_ties_are_in_no_accuracy(recipe_of):
    recipe = recipe_of("loss=plackett_luce_reward", rows=ranking_rows())
    run_recipe(recipe, QUIET, page=False)
    evaluation = RunFolder(recipe.folder).record(Evaluation, "evaluation.json")
    rows = len((recipe.folder / "evaluation-margins.jsonl").read_text().splitlines()) // 5
    assert (evaluation.num_pairs, evaluation.num_ties) == (5 * rows, rows)  # of six pairs of four, one is a tie
    assert evaluation.num_prompts == rows > 10
    assert evaluation.accuracy["reward_model"]["score"].value > 0.95
    line = lines_of(recipe)[-1]
    assert {
        "train/accuracy",
        "train/margin",
        "train/mean_reward",
        "train/spread",
        "train/rewards/chosen",
    } <= line.keys()
    assert not any(name.startswith(("train/logps", "train/rewards/accuracies")) for name in line)


def test_pairs_and_rankings_of_two_are_one_objective(recipe_of):
    """Plackett-Luce of two completions is Bradley-Terry, so both runs end at the same weights."""
    pairs = recipe_of(name="pairs")
    lists = recipe_of("loss=plackett_luce_reward", f"data.train={pairs.data.train}", name="lists")
    losses = []
    for recipe in (pairs, lists):
        run_recipe(recipe, QUIET, page=False)
        losses.append([line["train/loss"] for line in lines_of(recipe) if "train/loss" in line])
    assert losses[0] == pytest.approx(losses[1], abs=1e-5)


@pytest.mark.filterwarnings("ignore::FutureWarning")  # peft asks transformers by an old name
@pytest.mark.parametrize("stacked", [False, True], ids=["on a model", "on an adapter of a language model"])
def test_an_adapter_is_one_that_peft_loads_and_merging_keeps_its_scores(recipe_of, base, tmp_path, stacked):
    start = base
    if stacked:
        policy = recipe_of("loss=dpo", "adapter.rank=2", "evaluate.num_prompts=0", "train.max_steps=3", name="policy")
        run_recipe(policy, QUIET, page=False)
        start = policy.folder / "model"
    recipe = recipe_of(f"model.path={start}", "adapter.rank=4", "adapter.modules_to_save=[score]")
    run_recipe(recipe, QUIET, page=False)
    folder = recipe.folder / "model"
    settings = PeftConfig.from_pretrained(folder)
    assert (settings.task_type, "score" in settings.modules_to_save) == ("SEQ_CLS", True)
    assert Path(settings.base_model_name_or_path) == base
    torch.manual_seed(99)  # whatever score the base gets, the adapter brings the trained one
    loaded = AutoPeftModelForSequenceClassification.from_pretrained(folder, num_labels=1).eval()
    tokenizer = AutoTokenizer.from_pretrained(folder)
    rows = [(row["prompt"], row[side]) for row in pair_rows(12) for side in ("chosen", "rejected")]
    expected = scores_by_hand(loaded, tokenizer, rows)
    reward = ModelReward.load(RewardModelConfig(path=str(folder)))
    scores = reward([Answer(prompt=prompt, text=text) for prompt, text in rows])
    np.testing.assert_allclose(scores, expected, atol=1e-5)
    assert np.ptp(scores) > 0.5
    merged = export(recipe.folder, merge=True)
    plain = AutoModelForSequenceClassification.from_pretrained(merged).eval()
    assert (plain.config.num_labels, plain.config.pad_token_id) == (1, tokenizer.pad_token_id)
    np.testing.assert_allclose(scores_by_hand(plain, tokenizer, rows), expected, atol=1e-4)


def test_a_reward_model_goes_on_from_a_reward_model(recipe_of):
    """From the whole model, from its adapter merged, and with the adapter itself; each starts with the scores it ended with."""
    first = recipe_of("adapter.rank=2", name="first")
    run_recipe(first, QUIET, page=False)
    before = [line for line in lines_of(first) if "eval/loss" in line][-1]["eval/loss"]
    for name, keys in {
        "merged": (f"model.path={first.folder / 'model'}",),
        "goes on": (f"adapter.path={first.folder / 'model'}",),
        "another beside it": (f"model.path={first.folder / 'model'}", "adapter.rank=3"),
    }.items():
        again = recipe_of(
            *keys, "train.max_steps=2", "optim.learning_rate=1e-3", f"data.train={first.data.train}", name=name
        )
        run_recipe(again, QUIET, page=False)
        losses = [line["eval/loss"] for line in lines_of(again) if "eval/loss" in line]
        assert losses[0] == pytest.approx(before, abs=1e-5), name
        assert losses[-1] != losses[0]


def test_best_and_stop_if_read_its_metrics(recipe_of):
    recipe = recipe_of('train.best="max eval/accuracy"', "train.patience=1")
    run_recipe(recipe, QUIET, page=False)
    assert RunFolder(recipe.folder).run.kept.metric == "eval/accuracy"
    assert (recipe.folder / "model" / "model.safetensors").exists()


BAD_KEYS = {
    "reference.model=other": "reference belongs to policies",
    "sft={}": "sft belongs to policies",
    "train.eval_samples=3": "train.eval_samples belongs to policies",
    "data.drop_highest_ches=0.1": "data.drop_highest_ches belongs to policies",
    "reference.move_every=5": "reference belongs to policies",
}


@pytest.mark.parametrize("key", BAD_KEYS)
def test_keys_of_policies_are_refused(recipe_of, key):
    with pytest.raises(ConfigError, match=rf"{BAD_KEYS[key]}, and loss bradley_terry trains a reward model"):
        recipe_of(key)


def test_models_that_are_no_start_are_one_line(recipe_of, base, tmp_path):
    two = AutoModelForSequenceClassification.from_pretrained(base, num_labels=2)
    two.save_pretrained(tmp_path / "two")
    AutoTokenizer.from_pretrained(base).save_pretrained(tmp_path / "two")
    with pytest.raises(ModelError, match=r"two: has 2 labels; a reward model has one"):
        run_recipe(recipe_of(f"model.path={tmp_path / 'two'}"), QUIET, page=False)
    one = AutoModelForSequenceClassification.from_pretrained(base, num_labels=1)
    lost = {name: weight for name, weight in one.state_dict().items() if name != "score.weight"}
    one.save_pretrained(tmp_path / "lost", state_dict=lost)
    AutoTokenizer.from_pretrained(base).save_pretrained(tmp_path / "lost")
    with pytest.raises(ModelError, match=r"lost: the folder lacks 1 weight, which would start random \(first: score"):
        run_recipe(recipe_of(f"model.path={tmp_path / 'lost'}", name="of lost"), QUIET, page=False)
    policy = recipe_of("loss=dpo", "adapter.rank=2", "evaluate.num_prompts=0", "train.max_steps=1", name="policy")
    run_recipe(policy, QUIET, page=False)
    adapter = policy.folder / "model"
    with pytest.raises(
        ModelError, match=r"is the adapter of a language model and has no score to go on with; name it as model.path"
    ):
        run_recipe(recipe_of(f"adapter.path={adapter}", name="on"), QUIET, page=False)
    with pytest.raises(ModelError, match="trained reward model"):
        ModelReward.load(RewardModelConfig(path=str(adapter)))
    scored = recipe_of("adapter.rank=2", "train.max_steps=1", name="scored")
    run_recipe(scored, QUIET, page=False)
    with pytest.raises(ModelError, match=r"is the adapter of a reward model \(task SEQ_CLS\), not of a language model"):
        run_recipe(recipe_of("loss=dpo", f"model.path={scored.folder / 'model'}", name="dpo"), QUIET, page=False)


def test_evaluate_measures_a_run_and_any_reward_model(recipe_of, base, tmp_path, write_rows, capsys):
    recipe = recipe_of()
    run_recipe(recipe, QUIET)
    page = (recipe.folder / "report.html").read_text()
    assert "This reward model ranks" in page
    assert "Is it more than length?" in page
    assert 'id="score-histogram' in page or "Scores on held-out completions" in page
    assert "the policy" not in page.split("<main>")[0]
    print_summary(RunFolder(recipe.folder))
    summary = capsys.readouterr().out
    assert "accuracy reward model, score" in summary
    assert "log loss of a pair" in summary
    during = RunFolder(recipe.folder).read("evaluation.json")
    again = evaluate(str(recipe.folder), [])
    assert again["accuracy"] == during["accuracy"]
    assert again["log_loss"] == during["log_loss"]
    other = evaluate(
        str(recipe.folder / "model"),
        [f"data.train={write_rows('other.jsonl', pair_rows(20))}"],
        output=tmp_path / "out",
    )
    assert other["num_pairs"] == 20
    assert "accuracy reward model, score" in capsys.readouterr().out
    with pytest.raises(ModelError, match=r"not a complete trained reward model"):
        evaluate(str(base), [f"data.train={recipe.data.train}", "loss=bradley_terry"], output=tmp_path / "none")


def test_the_card_is_a_reward_models(recipe_of):
    recipe = recipe_of("adapter.rank=2", "train.max_steps=2")
    run_recipe(recipe, QUIET, page=False)
    card = (recipe.folder / "model" / "README.md").read_text()
    for part in ("pipeline_tag: text-classification", "- reward-model", "A reward model, trained from", "accuracy of scores",
                 "AutoPeftModelForSequenceClassification.from_pretrained"):  # fmt: skip
        assert part in card
    assert "AutoModelForCausalLM" not in card


def test_a_plan_counts_one_score_and_no_samples(recipe_of):
    recipe = recipe_of()
    planner = Planner(recipe, Fleet(1, parse_fleet("1xH100-80GB").device, here=False))
    plan = planner.plan()
    assert (plan.size.architecture, plan.size.head, plan.size.vocabulary) == ("LlamaForSequenceClassification", 16, 1)
    model = AutoModelForSequenceClassification.from_pretrained(recipe.model.path, num_labels=1)
    assert plan.size.total == sum(weight.numel() for weight in model.parameters())
    assert set(plan.phases[0].seconds) == {"training", "held-out loss"}


def test_large_margins_are_told_and_scaled(recipe_of):
    rows = [row | {"score_chosen": 9, "score_rejected": 1} for row in pair_rows()]
    recipe = recipe_of("train.max_steps=1", rows=rows)
    run_recipe(recipe, QUIET, page=False)
    findings = RunFolder(recipe.folder).read("data.json")["findings"]
    assert "are 8 on average" in next(one["message"] for one in findings if one["code"] == "large_margin")
    losses = [line["eval/loss"] for line in lines_of(recipe) if "eval/loss" in line]
    assert losses[0] == pytest.approx(8, abs=0.5)  # -log sigmoid(0 - 8)
    quiet = recipe_of("train.max_steps=1", "loss.margin_scale=0", rows=rows, name="quiet")
    run_recipe(quiet, QUIET, page=False)
    findings = RunFolder(quiet.folder).read("data.json")["findings"]
    assert "large_margin" not in {one["code"] for one in findings}


def test_a_run_is_the_proxy_of_a_study(recipe_of):
    recipe = recipe_of()
    run_recipe(recipe, QUIET, page=False)
    reward = rewarding(str(recipe.folder))
    row = pair_rows(1)[0]
    chosen, rejected = reward([row["prompt"]] * 2, [row["chosen"], row["rejected"]])
    assert chosen > rejected + 1


def test_a_study_trains_no_reward_model():
    with pytest.raises(ConfigError, match="a study compares policies, and bradley_terry trains a reward model"):
        load(GridRecipe, None, ["output=study", "task.name=world", "methods=[{loss: bradley_terry}]"])


def test_the_doctor_has_no_reference_to_check(recipe_of, tmp_path):
    path = tmp_path / "recipe.yaml"
    path.write_text(dump(recipe_of()))
    with pytest.raises(ConfigError, match="a reward model has none"):
        doctor(str(path), [], None, False, 0, reference_check=True)
