"""Online methods in the exact world, through the loop of every run: which share of the attainable objective each misses.

    python benchmarks/exact_online.py --samples 80000 --methods rloo ppo grpo

Policy and critic are tables (one distribution, one value for each step, last token and total), so that nothing but the method is
measured; prompts, rollouts, credit, losses, steps and checkpoints are exptilt's own. J = E[r] - beta KL is exact, and what is missed
is (J* - J) / (J* - J of the reference). The small twin is tests/online/test_exact_world.py.
"""

import argparse
import tempfile
import time
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from exptilt.data.groups import Completion, Group
from exptilt.data.records import Prompt
from exptilt.losses import DPO, GRPO, PPO, RLOO, Distill
from exptilt.losses.clipped_value import ClippedValue
from exptilt.online.crediting import Crediting
from exptilt.online.rollout import Rollout
from exptilt.online.rollout_prompts import PromptOrder, RolloutPrompt
from exptilt.online.rollout_reference import RolloutReference
from exptilt.online.rollouts import Rollouts
from exptilt.policies.scorer import ScorerFunction
from exptilt.processes.world import World
from exptilt.runs.run_rollouts import rows_maker
from exptilt.settings.reward_settings import LengthConfig
from exptilt.settings.rollout_settings import RolloutConfig
from exptilt.settings.training_settings import OptimConfig, TrainConfig
from exptilt.testbed.markov import MarkovWorld
from exptilt.training.learner import Learner
from exptilt.training.loop import train
from exptilt.training.objective import Objective
from exptilt.training.optim import build_optimizer, build_schedule
from exptilt.training.run import Run
from exptilt.types import LogProbs

BETA = 0.1


@dataclass(frozen=True, kw_only=True)
class Method:
    """A loss, and how rollouts are used."""

    loss: Any
    learning_rate: float = 0.05
    critic_rate: float = 0.05
    epochs: int = 1
    minibatches: int = 1
    decide: Any = "greater"
    scale: float = 1.0
    schedule: Any = "constant"


METHODS = {
    "rloo": Method(loss=RLOO(beta=BETA)),
    "ppo": Method(loss=PPO(beta=BETA), epochs=4, learning_rate=0.02),
    "grpo": Method(loss=GRPO(beta=BETA)),
    "dr grpo": Method(loss=GRPO(beta=BETA, divide_by_std=False, divide_by_length=False)),
    "grpo, kl in the reward": Method(loss=GRPO(beta=BETA, kl="reward", divide_by_std=False, divide_by_length=False)),
    "online dpo": Method(loss=DPO(beta=8 * BETA), decide="coin", scale=8.0),
    "distill": Method(loss=Distill()),
}


class Tables(nn.Module):
    """The scores of a policy, and the values of a critic, for every state of the world."""

    def __init__(self, world: MarkovWorld, *, values: bool) -> None:
        super().__init__()
        self.world = world
        shape = world.table_shape
        start = np.zeros(shape[:3]) if values else world.reference.copy()
        self.table = nn.Parameter(torch.from_numpy(start))

    def places(self, groups: Sequence[Group]) -> tuple[tuple[Tensor, ...], Tensor]:
        """Step, last token and total before each token, and the tokens, each (n, length)."""
        tokens = np.stack([one.ids for group in groups for one in group.completions]).astype(np.int64)
        prompts = np.repeat([int(group.prompt[0]) for group in groups], [len(group.completions) for group in groups])
        last = np.concatenate([prompts[:, None], tokens[:, :-1]], axis=1)
        gained = np.asarray(self.world.sentiment)[tokens]
        total = gained.cumsum(axis=1) - gained - int(self.world.totals[0])
        steps = np.broadcast_to(np.arange(self.world.length), tokens.shape).copy()
        return tuple(torch.from_numpy(one) for one in (steps, last, total)), torch.from_numpy(tokens)

    def logps(self, groups: Sequence[Group], teacher: Tensor | None = None) -> LogProbs:
        """Of all tokens, with the exact KL of each step to a teacher where one is given."""
        places, tokens = self.places(groups)
        rows = self.table[places].log_softmax(-1)
        kl = None if teacher is None else (rows.exp() * (rows - teacher[places])).sum(-1).flatten()
        values = rows.gather(-1, tokens[..., None]).flatten()
        return LogProbs(values=values, lengths=torch.full((len(tokens),), self.world.length), kl=kl)

    def values(self, groups: Sequence[Group]) -> LogProbs:
        """The critic's value before each token."""
        places, tokens = self.places(groups)
        return LogProbs(values=self.table[places].flatten(), lengths=torch.full((len(tokens),), self.world.length))

    def policy(self) -> np.ndarray:
        """The policy as the world's table."""
        return self.world.policy_from_logits(self.table.detach().numpy())


