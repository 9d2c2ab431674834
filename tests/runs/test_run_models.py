"""What a run trains in which precision, and what it takes for its reference."""

from __future__ import annotations

import json
import re
from dataclasses import replace
from pathlib import Path

import pytest
import torch
from rich.console import Console

from exptilt.errors import ConfigError
from exptilt.losses.from_choice import build_loss
from exptilt.policies.adapters import is_adapter
from exptilt.policies.engine.inside import precision_of
from exptilt.policies.fingerprint import fingerprint
from exptilt.policies.models import load_model, load_tokenizer
from exptilt.policies.reference.references import AdapterOffReference
from exptilt.processes.world import World
from exptilt.runs.run_models import in_words, models_of, setup_of, start_model
from exptilt.runs.run_recipe import run_recipe
from exptilt.settings.load import load
from exptilt.settings.model_settings import AdapterConfig, ModelConfig
from exptilt.settings.recipe import Recipe

ALONE = World.alone()
QUIET = Console(quiet=True)


@pytest.fixture
def saved(finished: Recipe) -> str:
    """A model folder, float32."""
    return str(finished.folder / "model")


@pytest.fixture
def recipe(make_recipe, saved) -> Recipe:
    return replace(make_recipe(), model=ModelConfig(path=saved))


def setup(recipe: Recipe):
    return setup_of(recipe, build_loss(recipe.loss))


def models(recipe: Recipe):
    return models_of(recipe.model, recipe.reference, setup(recipe), load_tokenizer(recipe.model), ALONE)


def holding(recipe: Recipe) -> Recipe:
    """The recipe of a run that samples its reference while it trains, and so holds it as a model."""
    return replace(recipe, train=replace(recipe.train, eval_every=1, eval_samples=1))


def test_a_half_precision_checkpoint_is_trained_in_float32_and_saved_as_it_came(recipe, tmp_path):
    half = load_model(replace(recipe.model, dtype="bfloat16"))
    half.save_pretrained(tmp_path / "half")
    load_tokenizer(recipe.model).save_pretrained(tmp_path / "half")
    ours = replace(recipe, model=ModelConfig(path=str(tmp_path / "half")), train=replace(recipe.train, max_steps=2))
    made = models(ours)
    assert (made.policy.dtype, made.dtype) == (torch.float32, torch.bfloat16)
    assert torch.equal(made.policy.lm_head.weight, half.lm_head.weight.float())
    run_recipe(ours, QUIET, page=False)
    assert load_model(ModelConfig(path=str(ours.folder / "model"))).dtype == torch.bfloat16
    assert json.loads((ours.folder / "model" / "config.json").read_text())["dtype"] == "bfloat16"


def test_precision_is_what_device_weights_and_recipe_say(recipe):
    cases = [
        ("float32", {}, {}),
        ("bfloat16", {"precision": "bfloat16"}, {}),
        ("bfloat16", {}, {"dtype": "bfloat16"}),
    ]
    for expected, train, model in cases:
        ours = replace(recipe, train=replace(recipe.train, **train), model=replace(recipe.model, **model))
        made = models(ours)
        assert str(precision_of(made.policy)) == f"torch.{expected}"
        assert f"products in {expected}" in in_words(made, setup(ours), ALONE)
    assert "bfloat16 weights without a float32 copy lose small updates" in in_words(made, setup(ours), ALONE)


def test_whether_a_balance_loss_is_added_is_said(recipe):
    made = models(recipe)
    assert "router" not in in_words(made, setup(recipe), ALONE)
    made.policy.config.output_router_logits = True
    assert "balance loss of the experts' router, which the model's config asks for, is not" in in_words(
        made, setup(recipe), ALONE
    )
    made.policy.config.router_aux_loss_coef, made.policy.config.num_experts_per_tok = 0.001, 2
    assert "balance loss of the experts' router is added with coefficient 0.001" in in_words(made, setup(recipe), ALONE)


def test_with_a_new_adapter_the_reference_is_the_base(recipe):
    ours = replace(recipe, adapter=AdapterConfig(rank=2))
    made = models(holding(ours))
    assert isinstance(made.held, AdapterOffReference)
    assert made.held.model.model is made.policy
    assert made.weights == made.held.identity == fingerprint(load_model(recipe.model))
    assert made.weights == models(replace(ours, seed=5)).weights  # one cache for all seeds
    assert "M weights" in in_words(made, setup(ours), ALONE)
    trained = sum(p.numel() for p in made.policy.parameters() if p.requires_grad)
    assert f"{trained / 1e6:.3g} M of" in in_words(made, setup(ours), ALONE)


