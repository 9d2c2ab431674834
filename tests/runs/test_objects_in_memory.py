"""Runs from objects of a Python program: models, tokenizers and rows in memory."""

from __future__ import annotations

import copy
import json

import pytest
import torch
from datasets import Dataset
from peft import LoraConfig, PeftModel, get_peft_model
from rich.console import Console
from transformers import AutoModelForCausalLM, AutoModelForSequenceClassification, LlamaConfig, LlamaForCausalLM

from exptilt.data.read.rows_in_memory import rows_in_memory
from exptilt.errors import CheckpointError, ConfigError, ModelError
from exptilt.in_memory import holding
from exptilt.policies.fingerprint import fingerprint
from exptilt.policies.models_in_memory import model_in_memory, tokenizer_in_memory
from exptilt.policies.tokenizers import train_tokenizer
from exptilt.run_folder.file_names import CONFIG, EVALUATION, METRICS
from exptilt.runs.run_recipe import run_recipe
from exptilt.settings.load import load
from exptilt.settings.recipe import Recipe

QUIET = Console(quiet=True)
KEYS = [
    "data.test_fraction=0.3",
    "batch.size=8",
    "optim.learning_rate=1e-2",
    "train.max_steps=2",
    "evaluate={num_prompts: 2, num_samples: 1, max_new_tokens: 4}",
]


@pytest.fixture
def tokenizer(pairs):
    return train_tokenizer([row["prompt"] + row["chosen"] + row["rejected"] for row in pairs()], vocab_size=300)


def model_of(tokenizer, seed: int = 0, kind=LlamaForCausalLM, **more):
    shape = {"hidden_size": 16, "intermediate_size": 24, "num_hidden_layers": 1, "num_attention_heads": 2}
    marks = {"bos_token_id": 1, "eos_token_id": tokenizer.eos_token_id, "pad_token_id": tokenizer.pad_token_id}
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        config = LlamaConfig(vocab_size=len(tokenizer), max_position_embeddings=64, **shape, **marks, **more)
        return kind(config).eval()


def recipe_of(folder, model, tokenizer, rows, *overrides: str) -> Recipe:
    named = [f"model.path={model.name}", f"model.tokenizer={tokenizer.name}", f"data.train={rows.name}"]
    return load(Recipe, None, [f"output={folder}", *named, *KEYS, *overrides])


def files_of(folder):
    return {path.name: path.read_bytes() for path in (folder / "model").iterdir() if path.suffix == ".safetensors"}


def test_a_run_from_objects_is_the_run_from_their_files(tmp_path, tokenizer, pairs, write_rows):
    model = model_of(tokenizer)
    model.save_pretrained(tmp_path / "start")
    tokenizer.save_pretrained(tmp_path / "start")
    keys = [f"model.path={tmp_path / 'start'}", f"data.train={write_rows('rows.jsonl', pairs())}", *KEYS]
    from_files = load(Recipe, None, [f"output={tmp_path / 'files'}", *keys])
    run_recipe(from_files, QUIET, page=False)
    before = fingerprint(model)
    parts = model_in_memory(model), tokenizer_in_memory(tokenizer), rows_in_memory(pairs())
    with holding(*parts):
        run_recipe(recipe_of(tmp_path / "objects", *parts), QUIET, page=False)
    assert files_of(tmp_path / "objects") == files_of(tmp_path / "files")
    assert fingerprint(model) == before
    assert not model.training
    one, other = (json.loads((tmp_path / name / EVALUATION).read_text()) for name in ("objects", "files"))
    assert one["accuracy"] == other["accuracy"]
    assert one["kl"] == other["kl"]


def test_a_stopped_run_goes_on_by_the_same_objects_only(tmp_path, tokenizer, pairs):
    model = model_of(tokenizer)
    parts = model_in_memory(model), tokenizer_in_memory(tokenizer), rows_in_memory(pairs())
    with holding(*parts):
        recipe = recipe_of(tmp_path / "run", *parts)
        run_recipe(recipe, QUIET, page=False)
    lines = (tmp_path / "run" / METRICS).read_text()
    same = model_in_memory(copy.deepcopy(model)), tokenizer_in_memory(tokenizer), rows_in_memory(iter(pairs()))
    with holding(*same):
        assert run_recipe(recipe_of(tmp_path / "run", *same), QUIET, page=False).model is None  # nothing was left to do
    other = model_in_memory(model), tokenizer_in_memory(tokenizer), rows_in_memory(pairs(29))
    with holding(*other), pytest.raises(CheckpointError, match=r"another recipe \(different: data\.train\)"):
        run_recipe(recipe_of(tmp_path / "run", *other), QUIET, page=False)
    with pytest.raises(ConfigError, match=r"model\.path: memory:model-\w{16}: stands for an object \(model\)"):
        run_recipe(load(Recipe, tmp_path / "run" / CONFIG, ["train.max_steps=3"]), QUIET, page=False)
    assert (tmp_path / "run" / METRICS).read_text() == lines


def test_a_model_in_place_is_what_the_folder_holds(tmp_path, tokenizer, pairs):
    model = model_of(tokenizer, attention_dropout=0.1)
    before = fingerprint(model)
    parts = model_in_memory(model, in_place=True), tokenizer_in_memory(tokenizer), rows_in_memory(pairs())
    with holding(*parts):
        outcome = run_recipe(recipe_of(tmp_path / "run", *parts), QUIET, page=False, measures=False)
    assert outcome.model is model
    saved = AutoModelForCausalLM.from_pretrained(tmp_path / "run" / "model")
    assert all(torch.equal(weight, saved.state_dict()[name]) for name, weight in model.state_dict().items())
    assert fingerprint(model) != before
    ids = torch.tensor([[1, 5, 6]])
    assert model.eval().generate(ids, max_new_tokens=2, do_sample=False).shape[1] > 3
    assert torch.allclose(model(ids).logits, saved.eval()(ids).logits, atol=1e-6)


