"""Promise 2 over processes: two gloo processes, replicated or sharded, leave the gradient and the metrics of one, for every objective."""

from __future__ import annotations

from dataclasses import replace
from typing import Any, get_args

import numpy as np
import pytest
import torch
from torch.distributed.tensor import DTensor
from transformers import (
    GPT2Config,
    GPT2ForSequenceClassification,
    GPT2LMHeadModel,
    MixtralConfig,
    MixtralForCausalLM,
)
from worlds import together

from exptilt.data.groups import Completion, Credit, Group
from exptilt.kinds import Kind
from exptilt.labels import Desirable, Preferred, Ranked
from exptilt.losses import BCO, DPO, NLL, ORPO, SFT, XPO, AnyLoss, AnyRewardLoss, Mixture, Term
from exptilt.policies.engine.self_check import packable
from exptilt.policies.policy import Policy
from exptilt.policies.reward_scorer import RewardScorer
from exptilt.policies.scorer import ScorerFunction
from exptilt.policies.scoring import score
from exptilt.policies.sharding import shard
from exptilt.processes.world import World
from exptilt.settings.training_settings import ParallelConfig
from exptilt.training.objective import Objective
from exptilt.training.step import accumulate

MEMBERS = [member for member in get_args(AnyLoss) if member not in (Mixture, XPO)]
"""XPO needs samples drawn while training; mixtures are tried with a term that couples the batch."""
LOSSES: dict[str, Any] = {member().name: member() for member in MEMBERS} | {
    "orpo with prompts": ORPO(nll_over="all", normalization="token"),
    "dpo with nll over tokens": Mixture(terms=(Term(loss=DPO()), Term(loss=NLL(normalization="token"), weight=0.3))),
}
EXPERTS: dict[str, Any] = {f"{loss.name} of experts": loss for loss in (BCO(), SFT(), ORPO(nll_over="all"))}
"""Trained with their router's balance loss; one is replayed, one divided by tokens, one reads prompts where they stand."""
CASES = [(name, "ddp") for name in LOSSES] + [
    (name, "fsdp") for name, loss in LOSSES.items() if loss.couples_batch or loss.byproducts or name in ("dpo", "sft")
]
CASES += [(name, kind) for name in EXPERTS for kind in ("ddp", "fsdp")]
REWARD_MODELS: dict[str, Any] = {member().name: member() for member in get_args(AnyRewardLoss)}
CASES += [(name, kind) for name in REWARD_MODELS for kind in ("ddp", "fsdp")]


def shape(**rest: Any) -> GPT2Config:
    still = {"resid_pdrop": 0.0, "embd_pdrop": 0.0, "attn_pdrop": 0.0}
    return GPT2Config(vocab_size=23, n_positions=64, n_embd=8, n_layer=1, n_head=2, **still, **rest)


def tiny(seed: int) -> GPT2LMHeadModel:
    torch.manual_seed(seed)
    return GPT2LMHeadModel(shape()).double()


def tiny_scores(seed: int) -> GPT2ForSequenceClassification:
    torch.manual_seed(seed)
    return GPT2ForSequenceClassification(shape(num_labels=1, pad_token_id=0)).double()


def tiny_experts(seed: int) -> MixtralForCausalLM:
    torch.manual_seed(seed)
    shape = {
        "vocab_size": 23,
        "hidden_size": 8,
        "intermediate_size": 8,
        "num_attention_heads": 2,
        "num_hidden_layers": 2,
    }
    asks = {"num_local_experts": 4, "output_router_logits": True, "router_aux_loss_coef": 0.2, "initializer_range": 0.3}
    model = MixtralForCausalLM(MixtralConfig(**shape, **asks, num_key_value_heads=2)).double()
    model.set_experts_implementation("eager")  # the one that knows float64
    return model


def rows(kind: Kind) -> list[Group]:
    rng = np.random.default_rng(3)
    num = kind.num_completions or 3

    def ids(most: int) -> Any:
        return rng.integers(3, 23, size=rng.integers(1, most)).astype(np.int32)

    def completion() -> Completion:
        drawn = ids(7)
        of_tokens = [rng.normal(-1.0, 0.3, len(drawn)).astype(np.float32) for _ in range(4)]
        return Completion(drawn, np.ones(len(drawn), dtype=bool), behaviour=of_tokens[0], credit=Credit(*of_tokens[1:]))

    def group(number: int) -> Group:
        completions = [replace(completion(), score=float(rng.uniform(0.1, 0.9))) for _ in range(num)]
        ranks = tuple(int(rank) + 1 for rank in rng.permutation(num))
        labels = [Preferred(margin=float(rng.uniform(0.5, 2))), Ranked(ranks), Desirable(number % 3 > 0)]
        return Group(
            id=f"row {number}",
            prompt=ids(5),
            completions=tuple(completions),
            label=next((label for label in labels if type(label) is kind.label), None),
            weight=1.0 + 0.25 * number,
        )

    return [group(number) for number in range(7)]


def step(name: str, world: World, kind: str = "ddp") -> tuple[torch.Tensor, dict[str, float]]:
    """The gradient and the metrics of one step, in the share of this process."""
    loss, make = next(
        (some[name], make)
        for some, make in ((EXPERTS, tiny_experts), (REWARD_MODELS, tiny_scores), (LOSSES, tiny))
        if name in some
    )
    policy, reference = make(0), make(1)
    if kind == "fsdp":
        assert [packable(policy), packable(reference)] == [True, True]  # asked before anything is sharded
        policy, reference = (shard(model, ParallelConfig(kind="fsdp"), torch.float32) for model in (policy, reference))
    objective = Objective(loss)
    batch = objective.prepare(rows(loss.kind))
    # Uneven shares in uneven micro-batches: 4 + 1 rows and 2 + none, or all at once.
    shares = [[batch]] if world.size == 1 else [[batch[2:6], batch[6:]], [batch[:2], []]]
    live = reference if loss.needs_distributions else None

    def anchor(groups: Any) -> Any:
        with torch.no_grad():
            return score(reference, groups)

    asked = ScorerFunction(anchor)
    asked.collective = True  # type: ignore[misc]
    scored: Any = RewardScorer(policy) if loss.kind.scores else Policy(policy, loss.byproducts, live)
    sums = accumulate(policy, shares[world.rank], objective, scored, asked if loss.needs_reference else None, world)
    gradients = [parameter.grad for parameter in policy.parameters() if parameter.grad is not None]
    whole = [one.full_tensor() if isinstance(one, DTensor) else one for one in gradients]
    return torch.cat([one.reshape(-1) for one in whole]), sums.means()


def every_loss(world: World) -> dict[tuple[str, str], tuple[torch.Tensor, dict[str, float]]]:
    return {(name, kind): step(name, world, kind) for name, kind in CASES}


@pytest.fixture(scope="module")
def of_two(tmp_path_factory):
    return together(2, every_loss, tmp_path_factory.mktemp("two"))


@pytest.mark.parametrize(("name", "kind"), CASES)
def test_two_processes_leave_what_one_leaves(of_two, name, kind):
    gradient, means = step(name, World.alone())
    assert ("router_balance" in means) == (name in EXPERTS)
    for found in of_two:
        other, other_means = found[name, kind]
        torch.testing.assert_close(other, gradient, rtol=1e-6, atol=1e-6 * float(gradient.abs().max()))
        assert other_means == pytest.approx(means, rel=1e-6, abs=1e-9)