def test_from_an_existing_adapter_its_start_is_the_reference(recipe, saved, tmp_path, finished):
    first = replace(recipe, adapter=AdapterConfig(rank=2), train=replace(recipe.train, max_steps=3))
    folder = run_recipe(first, QUIET, page=False).folder
    assert is_adapter(folder.model)
    again = replace(first, output=str(tmp_path / "again"), adapter=AdapterConfig(path=str(folder.model)))
    made = models(holding(again))
    assert not isinstance(made.held, AdapterOffReference)
    assert made.weights != fingerprint(load_model(recipe.model))
    theirs = dict(made.held.model.named_parameters())
    assert all(torch.equal(weight, theirs[name]) for name, weight in made.policy.named_parameters())
    assert not any(weight.requires_grad for weight in theirs.values())
    start = start_model(again.model, again.adapter, None)
    assert all(torch.equal(weight, theirs[name]) for name, weight in start.named_parameters())


def test_a_lora_run_is_a_whole_run(recipe, saved):
    ours = replace(recipe, adapter=AdapterConfig(rank=2), optim=replace(recipe.optim, learning_rate=0.02))
    before = fingerprint(load_model(ModelConfig(path=saved)))
    folder = run_recipe(ours, QUIET, page=False).folder
    assert fingerprint(load_model(ModelConfig(path=saved))) == before
    lines = [json.loads(line) for line in (folder.path / "metrics.jsonl").read_text().splitlines()]
    held_out = [line["eval/loss"] for line in lines if "eval/loss" in line]
    assert held_out[0] == pytest.approx(0.693147, abs=1e-5)
    assert held_out[-1] < 0.69
    evaluation = folder.read("evaluation.json")
    assert evaluation["kl"]["value"] > 0
    assert not list((folder.path / "model").glob("model*.safetensors"))


def test_supervised_phase_and_preferences_share_one_adapter(recipe):
    ours = replace(
        load(Recipe, None, [f"output={recipe.output}", f"data.train={recipe.data.train}", "data.test_fraction=0.3",
                            f"model.path={recipe.model.path}", "sft={train: {max_steps: 2}, batch: {size: 8}}",
                            "adapter={rank: 2}", "train.max_steps=2", "batch.size=8", "evaluate.num_prompts=0"]),
    )  # fmt: skip
    folder = run_recipe(ours, QUIET, page=False).folder
    assert is_adapter(folder.path / "sft" / "model")
    assert is_adapter(folder.model)
    source = json.loads((folder.path / "metrics.jsonl").read_text().splitlines()[0])
    assert source["eval/loss"] == pytest.approx(0.693147, abs=1e-5)


@pytest.mark.parametrize("option", ["train.gradient_checkpointing=true", "parallel.kind=ddp", "parallel.kind=fsdp"])
def test_options_that_change_no_number(option, make_recipe, saved, tmp_path):
    ends = []
    for extra in ([], [option]):
        ours = make_recipe("train.max_steps=3", "evaluate.num_prompts=0", *extra)
        ours = replace(ours, model=ModelConfig(path=saved), output=str(tmp_path / f"run{len(extra)}"))
        folder = run_recipe(ours, QUIET, page=False).folder
        ends.append(load_model(ModelConfig(path=str(folder.model))).state_dict())
    for name, weight in ends[0].items():
        torch.testing.assert_close(ends[1][name], weight, rtol=0, atol=1e-6)


@pytest.mark.parametrize(
    ("keys", "said"),
    [
        (["adapter={}"], "adapter needs model.path"),
        (["model={path: m, quantize: nf4}"], "model.quantize needs adapter"),
        (["model={path: m, resize_embeddings: true}", "adapter={}"], "resize_embeddings needs all weights trained"),
        (["model={path: m, quantize: nf4}", "adapter={}", "parallel.kind=fsdp"], "cannot be sharded"),
        (["model={path: m, dtype: bfloat16}", "train.precision=float32"], "needs weights to match"),
        (["model={path: m}", "adapter={path: a}", "sft={}"], "adapter.path and sft exclude each other"),
        (["model={config: {}, quantize: nf4}"], "quantize needs path"),
    ],
)
def test_what_cannot_go_together_is_refused_at_once(keys, said):
    with pytest.raises(ConfigError, match=re.escape(said)):
        load(Recipe, None, ["output=x", "model={config: {}}", "data.train=rows.jsonl", *keys])


def test_paths_of_adapters_are_absolute(recipe, monkeypatch):
    monkeypatch.chdir(Path(recipe.model.path).parent)
    ours = replace(recipe, model=ModelConfig(path="model"), adapter=AdapterConfig(rank=2))
    ours = replace(ours, train=replace(ours.train, max_steps=1))
    folder = run_recipe(ours, QUIET, page=False).folder
    named = json.loads((folder.model / "adapter_config.json").read_text())["base_model_name_or_path"]
    assert Path(named).is_absolute()
    assert Path(named).samefile(recipe.model.path)