class TabularCritic(ScorerFunction):
    """A table of values as a scorer."""

    def __init__(self, tables: Tables) -> None:
        super().__init__(tables.values)
        self.model = tables


class NoWeights:
    """The place of a sampler: the table is read where it lies."""

    def take_weights(self, version: int) -> None:
        """Nothing to take."""

    def close(self) -> None:
        """Nothing to close."""


class TabularMaker:
    """Rollouts drawn from the table, with the true reward."""

    def __init__(self, world: MarkovWorld, tables: Tables, num_samples: int) -> None:
        self.world, self.tables, self.num_samples = world, tables, num_samples
        self.sampler, self.is_rewarded = NoWeights(), True

    def make(self, asked: Sequence[RolloutPrompt], *, number: int, seed: int, version: int | None) -> Rollout:
        """`num_samples` completions of each prompt."""
        policy, world = self.tables.policy(), self.world
        prompts = np.repeat([int(one.group.prompt[0]) for one in asked], self.num_samples)
        drawn = world.sample(len(prompts), np.random.default_rng((seed, number)), policy, prompts=prompts)
        rewards = world.rewards(drawn.tokens)
        logps, reference = (world.logps(table, drawn).astype(np.float32) for table in (policy, world.reference))
        each = np.ones(world.length, dtype=np.bool_)
        completions = [
            Completion(ids.astype(np.int32), each, float(reward), own, version)
            for ids, reward, own in zip(drawn.tokens, rewards, logps, strict=True)
        ]
        groups = [
            Group(
                id=f"{number}:{at}",
                prompt=one.group.prompt,
                completions=tuple(completions[at * self.num_samples : (at + 1) * self.num_samples]),
            )
            for at, one in enumerate(asked)
        ]
        blank = np.zeros(logps.size, np.float32)
        return Rollout(
            number=number, groups=groups, ended=np.ones(len(prompts), np.bool_), reference=reference.ravel(),
            kl=(logps - reference).ravel(), entropy=blank, drawn=logps.ravel(),
        )  # fmt: skip


def prompts_of(world: MarkovWorld) -> list[RolloutPrompt]:
    """Every prompt."""
    asked = []
    for token in range(world.num_tokens):
        group = Group(id=f"prompt {token}", prompt=np.array([token], np.int32), completions=())
        asked.append(RolloutPrompt(group, Prompt(id=f"prompt {token}", prompt=str(token))))
    return asked


