"""Two gloo processes, replicated or sharded, full or LoRA: ten steps and the reference of one process."""

from __future__ import annotations

import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from transformers import GPT2Config, GPT2LMHeadModel

sys.path.insert(0, str(Path(__file__).parents[1] / "invariants"))  # the processes find it there too

from worlds import together

from exptilt.data.batching import Batches
from exptilt.data.groups import Completion, Group
from exptilt.errors import TrainingError
from exptilt.losses import DPO
from exptilt.policies.adapters import AdapterOff, has_adapter, with_adapter
from exptilt.policies.engine.self_check import packable
from exptilt.policies.policy import Policy
from exptilt.policies.reference.scores import reference_logps
from exptilt.policies.saving import save_model
from exptilt.policies.scorer import ScorerFunction
from exptilt.policies.sharding import shard
from exptilt.processes.launch import joined
from exptilt.processes.world import World
from exptilt.settings.data_settings import BatchConfig
from exptilt.settings.model_settings import AdapterConfig
from exptilt.settings.training_settings import ParallelConfig
from exptilt.training.objective import Objective
from exptilt.training.step import accumulate
from exptilt.types import LogProbs

CASES = [(kind, lora) for kind in ("ddp", "fsdp") for lora in (False, True)]
NUM_STEPS = 10


def tiny() -> GPT2LMHeadModel:
    torch.manual_seed(0)
    rest = {"resid_pdrop": 0.0, "embd_pdrop": 0.0, "attn_pdrop": 0.0}
    return GPT2LMHeadModel(
        GPT2Config(vocab_size=23, bos_token_id=1, eos_token_id=2, n_positions=64, n_embd=8, n_layer=2, n_head=2, **rest)
    ).double()


def rows() -> list[Group]:
    rng = np.random.default_rng(3)

    def ids(most: int) -> Any:
        return rng.integers(3, 23, size=rng.integers(1, most)).astype(np.int32)

    def completion() -> Completion:
        drawn = ids(7)
        return Completion(drawn, np.ones(len(drawn), dtype=bool))

    return [Group(id=f"row {n}", prompt=ids(5), completions=(completion(), completion())) for n in range(12)]


def run(kind: str, lora: bool, world: World, folder: Path) -> dict[str, Any]:
    """Losses of ten steps, the reference's log-probabilities after them, and the weights, saved."""
    model: Any = tiny()
    if lora:
        base = folder / "base"
        if world.is_first:
            model.save_pretrained(base)
        world.wait()
        model = GPT2LMHeadModel.from_pretrained(base, dtype=torch.float64)
        model = with_adapter(model, AdapterConfig(rank=2, targets=("c_attn", "c_fc"))).double()
    groups = rows()
    assert packable(model)
    if kind == "fsdp":
        shard(model, ParallelConfig(kind="fsdp"), torch.float32)
    fixed = reference_logps(None, model, groups, max_tokens=20, weights="tiny", world=world)
    table = {group.id: part for group, part in zip(groups, fixed, strict=True)}
    optimizer = torch.optim.AdamW([p for p in model.parameters() if p.requires_grad], lr=1e-2)
    # Steps of 5, 5 and 2 rows in micro-batches of very few: some share has an empty one.
    batches = Batches(groups, BatchConfig(size=5, tokens=12), rank=world.rank, world_size=world.size)
    objective, losses = Objective(DPO(beta=0.5)), []
    for step in range(NUM_STEPS):
        optimizer.zero_grad()
        sums = accumulate(
            model,
            batches.step(step),
            objective,
            Policy(model),
            ScorerFunction(lambda part: LogProbs.cat([table[group.id] for group in part])),
            world,
        )
        losses.append(sums.means()["loss"])
        optimizer.step()
    found = {"losses": losses, "reference": torch.cat([part.tokens() for part in fixed])}
    if has_adapter(model):
        off = reference_logps(None, AdapterOff(model), groups, max_tokens=20, weights="tiny", world=world)
        found["off"] = torch.cat([part.tokens() for part in off])
    save_model(model, None, folder / f"{kind}-{lora}-{world.size}", world=world)
    return found


def every_case(world: World, folder: Path) -> dict[tuple[str, bool], dict[str, Any]]:
    return {case: run(*case, world, folder) for case in CASES}


@pytest.fixture(scope="module")
def of_two(tmp_path_factory):
    folder = tmp_path_factory.mktemp("two")
    return folder, together(2, every_case, folder, folder)


@pytest.mark.parametrize(("kind", "lora"), CASES)
def test_two_processes_take_the_steps_of_one(of_two, tmp_path, kind, lora):
    folder, ranks = of_two
    alone = run("ddp", lora, World.alone(), tmp_path)
    assert ranks[0][kind, lora]["losses"][0] == pytest.approx(np.log(2), abs=1e-9)
    for found in ranks:
        assert found[kind, lora]["losses"] == pytest.approx(alone["losses"], rel=1e-6)
        torch.testing.assert_close(found[kind, lora]["reference"], alone["reference"], rtol=1e-6, atol=1e-6)
        if lora:  # switched off, the trained adapter gives the reference back
            torch.testing.assert_close(found[kind, lora]["off"], alone["reference"], rtol=1e-6, atol=1e-6)
    saved, expected = (weights(where / f"{name}-{lora}-{size}") for where, name, size in
                       ((folder, kind, 2), (tmp_path, "ddp", 1)))  # fmt: skip
    assert saved.keys() == expected.keys()
    assert saved
    for name, value in expected.items():
        torch.testing.assert_close(saved[name], value, rtol=1e-5, atol=1e-7)


def weights(folder: Path) -> dict[str, torch.Tensor]:
    from safetensors.torch import load_file

    (file,) = folder.glob("*.safetensors")
    return load_file(file)


def test_several_processes_need_a_kind(monkeypatch):
    monkeypatch.setenv("WORLD_SIZE", "2")
    with (
        pytest.raises(TrainingError, match=r"2 processes were started, but parallel\.kind is none"),
        joined(ParallelConfig(kind="none")),
    ):
        pass


def test_another_launcher_is_told_apart(monkeypatch):
    monkeypatch.setenv("ACCELERATE_USE_DEEPSPEED", "true")
    with pytest.raises(TrainingError, match="start with torchrun"), joined(ParallelConfig()):
        pass
