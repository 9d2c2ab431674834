"""PPO through the loop against a plain implementation written apart from it: two updates on one rollout, to 1e-6.

The plain one has padded rectangles, a loop over time and means over masks, as in the codes that circulate; it shares nothing with
exptilt but the starting weights and the samples.
"""

from __future__ import annotations

import copy
from dataclasses import replace

import numpy as np
import pytest
import torch
from torch import Tensor
from torch.optim.lr_scheduler import LambdaLR
from transformers import AutoModelForCausalLM, AutoModelForSequenceClassification, LlamaConfig

from exptilt.data.groups import Completion, Group
from exptilt.losses import PPO
from exptilt.losses.clipped_value import ClippedValue
from exptilt.online.crediting import Crediting
from exptilt.online.rollout import Rollout
from exptilt.policies.critic import Critic
from exptilt.policies.policy import Policy
from exptilt.policies.scorer import ScorerFunction
from exptilt.policies.scoring import score
from exptilt.processes.world import World
from exptilt.settings.training_settings import TrainConfig
from exptilt.training.learner import Learner
from exptilt.training.loop import train
from exptilt.training.objective import Objective
from exptilt.training.run import Run

BETA, GAMMA, LAM, CLIP, RATES = 0.3, 0.97, 0.9, 0.2, (0.3, 0.3)
SHAPE = {"hidden_size": 16, "intermediate_size": 16, "num_hidden_layers": 2, "num_attention_heads": 2, "vocab_size": 20}


@pytest.fixture
def models():
    """Policy, reference and critic in float64, no two alike."""
    config = LlamaConfig(**SHAPE, num_labels=1, pad_token_id=0)
    made = []
    for seed, kind in enumerate((AutoModelForCausalLM, AutoModelForCausalLM, AutoModelForSequenceClassification)):
        torch.manual_seed(seed)
        model = kind.from_config(config).double()
        for leaf in model.parameters():
            leaf.data.mul_(3.0 if leaf.ndim > 1 else 1.0)
        made.append(model.eval())
    return made


def drawn(rng: np.random.Generator) -> list[Group]:
    """Four prompts with three completions each, of unlike lengths, with rewards."""
    groups = []
    for number in range(4):
        completions = []
        for _ in range(3):
            ids = rng.integers(1, 20, rng.integers(1, 7)).astype(np.int32)
            completions.append(Completion(ids, np.ones(len(ids), bool), score=float(rng.normal())))
        prompt = rng.integers(1, 20, rng.integers(2, 5)).astype(np.int32)
        groups.append(Group(id=str(number), prompt=prompt, completions=tuple(completions)))
    return groups


def plain(models: list[torch.nn.Module], groups: list[Group], updates: int) -> list[float]:
    """Train policy and critic by so many updates on these samples; the share of clipped ratios in each."""
    policy, reference, critic = models
    pairs = [(group.prompt, one.ids) for group in groups for one in group.completions]
    rewards = torch.tensor([one.score for group in groups for one in group.completions], dtype=torch.float64)
    width, longest = max(len(p) + len(y) for p, y in pairs), max(len(y) for _, y in pairs)
    ids, mask = torch.zeros(len(pairs), width, dtype=torch.int64), torch.zeros(len(pairs), longest, dtype=torch.bool)
    places = torch.zeros(len(pairs), longest, dtype=torch.int64)
    for row, (prompt, answer) in enumerate(pairs):
        ids[row, : len(prompt) + len(answer)] = torch.from_numpy(np.concatenate([prompt, answer]).astype(np.int64))
        mask[row, : len(answer)] = True
        places[row, : len(answer)] = torch.arange(len(prompt) - 1, len(prompt) + len(answer) - 1)
    targets = ids.gather(1, places + 1)

    def logps(model: torch.nn.Module) -> Tensor:
        logits = model(input_ids=ids).logits.double()
        picked = logits.gather(1, places[..., None].expand(-1, -1, logits.shape[-1]))
        return picked.log_softmax(-1).gather(-1, targets[..., None])[..., 0]

    def values() -> Tensor:
        return critic.score(critic.model(input_ids=ids).last_hidden_state)[..., 0].gather(1, places)

    def mean(terms: Tensor) -> Tensor:
        return terms[mask].sum() / mask.sum()

    with torch.no_grad():
        old, fixed, guess = logps(policy), logps(reference), values()
        earned = -BETA * (old - fixed)
        last = mask.sum(1) - 1
        earned[torch.arange(len(pairs)), last] += rewards
        earned, guess = earned * mask, guess * mask
        advantages, carried = torch.zeros_like(earned), torch.zeros(len(pairs), dtype=torch.float64)
        for step in reversed(range(longest)):
            ahead = guess[:, step + 1] if step + 1 < longest else torch.zeros(len(pairs), dtype=torch.float64)
            carried = earned[:, step] + GAMMA * ahead - guess[:, step] + GAMMA * LAM * carried
            advantages[:, step] = carried
        returns = advantages + guess
        known = advantages[mask]
        white = (advantages - known.mean()) / (known.var(unbiased=True) + 1e-8).sqrt()
    optimizers = [
        torch.optim.SGD(model.parameters(), lr=rate) for model, rate in zip((policy, critic), RATES, strict=True)
    ]
    clipped = []
    for _ in range(updates):
        ratio = (logps(policy) - old).exp()
        of_policy = mean(torch.max(-white * ratio, -white * ratio.clamp(1 - CLIP, 1 + CLIP)))
        now = values()
        near = guess + (now - guess).clamp(-CLIP, CLIP)
        of_critic = 0.5 * mean(torch.max((now - returns) ** 2, (near - returns) ** 2))
        for optimizer, loss in zip(optimizers, (of_policy, of_critic), strict=True):
            optimizer.zero_grad()
            loss.backward()
            optimizer.step()
        clipped.append(float(mean(((ratio - 1).abs() > CLIP).double())))
    return clipped


