"""The balance loss of a mixture of experts against transformers' own, by hand, and under every split of a batch."""

from __future__ import annotations

import random
from dataclasses import replace
from types import SimpleNamespace

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from transformers import AutoConfig

from exptilt.data.groups import Completion, Group
from exptilt.errors import ModelError
from exptilt.kinds import UNPAIRED
from exptilt.labels import Desirable
from exptilt.losses import AOT, BCO, DPO, KTO, SFT, TDPO1
from exptilt.policies.adapters import with_adapter
from exptilt.policies.engine import forward, self_check
from exptilt.policies.engine.balance import Balance
from exptilt.policies.policy import Policy
from exptilt.policies.scorer import ScorerFunction
from exptilt.policies.scoring import score, score_all
from exptilt.settings.model_settings import AdapterConfig
from exptilt.training.objective import Objective
from exptilt.training.step import accumulate
from exptilt.types import LogProbs

ASKS = {"num_key_value_heads": 2, "num_experts_per_tok": 2, "output_router_logits": True, "router_aux_loss_coef": 0.3}
KINDS = {
    "mixtral": {**ASKS, "num_local_experts": 5},
    "qwen2_moe": {**ASKS, "num_experts": 5, "moe_intermediate_size": 8, "shared_expert_intermediate_size": 8},
    "qwen3_moe": {**ASKS, "num_experts": 5, "moe_intermediate_size": 8, "head_dim": 8, "mlp_only_layers": [0]},
    "olmoe": {**ASKS, "num_experts": 5},
}
SPLITS = ([1] * 6, [2, 4], [6], [3, 0, 2, 1])


def gradients(model):
    found = [torch.zeros_like(p) if p.grad is None else p.grad for p in model.parameters() if p.requires_grad]
    model.zero_grad(set_to_none=True)
    return found


def same(found, wanted, atol):
    for one, other in zip(found, wanted, strict=True):
        torch.testing.assert_close(one, other, rtol=0, atol=atol)


def alone(model, group):
    """Transformers' balance loss of a group's only completion, fed without its last token."""
    (completion,) = group.completions
    ids = torch.from_numpy(np.concatenate([group.prompt, completion.ids])[:-1].astype(np.int64))
    return model(input_ids=ids[None], use_cache=False).aux_loss


def rows_for(loss, make_group):
    sizes = (4, 7)[: loss.kind.num_completions]
    rows = [make_group(2 + n, *(size + n % 3 for size in sizes), seed=n) for n in range(6)]
    rows = [
        replace(
            row, id=f"row {n}", weight=1 + n / 4, label=Desirable(n % 3 > 0) if loss.kind == UNPAIRED else row.label
        )
        for n, row in enumerate(rows)
    ]
    return Objective(loss).prepare(rows)


def anchor_of(loss, make_model, rows):
    """The reference's log-probabilities, and the model where it must be one: a mixture that asks for balance as well."""
    other = make_model("mixtral", **KINDS["mixtral"]).requires_grad_(False)
    known = dict(zip(map(id, rows), score_all(other, rows), strict=True))
    table = ScorerFunction(lambda some: LogProbs.cat([known[id(group)] for group in some]))
    anchor = table if loss.needs_reference else None
    return anchor, other if "divergence" in loss.byproducts else None


def step(model, rows, sizes, loss, reference):
    """Gradient and means of one step over a batch in micro-batches of these sizes."""
    rest = iter(rows)
    cut = [[next(rest) for _ in range(size)] for size in sizes]
    anchor, live = reference
    sums = accumulate(model, cut, Objective(loss), Policy(model, loss.byproducts, live), anchor)
    return gradients(model), sums.means()


def unpack(model):
    self_check._CHECKED[model] = self_check.SelfCheck(packed=False, error=0.0, reason="a test")


@pytest.mark.parametrize("packed", [True, False])
@pytest.mark.parametrize("kind", KINDS)
def test_of_one_sequence_it_is_what_transformers_adds(kind, packed, make_model, make_group):
    model, group = make_model(kind, **KINDS[kind]), make_group(4, 9)
    aux = alone(model, group)
    (0.3 * aux).backward()
    wanted = gradients(model)
    if not packed:
        unpack(model)
    balance = Balance.of(model)
    (0 * score(model, [group], balance=balance).values.sum()).backward()
    same(gradients(model), wanted, 1e-5)
    assert max(float(one.abs().max()) for one in wanted) > 1e-2
    assert balance.measured.tolist() == pytest.approx([aux.item(), 1.0], rel=1e-5)


@pytest.mark.parametrize("packed", [True, False])
def test_of_two_completions_the_prompt_counts_once(packed, make_model, make_group, monkeypatch):
    """Built from transformers' router logits of both sequences, with the second one's prompt left out."""
    model, group = make_model("mixtral", **KINDS["mixtral"]), make_group(5, 4, 8)
    logits = []
    for number, completion in enumerate(group.completions):
        ids = torch.from_numpy(np.concatenate([group.prompt, completion.ids])[:-1].astype(np.int64))
        found = model(input_ids=ids[None], use_cache=False).router_logits
        logits += [layer[5 if number else 0 :] for layer in found]
    p = torch.cat(logits).softmax(1)
    assert len(p) == 2 * (5 + 3 + 7)
    f = F.one_hot(p.topk(2).indices, 5).float().sum(1).mean(0)
    wanted = 5 * (f * p.mean(0)).sum()
    (0.3 * wanted).backward()
    expected = gradients(model)
    if not packed:
        unpack(model)
        monkeypatch.setattr(forward, "CHUNK_ELEMENTS", 1)  # a forward pass for each
    balance = Balance.of(model)
    (0 * score(model, [group], balance=balance).values.sum()).backward()
    same(gradients(model), expected, 1e-6)
    assert float(balance.measured[0]) == pytest.approx(wanted.item(), rel=1e-6)