def test_a_new_adapter_on_an_object_brings_its_base(tmp_path, tokenizer, pairs):
    model = model_of(tokenizer)
    parts = model_in_memory(model), tokenizer_in_memory(tokenizer), rows_in_memory(pairs())
    with holding(*parts):
        run_recipe(recipe_of(tmp_path / "run", *parts, "adapter.rank=2"), QUIET, page=False)
    base = json.loads((tmp_path / "run" / "model" / "adapter_config.json").read_text())["base_model_name_or_path"]
    loaded = AutoModelForCausalLM.from_pretrained(base)
    assert all(torch.equal(weight, loaded.state_dict()[name]) for name, weight in model.state_dict().items())
    assert json.loads((tmp_path / "run" / EVALUATION).read_text())["num_pairs"] > 0


@pytest.mark.parametrize("changed", [False, True])
def test_a_base_is_saved_only_where_no_folder_holds_it(tmp_path, tokenizer, pairs, changed):
    model_of(tokenizer).save_pretrained(tmp_path / "start")
    model = AutoModelForCausalLM.from_pretrained(tmp_path / "start")
    if changed:
        with torch.no_grad():
            model.get_input_embeddings().weight[5] += 1
    parts = model_in_memory(model), tokenizer_in_memory(tokenizer), rows_in_memory(pairs())
    with holding(*parts):
        run_recipe(recipe_of(tmp_path / "run", *parts, "adapter.rank=2"), QUIET, page=False)
    base = json.loads((tmp_path / "run" / "model" / "adapter_config.json").read_text())["base_model_name_or_path"]
    assert base == str(tmp_path / "run" / "merged-base" if changed else tmp_path / "start")


@pytest.mark.filterwarnings("ignore:`is_gradient_checkpointing`:FutureWarning")  # peft asks transformers by an old name
@pytest.mark.parametrize("in_place", [False, True])
def test_the_adapter_of_an_object_is_trained_further(tmp_path, tokenizer, pairs, in_place):
    model_of(tokenizer).save_pretrained(tmp_path / "start")
    base = AutoModelForCausalLM.from_pretrained(tmp_path / "start")
    model = get_peft_model(base, LoraConfig(r=2, target_modules=["q_proj", "v_proj"], task_type="CAUSAL_LM"))
    held = model_in_memory(model, in_place=in_place)
    parts = held, tokenizer_in_memory(tokenizer), rows_in_memory(pairs())
    with holding(*parts):
        recipe = recipe_of(tmp_path / "run", *parts, f"adapter.path={held.name}")
        run_recipe(recipe, QUIET, page=False, measures=not in_place)
    saved = PeftModel.from_pretrained(
        AutoModelForCausalLM.from_pretrained(tmp_path / "start"), tmp_path / "run" / "model"
    )
    moved = [name for name, weight in saved.state_dict().items() if not torch.equal(weight, model.state_dict()[name])]
    b_moved = [name for name, weight in model.state_dict().items() if "lora_B" in name and weight.abs().sum() > 0]
    assert (moved == []) is in_place
    assert bool(b_moved) is in_place


def test_the_reference_may_be_an_object(tmp_path, tokenizer, pairs):
    model, other = model_of(tokenizer), model_of(tokenizer, seed=1)
    held = model_in_memory(other, what="reference")
    parts = model_in_memory(model), tokenizer_in_memory(tokenizer), rows_in_memory(pairs())
    before = fingerprint(other)
    with holding(held, *parts):
        recipe = recipe_of(tmp_path / "run", *parts, f"reference.model={held.name}")
        run_recipe(recipe, QUIET, page=False)
    reference = json.loads((tmp_path / "run" / "run.json").read_text())["reference"]
    assert reference["source"] == held.name
    assert fingerprint(other) == before
    assert all(parameter.requires_grad for parameter in other.parameters())


def test_rows_of_all_kinds_are_the_same_rows(tmp_path, tokenizer, pairs):
    import pandas
    import pyarrow

    rows = pairs()
    kinds = [
        rows,
        iter(rows),
        tuple(rows),
        Dataset.from_list(rows),
        pandas.DataFrame(rows),
        pyarrow.Table.from_pylist(rows),
    ]
    assert len({rows_in_memory(kind).name for kind in kinds}) == 1


def test_reward_models_and_heads(tmp_path, tokenizer, pairs):
    scoring = model_of(tokenizer, kind=AutoModelForSequenceClassification.from_config, num_labels=1)
    parts = model_in_memory(scoring), tokenizer_in_memory(tokenizer), rows_in_memory(pairs())
    with holding(*parts):
        run_recipe(recipe_of(tmp_path / "run", *parts, "loss=bradley_terry"), QUIET, page=False)
    assert AutoModelForSequenceClassification.from_pretrained(tmp_path / "run" / "model").config.num_labels == 1
    writing = model_in_memory(model_of(tokenizer))
    recipe = recipe_of(tmp_path / "other", writing, *parts[1:], "loss=bradley_terry")
    with holding(writing, *parts), pytest.raises(ModelError, match="LlamaForCausalLM has no score"):
        run_recipe(recipe, QUIET, page=False)
    with holding(*parts), pytest.raises(ModelError, match="no head that writes text"):
        run_recipe(recipe_of(tmp_path / "third", *parts), QUIET, page=False)
