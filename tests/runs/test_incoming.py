"""Whole runs from models that are not plain ones."""

from __future__ import annotations

import io
import json
from dataclasses import replace

import peft
import pytest
import torch
from rich.console import Console

from exptilt.errors import ModelError, TrainingError
from exptilt.policies.adapters import as_one_line, base_of, has_adapter, with_adapter
from exptilt.policies.models import load_model, load_tokenizer
from exptilt.policies.saving import save_model
from exptilt.runs.run_recipe import run_recipe
from exptilt.settings.load import load
from exptilt.settings.model_settings import AdapterConfig, ModelConfig, ReferenceConfig
from exptilt.settings.recipe import Recipe
from exptilt.verbs.evaluate import evaluate_run

QUIET = Console(quiet=True)


@pytest.fixture
def recipe(make_recipe, finished) -> Recipe:
    made = make_recipe("train.max_steps=2", "evaluate.num_prompts=2")
    return replace(made, model=ModelConfig(path=str(finished.folder / "model")))


@pytest.fixture
def sft(recipe, tmp_path) -> str:
    """An adapter as supervised fine-tuning leaves it, far from its base."""
    model = with_adapter(load_model(recipe.model), AdapterConfig(rank=2))
    with torch.no_grad():
        for parameter in model.parameters():
            if parameter.requires_grad:
                parameter.add_(torch.randn(parameter.shape, generator=torch.Generator().manual_seed(1)), alpha=0.1)
    save_model(model, None, tmp_path / "sft-adapter")
    return str(tmp_path / "sft-adapter")


def first_loss(folder) -> float:
    return json.loads((folder.path / "metrics.jsonl").read_text().splitlines()[0])["eval/loss"]


@pytest.mark.parametrize("adapter", [AdapterConfig(rank=3), None])
def test_a_run_from_an_adapter_starts_there_and_its_result_loads(recipe, sft, adapter) -> None:
    ours = replace(recipe, model=ModelConfig(path=sft), adapter=adapter)
    folder = run_recipe(ours, QUIET, page=False).folder
    assert first_loss(folder) == pytest.approx(0.693147, abs=1e-5)
    saved = load_model(ModelConfig(path=str(folder.model)), load_tokenizer(ModelConfig(path=str(folder.model))))
    assert has_adapter(saved) == (adapter is not None)
    if adapter is not None:
        assert base_of(folder.model) == base_of(sft)
    told = folder.read("evaluation.json")
    again = evaluate_run(folder.path, [])
    assert again["accuracy"] == told["accuracy"]  # against the reference the run had, known by its identity
    # It is close to where it began (two steps), and far from the base.
    base = load_model(recipe.model)
    ids = torch.arange(5, 25)[None]
    with torch.no_grad():
        now, start, plain = (
            one(input_ids=ids).logits.log_softmax(-1) for one in (saved, load_model(ModelConfig(path=sft)), base)
        )
    assert (now - start).abs().max() < 0.3 * (now - plain).abs().max()


@pytest.fixture
def odd(recipe, tmp_path):
    """`odd(settings of peft)`: an adapter in a folder, far from its base."""

    def make(settings) -> str:
        with as_one_line("peft"):
            model = peft.get_peft_model(load_model(recipe.model), settings)
        with torch.no_grad():
            for parameter in model.parameters():
                if parameter.requires_grad:
                    parameter.add_(torch.randn(parameter.shape, generator=torch.Generator().manual_seed(1)), alpha=0.1)
        save_model(model, load_tokenizer(recipe.model), tmp_path / "odd")
        return str(tmp_path / "odd")

    return make


@pytest.mark.parametrize("phase", [[], ["sft={train: {max_steps: 2}, batch: {size: 8}}"]])
def test_what_cannot_stay_beside_a_new_adapter_is_merged_into_a_base_of_its_own(recipe, odd, phase) -> None:
    path = odd(peft.LoraConfig(task_type="CAUSAL_LM", r=2, target_modules=["q_proj"], use_dora=True))
    ours = load(Recipe, None, [f"output={recipe.output}", f"data.train={recipe.data.train}", "data.test_fraction=0.3",
                               f"model.path={path}", "adapter={rank: 2}", "train.max_steps=2", "batch.size=8",
                               "evaluate.num_prompts=0", *phase])  # fmt: skip
    text = io.StringIO()
    folder = run_recipe(ours, Console(file=text, width=1000), page=False).folder
    assert (
        "has DoRA's magnitudes, so it cannot stay beside a new one: merged into its base in float32" in text.getvalue()
    )
    assert first_loss(folder) == pytest.approx(0.693147, abs=1e-5)
    base = folder.path / "merged-base"
    assert base_of(folder.model) == str(base.resolve())
    ids = torch.arange(5, 25)[None]
    with torch.no_grad():
        merged, start = (load_model(ModelConfig(path=str(one)))(input_ids=ids).logits for one in (base, path))
        assert (merged - start).abs().max() < 1e-5
        assert has_adapter(load_model(ModelConfig(path=str(folder.model))))
    assert evaluate_run(folder.path, [])["accuracy"] == folder.read("evaluation.json")["accuracy"]