@pytest.mark.parametrize("loss", [DPO(), SFT(), TDPO1(), KTO(), AOT(), BCO()], ids=lambda loss: loss.name)
def test_a_step_is_the_loss_and_the_mean_balance_of_groups_under_any_split(loss, make_model, make_group):
    """SFT divides by tokens, KTO, AOT and BCO are replayed, TDPO1 goes through graphs: the balance is a mean over rows."""
    model, rows = make_model("qwen2_moe", **KINDS["qwen2_moe"]), rows_for(loss, make_group)
    other = make_model("qwen2_moe", **{**KINDS["qwen2_moe"], "output_router_logits": False})
    reference = anchor_of(loss, make_model, rows)
    wanted, measured = step(other, rows, [6], loss, reference)
    assert "router_balance" not in measured
    total, mean = sum(group.weight for group in rows), 0.0
    for group in rows:
        balance = Balance.of(model)
        (0 * score(model, [replace(group, weight=1.0)], balance=balance).values.sum()).backward()
        share = group.weight / total
        wanted = [one + share * two for one, two in zip(wanted, gradients(model), strict=True)]
        mean += share * float(balance.measured[0])
    shuffled = random.Random(0).sample(rows, len(rows))
    cases = [(rows, sizes) for sizes in SPLITS] + [(shuffled, [3, 3])]
    for packed in (True, False):
        if not packed:
            unpack(model)
        for batch, sizes in cases if packed else cases[1:2]:
            found, means = step(model, batch, sizes, loss, reference)
            same(found, wanted, 1e-6 * max(float(one.abs().max()) for one in wanted))
            assert means["router_balance"] == pytest.approx(mean, rel=1e-5)
            assert means["loss"] == pytest.approx(measured["loss"], rel=1e-5)


def test_under_checkpointing_and_with_an_adapter(make_model, make_group):
    """The layers run again in backward; under an adapter attention alone learns, and the router's input with it."""
    model, rows = make_model("olmoe", **KINDS["olmoe"]), rows_for(DPO(), make_group)
    plain = anchor_of(DPO(), make_model, rows)
    whole, _ = step(model, rows, [2, 4], DPO(), plain)
    adapted = with_adapter(model, AdapterConfig(rank=2, targets=("q_proj", "v_proj")))
    for name, weights in adapted.named_parameters():
        if "lora_B" in name:
            torch.nn.init.normal_(weights, std=0.2)
    group = make_group(4, 9)
    alone(adapted, group).backward()
    wanted = gradients(adapted)
    (0 * score(adapted, [group], balance=Balance(1.0, 2)).values.sum()).backward()
    same(gradients(adapted), wanted, 1e-6)
    assert max(float(one.abs().max()) for one in wanted) > 1e-3
    means = [step(adapted, rows, [2, 4], DPO(), plain)]
    model.activation_checkpointing_enable({"use_reentrant": False})
    means.append(step(adapted.train(), rows, [2, 4], DPO(), plain))
    same(means[1][0], means[0][0], 1e-7)
    assert means[1][1] == means[0][1]
    again = make_model("olmoe", **KINDS["olmoe"]).train()
    again.activation_checkpointing_enable({"use_reentrant": False})
    same(step(again, rows, [2, 4], DPO(), plain)[0], whole, 1e-7)


def test_nothing_is_added_where_nobody_asks_or_learns(make_model, make_group):
    group = make_group(3, 4)
    assert Balance.of(make_model("mixtral", **{**KINDS["mixtral"], "output_router_logits": False})) is None
    for kind in ("jetmoe", "doge"):  # no coefficient, no logits of experts
        assert Balance.of(SimpleNamespace(config=AutoConfig.for_model(kind, output_router_logits=True))) is None
    assert Balance.of(make_model("llama")) is None
    with pytest.raises(ModelError, match="returns no router logits"):
        score(make_model("llama"), [group], balance=Balance(1.0, 2))
    model = make_model("mixtral", **KINDS["mixtral"])
    balance = Balance.of(model)
    with torch.no_grad():
        score(model, [group], balance=balance)
    assert score(model, [], balance=balance).values.requires_grad
    assert balance.measured is None
    score(model.requires_grad_(False), [group], balance=balance)
    assert balance.measured is not None
    empty = Group(id="b", prompt=np.zeros(0, np.int32), completions=(Completion(group.prompt[:1], np.zeros(1, bool)),))
    balance.begin(1.0)
    score(model, [group, empty], balance=balance)  # a token that nothing comes before is not fed
    twice = float(balance.measured[0])
    balance.begin(1.0)
    score(model, [group], balance=balance)
    assert (twice, balance.measured[1]) == (pytest.approx(float(balance.measured[0])), 1.0)