class Twice:
    """The same rollout for every update, in micro-batches of unlike sizes."""

    num_steps = 1

    def __init__(self, rows: list[Group]) -> None:
        self.rows = rows

    def step(self, step: int) -> list[list[Group]]:
        return [self.rows[:1], self.rows[1:]] if step else [self.rows[:3], self.rows[3:]]


def rollout_of(policy, reference, groups: list[Group]) -> Rollout:
    """The samples with what policy and reference say of them, as the loop's own source keeps it."""
    with torch.no_grad():
        logps, fixed = (score(model, groups).tokens().float().numpy() for model in (policy, reference))
    lengths = [len(one.ids) for group in groups for one in group.completions]
    parts = iter(np.split(logps, np.cumsum(lengths)[:-1]))
    groups = [
        replace(group, completions=tuple(replace(one, behaviour=next(parts)) for one in group.completions))
        for group in groups
    ]
    blank = np.zeros_like(logps)
    ended = np.ones(len(lengths), bool)
    return Rollout(number=0, groups=groups, ended=ended, reference=fixed, kl=blank, entropy=blank, drawn=logps)


def learned(model, rate, objective) -> dict:
    optimizer = torch.optim.SGD(model.parameters(), lr=rate)
    schedule = LambdaLR(optimizer, lambda _: 1.0)
    return {"model": model, "objective": objective, "optimizer": optimizer, "schedule": schedule, "max_grad_norm": 1e9}


def test_two_updates_are_those_of_a_plain_implementation(models, tmp_path):
    theirs = [copy.deepcopy(model) for model in models]
    policy, reference, critic = models
    before = [copy.deepcopy(list(model.parameters())) for model in (policy, critic)]
    groups = drawn(np.random.default_rng(0))
    clipped = plain(theirs, groups, updates=2)
    assert clipped[0] == 0
    assert clipped[1] > 0.1
    objective = Objective(PPO(beta=BETA, gamma=GAMMA, lam=LAM, clip=CLIP))
    scorer = Critic(critic)
    crediting = Crediting(objective=objective, critic=scorer, tokens=60, world=World.alone())
    rows = crediting(rollout_of(policy, reference, groups)).groups
    run = Run(
        **learned(policy, RATES[0], objective),
        policy=Policy(policy),
        reference=ScorerFunction(lambda some: score(reference, some).detach()),
        batches=Twice(list(rows)),
        settings=TrainConfig(save_every=1000),
        num_steps=2,
        folder=tmp_path,
        identity={},
        critic=Learner(**learned(critic, RATES[1], Objective(ClippedValue(clip=CLIP))), scorer=scorer),
    )
    train(run)
    for mine, other, old in zip((policy, critic), (theirs[0], theirs[2]), before, strict=True):
        now, then, start = (
            torch.cat([leaf.detach().flatten() for leaf in some])
            for some in (mine.parameters(), other.parameters(), old)
        )
        assert float((now - start).abs().max()) > 1e-2
        assert float((now - then).abs().max()) < 1e-6