def test_a_merged_base_is_written_once(recipe, odd, monkeypatch) -> None:
    path = odd(peft.LoHaConfig(task_type="CAUSAL_LM", r=2, target_modules=["q_proj"]))
    ours = replace(recipe, model=ModelConfig(path=path), adapter=AdapterConfig(rank=2))
    stop = replace(ours, train=replace(ours.train, stop_if=("train/loss > 0",)))
    with pytest.raises(TrainingError, match="stop_if"):
        run_recipe(stop, QUIET, page=False)
    monkeypatch.setattr("exptilt.runs.merged_base.write_merged_base", None)
    folder = run_recipe(ours, QUIET, page=False).folder
    assert folder.run.status == "done"


def test_a_new_dora_adapter_starts_from_an_adapter(recipe, sft) -> None:
    ours = replace(recipe, model=ModelConfig(path=sft), adapter=AdapterConfig(rank=2, dora=True))
    folder = run_recipe(ours, QUIET, page=False).folder
    assert first_loss(folder) == pytest.approx(0.693147, abs=1e-5)
    assert has_adapter(load_model(ModelConfig(path=str(folder.model))))


def test_what_is_no_change_of_weights_is_refused_in_one_line(recipe, odd) -> None:
    path = odd(peft.PromptTuningConfig(task_type="CAUSAL_LM", num_virtual_tokens=2))
    ours = replace(recipe, model=ModelConfig(path=path), adapter=AdapterConfig(rank=2))
    with pytest.raises(ModelError, match="of the kind PROMPT_TUNING is no change of weights"):
        run_recipe(ours, QUIET, page=False)


def test_a_supervised_phase_from_an_adapter_and_preferences_share_one(recipe, sft) -> None:
    ours = load(Recipe, None, [f"output={recipe.output}", f"data.train={recipe.data.train}", "data.test_fraction=0.3",
                               f"model.path={sft}", "sft={train: {max_steps: 2}, batch: {size: 8}}",
                               "adapter={rank: 2}", "train.max_steps=2", "batch.size=8", "evaluate.num_prompts=0"])  # fmt: skip
    folder = run_recipe(ours, QUIET, page=False).folder
    assert first_loss(folder) == pytest.approx(0.693147, abs=1e-5)
    assert base_of(folder.model) == base_of(sft)


def test_a_fault_on_the_way_out_stops_the_run_before_step_1(recipe, monkeypatch) -> None:
    def loads_wrong(*_args, **_options):
        raise ModelError("the saved model would not load")

    monkeypatch.setattr("exptilt.runs.run_models.check_outgoing", loads_wrong)
    with pytest.raises(ModelError, match="would not load"):
        run_recipe(recipe, QUIET, page=False)
    assert not (recipe.folder / "metrics.jsonl").exists()


def test_how_far_another_reference_is_stands_before_step_1(recipe, tmp_path) -> None:
    other = load_model(recipe.model)
    with torch.no_grad():
        for parameter in other.parameters():
            parameter.mul_(1.5)
    other.save_pretrained(tmp_path / "other")
    load_tokenizer(recipe.model).save_pretrained(tmp_path / "other")
    text = io.StringIO()
    ours = replace(recipe, reference=ReferenceConfig(model=str(tmp_path / "other"), cache=False))
    run_recipe(ours, Console(file=text, width=400), page=False)
    line = next(line for line in text.getvalue().splitlines() if "is another model" in line)
    assert "nats a token; the loss starts at" in line
    assert "not at 0.6931" in line


@pytest.fixture
def fresh():
    """As a process is in which nobody has asked for another library's products."""
    matmul = torch.backends.mkldnn.matmul
    before, matmul.fp32_precision = matmul.fp32_precision, "none"
    yield
    matmul.fp32_precision = before


def test_a_run_leaves_the_precision_of_its_process(recipe, fresh) -> None:
    before = torch.get_float32_matmul_precision(), torch.get_rng_state()
    run_recipe(recipe, QUIET, page=False)
    assert torch.get_float32_matmul_precision() == before[0]
    assert torch.equal(torch.get_rng_state(), before[1])
