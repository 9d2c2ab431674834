"""RLOO against TRL's own code (1.16) on the same samples: rewards, leave-one-out advantages, loss and gradient, to 1e-6.

TRL draws nothing here: it is given the samples, pads, scores and rewards them as ever, and forms its objective. Its value is that
of the ratio pi / pi_old, which is 1, so only advantages and the gradient are compared. Log-probabilities are in float64.
"""

from __future__ import annotations

import copy
import warnings
from typing import Any

import numpy as np
import pytest
import torch

from exptilt.data.groups import Completion, Group
from exptilt.losses import RLOO
from exptilt.losses.advantages import leave_one_out
from exptilt.training.objective import Objective

pytest.importorskip("trl", reason="the comparison with TRL's own code needs it: pip install 'exptilt[peers]'")
with warnings.catch_warnings():
    warnings.simplefilter("ignore")
    from trl import RLOOConfig, RLOOTrainer

pytestmark = pytest.mark.filterwarnings("ignore")
BETA, SAMPLES = 0.3, 4


def reward(completions: list[str], **_: Any) -> list[float]:
    """Any function of the text; samples of one prompt differ in it."""
    return [len(text) % 7 / 3 - 1 for text in completions]


def samples(world: Any, rows: list[dict[str, str]]) -> list[list[list[int]]]:
    """For every prompt SAMPLES completions of unlike lengths, the end token last; which words does not matter."""
    words, end = len(world.tokenizer), world.tokenizer.eos_token_id
    rng = np.random.default_rng(0)
    return [[[*rng.integers(6, words, rng.integers(1, 6)).tolist(), end] for _ in range(SAMPLES)] for _ in rows]


def trl_side(world: Any, rows: list[dict[str, str]], drawn: list[list[list[int]]], folder: Any) -> Any:
    """TRL's advantages, the KL it took off, its loss, and its gradient."""
    policy, reference = world.copies()
    config = RLOOConfig(
        output_dir=str(folder), report_to="none", use_cpu=True, bf16=False, gradient_checkpointing=False, beta=0.0,
        per_device_train_batch_size=len(rows) * SAMPLES, num_generations=SAMPLES, temperature=1.0,
    )  # fmt: skip
    from datasets import Dataset

    dataset = Dataset.from_list([{"prompt": row["prompt"]} for row in rows])
    trainer = RLOOTrainer(
        model=policy, reward_funcs=[reward], args=config, train_dataset=dataset, processing_class=world.tokenizer
    )
    plain = copy.deepcopy(world.policy)
    trainer.beta, trainer.ref_model = BETA, reference

    def exact(model, ids, attended, kept, *_: Any, **__: Any) -> Any:
        """The model's own logits in float64; TRL's output layer computes in float32 on any model."""
        network = reference if model is reference else plain
        place = (attended.cumsum(1) - 1).clamp(min=0)
        logits = network(input_ids=ids, attention_mask=attended, position_ids=place).logits[:, -kept - 1 : -1]
        logps = logits.log_softmax(-1).gather(-1, ids[:, -kept:, None]).squeeze(-1)
        return logps, torch.zeros_like(logps), None

    flat = [ids for row in drawn for ids in row]
    prompts = [ids for row in rows for ids in [world.tokenizer(row["prompt"])["input_ids"]] * SAMPLES]
    texts = world.tokenizer.batch_decode(flat, skip_special_tokens=True)
    trainer._get_per_token_logps_and_entropies = exact
    trainer._generate = lambda _: (prompts, flat, texts)
    inputs = trainer._generate_and_score_completions(
        [{"prompt": row["prompt"]} for row in rows for _ in range(SAMPLES)]
    )
    loss = trainer._compute_loss(trainer.model, inputs)
    loss.backward()
    gradient = {name: leaf.grad for name, leaf in plain.named_parameters()}
    return inputs["advantages"], gradient, prompts[::SAMPLES], reward(texts)


def test_advantages_and_gradient_are_those_of_trl_on_the_same_samples(world, rows, ours, tmp_path):
    drawn = samples(world, rows)
    advantages, gradient, prompts, rewards = trl_side(world, rows, drawn, tmp_path)
    flat = iter(rewards)
    groups = [
        Group(
            id=f"row {number}",
            prompt=np.array(prompt, np.int32),
            completions=tuple(
                Completion(np.array(ids, np.int32), np.ones(len(ids), np.bool_), score=next(flat)) for ids in row
            ),
        )
        for number, (prompt, row) in enumerate(zip(prompts, drawn, strict=True))
    ]
    side = ours(world)
    policy, reference = side.logps(groups)
    kl = (policy.sum() - reference.sum()).detach()
    mine = leave_one_out(torch.tensor(rewards, dtype=torch.float64) - BETA * kl, torch.full((len(rows),), SAMPLES))
    assert float(advantages.abs().max()) > 0.5
    assert torch.allclose(mine, advantages.double(), rtol=1e-6, atol=1e-6)
    out = Objective(RLOO(beta=BETA))(groups, policy, reference)
    answer = side.answer(out.loss / out.weight)
    for name, leaf in gradient.items():
        difference = float((answer.gradient[name] - leaf.double()).norm() / leaf.double().norm())
        assert difference < 1e-6, (name, difference)