def trained(
    world: MarkovWorld,
    method: Method,
    folder: Path,
    *,
    samples: int,
    seed: int = 0,
    prompts: int = 24,
    per_prompt: int = 8,
) -> np.ndarray:
    """The policy's table after so many samples."""
    tables = Tables(world, values=False)
    loss = method.loss
    objective = Objective(loss)
    alone = World.alone()
    settings = RolloutConfig(
        reward=LengthConfig(), num_samples=per_prompt, num_prompts=prompts, epochs=method.epochs,
        decide=method.decide, scale=method.scale, pairs="neighbours",
    )  # fmt: skip
    source = Rollouts(
        maker=TabularMaker(world, tables, per_prompt),  # type: ignore[arg-type]
        asked=prompts_of(world),
        held_out=(),
        order=PromptOrder(num_prompts=world.num_tokens, size=prompts, seed=seed),
        rows_of=rows_maker(loss, settings, seed),
        reference=RolloutReference("table", "the world's reference", torch.device("cpu")),
        batch_size=prompts // method.minibatches,
        epochs=method.epochs,
        seed=seed,
        tokens=None,
        world=alone,
        ratio_tolerance=1e-5,
    )
    teacher = torch.from_numpy(world.optimal_policy(BETA)) if isinstance(loss, Distill) else None
    num_steps = max(1, samples // (prompts * per_prompt)) * source.updates
    optim = OptimConfig(
        learning_rate=method.learning_rate, schedule=method.schedule, warmup_ratio=0.0, max_grad_norm=1e9
    )
    critic = None
    if isinstance(loss, PPO):
        of_critic = Tables(world, values=True)
        scorer = TabularCritic(of_critic)
        source.credited = Crediting(objective=objective, critic=scorer, tokens=None, world=alone)  # type: ignore[arg-type]
        own = OptimConfig(learning_rate=method.critic_rate, schedule="constant", warmup_ratio=0.0, max_grad_norm=1e9)
        moved = build_optimizer(own, of_critic)
        critic = Learner(
            model=of_critic, scorer=scorer, objective=Objective(ClippedValue()), optimizer=moved,
            schedule=build_schedule(own, moved, num_steps), max_grad_norm=1e9,
        )  # fmt: skip
    optimizer = build_optimizer(optim, tables)
    run = Run(
        model=tables, objective=objective, policy=ScorerFunction(lambda groups: tables.logps(groups, teacher)),
        reference=source.reference, batches=source, optimizer=optimizer,
        schedule=build_schedule(optim, optimizer, num_steps), settings=TrainConfig(save_every=10**9),
        max_grad_norm=1e9, num_steps=num_steps, folder=folder, identity={}, callbacks=[source], seed=seed,
        drawn=source.measure, critic=critic,
    )  # fmt: skip
    train(run)
    return tables.policy()


def missed(world: MarkovWorld, policy: np.ndarray, beta: float = BETA) -> float:
    """(J* - J) / (J* - J of the reference), from exact numbers."""
    best = beta * world.log_z(beta)
    return beta * world.kl(policy, world.optimal_policy(beta)) / (best - world.expected_reward(world.reference))


def main() -> None:
    """Print a line for each method."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--samples", type=int, default=80_000)
    parser.add_argument("--length", type=int, default=10)
    parser.add_argument("--seeds", type=int, default=1)
    parser.add_argument("--methods", nargs="+", choices=METHODS, default=list(METHODS))
    given = parser.parse_args()
    torch.set_num_threads(1)
    world = MarkovWorld(length=given.length)
    best = world.optimal_policy(BETA)
    reached = world.expected_reward(best), world.expected_reward(world.reference)
    print(f"optimum: KL {world.kl(best):.3f}, reward {reached[0]:.4f}; reference {reached[1]:.4f}")
    for name in given.methods:
        for seed in range(given.seeds):
            began = time.process_time()
            with tempfile.TemporaryDirectory() as folder:
                policy = trained(world, METHODS[name], Path(folder), samples=given.samples, seed=seed)
            kl, reward = world.kl(policy), world.expected_reward(policy)
            share = reward / world.optimal_reward(kl)
            print(
                f"{name:24s} seed {seed}: KL {kl:.3f}, reward {reward:.4f}, of the frontier {share:.3f}, missed "
                f"{missed(world, policy):.2%}, {time.process_time() - began:.0f} CPU s",
                flush=True,
            )


if __name__ == "__main__":
    main()
