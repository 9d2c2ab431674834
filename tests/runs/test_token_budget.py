import io
from dataclasses import replace

import numpy as np
import pytest
import torch
from rich.console import Console
from safetensors.torch import load_file
from transformers import LlamaConfig, LlamaForCausalLM

from exptilt.data.groups import Completion, Group
from exptilt.errors import TrainingError
from exptilt.labels import Desirable
from exptilt.losses import AOT, DPO, KTO, SFT
from exptilt.policies.policy import Policy
from exptilt.runs import token_budget as module
from exptilt.runs.run_recipe import run_recipe
from exptilt.runs.token_budget import Budget, budget_from, longest_until, optimizer_bytes, tokens_to_fit
from exptilt.settings.data_settings import BatchConfig
from exptilt.settings.training_settings import OptimConfig
from exptilt.training.objective import Objective


def group(number, prompt, *lengths):
    draw = np.random.default_rng(number)
    sides = tuple(
        Completion(draw.integers(0, 50, length, dtype=np.int32), np.ones(length, np.bool_)) for length in lengths
    )
    return Group(id=str(number), prompt=draw.integers(0, 50, prompt, dtype=np.int32), completions=sides)


@pytest.fixture
def model():
    torch.manual_seed(0)
    shape = {"hidden_size": 16, "intermediate_size": 32, "num_hidden_layers": 2, "num_attention_heads": 2}
    return LlamaForCausalLM(LlamaConfig(vocab_size=50, attention_dropout=0.1, **shape)).eval()


def test_two_points_give_the_line_and_the_line_the_budget():
    found = budget_from([(1000, 30_000_000), (4000, 90_000_000)], free=1_000_000_000, most=100_000)
    assert (found.bytes_per_token, found.fixed_bytes, found.limit) == (20_000, 10_000_000, "memory")
    assert found.tokens == (850_000_000 - 10_000_000) // 20_000 // 256 * 256
    assert 10_000_000 + 20_000 * found.tokens <= 0.85 * 1e9 < 10_000_000 + 20_000 * (found.tokens + 256)


def test_what_is_fastest_bounds_what_fits():
    found = budget_from([(1000, 30_000_000), (4000, 90_000_000)], free=10**12, most=8192)
    assert (found.tokens, found.limit) == (8192, "speed")
    assert "not be faster" in found.in_words()


def test_one_point_is_read_with_caution_and_no_room_still_gives_a_budget():
    assert budget_from([(1000, 30_000_000)], free=200_000_000, most=8192).tokens == 5632  # 30,000 bytes a token
    assert budget_from([(1000, 30_000_000)], free=1000, most=8192).tokens == 256
    noise = budget_from([(1000, 30_000_000), (4000, 20_000_000)], free=10**9, most=8192)  # memory seemed to shrink
    assert noise.tokens == 8192


def test_the_longest_rows_are_probed():
    rows = [group(n, n, 1, 1) for n in range(1, 9)]
    assert [one.num_tokens for one in longest_until(rows, 18)] == [10, 9]
    assert len(longest_until(rows, 10_000)) == 8


def test_the_optimizers_place_is_kept_free(model):
    weights = sum(weight.numel() for weight in model.parameters())
    assert optimizer_bytes(model, OptimConfig()) == 8 * weights
    assert optimizer_bytes(model, OptimConfig(name="rmsprop")) == 4 * weights


@pytest.mark.parametrize("loss", [DPO(), AOT(), KTO(), SFT()])
def test_a_probe_leaves_everything_as_it_was(model, loss):
    rows = [group(n, 5, *((4,) if loss.kind in ("unpaired", "completion") else (4, 6))) for n in range(6)]
    if loss.kind == "unpaired":
        rows = [replace(row, label=Desirable(number % 2 == 0)) for number, row in enumerate(rows)]
    objective = Objective(loss)
    first = next(model.parameters())
    first.grad = torch.ones_like(first)
    before = {name: weight.detach().clone() for name, weight in model.named_parameters()}
    state, random = dict(objective.state), torch.get_rng_state()
    found = tokens_to_fit(Policy(model, loss.byproducts), objective, objective.prepare(rows), OptimConfig())
    assert isinstance(found, Budget)
    assert 256 <= found.tokens <= module.MOST_TOKENS["cpu"]
    assert torch.equal(torch.get_rng_state(), random)
    assert objective.state == state
    assert objective.upcoming == state
    assert not model.training
    assert all(torch.equal(weight, before[name]) for name, weight in model.named_parameters())
    assert [weight.grad is None for weight in model.parameters()] == [False, *[True] * (len(before) - 1)]
    assert torch.equal(first.grad, torch.ones_like(first))


def test_memory_that_runs_out_in_the_larger_probe_leaves_the_smaller_one(model, monkeypatch):
    def rise(policy, objective, groups, device):
        if sum(one.num_tokens for one in groups) > 256:
            raise torch.cuda.OutOfMemoryError("out of memory")
        return 1_000_000

    monkeypatch.setattr(module, "_rise", rise)
    monkeypatch.setattr(module, "free_memory", lambda device: 10_000_000)
    rows = [group(n, 8, 4, 4) for n in range(64)]
    found = tokens_to_fit(Policy(model), Objective(DPO()), rows, OptimConfig())
    assert found.bytes_per_token == 3906  # 1,000,000 bytes for the 256 tokens of 16 rows
    assert found.limit == "memory"


def test_a_row_that_does_not_fit_alone_is_named_before_step_one(model, monkeypatch):
    def rise(*_):
        raise torch.cuda.OutOfMemoryError("out of memory")

    monkeypatch.setattr(module, "_rise", rise)
    with pytest.raises(TrainingError, match=r"longest row \(7, 300 tokens\).*gradient_checkpointing=true"):
        tokens_to_fit(Policy(model), Objective(DPO()), [group(7, 200, 50, 50)], OptimConfig())


def test_a_run_finds_its_budget_says_so_and_keeps_it_for_the_resume(make_recipe, monkeypatch):
    calls = []
    probe = module.tokens_to_fit
    monkeypatch.setattr(module, "tokens_to_fit", lambda *given: calls.append(1) or probe(*given))
    shown = io.StringIO()
    recipe = make_recipe("batch.tokens=auto", "train.epochs=2", "train.save_every=2", "evaluate.num_prompts=0")
    outcome = run_recipe(recipe, Console(file=shown), page=False)
    kept = outcome.folder.read("run.json")["token_budget"]
    assert kept["device"] == "cpu"
    assert kept["tokens"] == 4096
    assert "batch.tokens: auto found 4096 tokens a micro-batch" in shown.getvalue()
    fixed = run_recipe(replace(recipe, output=f"{recipe.output}-fixed", batch=BatchConfig(size=8)), page=False)
    one, other = (load_file(run.folder.model / "model.safetensors") for run in (outcome, fixed))
    assert all(torch.equal(weight, other[name]) for name, weight in one.items())
    outcome.folder.update_manifest(status="running")
    run_recipe(recipe, Console(file=shown), page=False)
    assert len(calls) == 1
    assert "4096 tokens a micro-batch, as auto found before" in shown.getvalue()
