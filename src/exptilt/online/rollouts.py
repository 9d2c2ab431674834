"""The online loop on one page: where the batches of a run come from, if its own policy draws them.

    rollout n:   prompts -> K completions each -> rewards -> scored by policy and reference -> rows of the loss -> updates

The loop, the step and the objective are those of every run (`training/loop.py`); only this source of batches is different. It
is a callback as well: between two updates on one rollout the rollout is part of the checkpoint.
"""

from __future__ import annotations

import logging
from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np

from exptilt.data.batching import pack, shares
from exptilt.data.groups import Group
from exptilt.errors import DataError, ServerError, TrainingError
from exptilt.losses.importance import RATIO_ERROR
from exptilt.online.rollout import Rollout
from exptilt.online.rollout_maker import RolloutMaker
from exptilt.online.rollout_prompts import PromptOrder, RolloutPrompt
from exptilt.online.rollout_reference import RolloutReference
from exptilt.policies.scorer import MicroBatches
from exptilt.processes.world import World
from exptilt.training.callbacks.callback import Callback, Progress
from exptilt.training.sums import Sums

logger = logging.getLogger(__name__)

_HELD_OUT = 2**32
"""Number of the rollout that held-out prompts are asked in: no run comes as far, and every evaluation draws by the same numbers."""

RowsOf = Callable[[Mapping[int, Group], int, "Counter[str]"], list[Group]]
"""The rows of the loss, of groups by their place in a rollout and its number; the counter takes what is left out, by reason."""


@dataclass(kw_only=True)
class Rollouts(Callback):
    """Draws a rollout whenever the last one is used up, and gives the loop its rows.

    The rows of step s are a function of the weights at the rollout's first step, the seed and s, so that a run that is killed and
    resumed draws the same again.
    """

    maker: RolloutMaker
    asked: Sequence[RolloutPrompt]
    """Training prompts."""
    held_out: Sequence[RolloutPrompt]
    order: PromptOrder
    rows_of: RowsOf
    reference: RolloutReference
    batch_size: int
    """Prompts of one update."""
    epochs: int
    """Passes over a rollout."""
    seed: int
    tokens: int | None
    """Most tokens of a micro-batch."""
    world: World
    held_out_samples: int = 2
    weighs_sampler: bool = False
    """Whether the loss weighs samples by trainer over sampler, as these are two programs, and not by present over past policy."""
    ratio_tolerance: float = 1e-4
    """Mean |log pi / pi_old| of a token on a fresh rollout that rounding explains, nats."""
    credited: Callable[[Rollout], Rollout] = field(default=lambda rollout: rollout)
    """What a critic adds to a rollout before the first update on it."""
    current: Rollout | None = None
    left_out: Counter[str] = field(default_factory=Counter)
    """Of the present update, by reason."""
    version: int = 0
    """Of the policy's weights: the updates that made them."""

    @property
    def minibatches(self) -> int:
        """Updates in one pass over a rollout."""
        return self.order.size // self.batch_size

    @property
    def updates(self) -> int:
        """Updates on one rollout."""
        return self.minibatches * self.epochs

    @property
    def num_steps(self) -> int:
        """Steps in which every prompt is asked once."""
        return self.order.rollouts_per_epoch * self.updates

    def step(self, step: int) -> MicroBatches:
        """The micro-batches of one update that this process runs."""
        number, update = divmod(step, self.updates)
        self.version = step
        rollout = self._rollout(number)
        self.left_out = Counter()
        groups = rollout.as_drawn if self.weighs_sampler else rollout.groups
        rows = self.rows_of({place: groups[place] for place in self._minibatch(number, update)}, number, self.left_out)
        if not rows:
            reasons = ", ".join(f"{count} {reason}" for reason, count in self.left_out.items())
            raise TrainingError(
                f"step {step + 1}: rollout {number + 1} left nothing to learn from: {reasons or 'no completion'}"
            )
        return shares(pack(rows, self.tokens), self.world.size)[self.world.rank]

    def _minibatch(self, number: int, update: int) -> list[int]:
        """Places in the rollout of the prompts of one update; each pass takes them in a new order."""
        epoch, part = divmod(update, self.minibatches)
        if self.minibatches == 1:
            return list(range(self.order.size))
        shuffled = np.random.default_rng((self.seed, number, epoch)).permutation(self.order.size)
        return [int(place) for place in shuffled[part * self.batch_size : (part + 1) * self.batch_size]]

    def _rollout(self, number: int) -> Rollout:
        if self.current is not None and self.current.number == number:
            return self.current
        asked = [self.asked[place] for place in self.order.of(number)]
        self.maker.sampler.take_weights(self.version)
        rollout = self.maker.make(asked, number=number, seed=self.seed, version=self.version)
        if number == 0:
            require_signal(rollout, self.maker.is_rewarded)
        rollout = self.credited(rollout)
        self._take(rollout)
        return rollout

    def _take(self, rollout: Rollout) -> None:
        self.current = rollout
        self.reference.take(rollout)

    def measure_held_out(self) -> Sums:
        """Rewards, KL and length of completions of held-out prompts, by the policy as it is now."""
        sums = Sums()
        if not self.held_out:
            return sums
        try:
            self.maker.sampler.take_weights(self.version)
            rollout = self.maker.make(
                self.held_out, number=_HELD_OUT, seed=self.seed, version=self.version, num_samples=self.held_out_samples
            )
        except ServerError as error:  # the next rollout stops the run, with a checkpoint, if the server stays away
            if self.world.is_first:
                logger.warning("held-out prompts are not measured at step %d: %s", self.version, error)
            return sums
        for name, (total, weight) in rollout.measures().totals.items():
            sums.add(_EVALUATED.get(name, name.removeprefix("rollout/")), total, weight)
        return sums

    def on_start(self, progress: Progress) -> None:
        """Know which weights these are."""
        self.version = progress.step

    def measure(self, step: int, sums: Sums) -> None:
        """Add to the metrics of a step what a rollout showed, in the first update on it, and what each update left out.

        Raises:
            TrainingError: in the first update the policy differs from the one that drew.
        """
        sums.add("rollout/left_out", float(sum(self.left_out.values())), 1)
        if self.current is not None and step % self.updates == 0:
            if not self.weighs_sampler:  # another program rounds otherwise, and the weights account for that
                self._require_ratio_one(step, sums)
            sums.merge(self.current.measures())
            sums.add("rollout/seconds_drawing", self.current.seconds, self.updates)

    def _require_ratio_one(self, step: int, sums: Sums) -> None:
        error = sums.means().get(RATIO_ERROR, 0.0)
        if not error <= self.ratio_tolerance:
            raise TrainingError(
                f"step {step + 1}: the ratio of the policy to the one that drew is not 1 on a fresh rollout: {error:.3g} nats a token, and "
                f"rounding explains {self.ratio_tolerance:g}. No weight was moved; set model.dropout=0"
            )

    def after_step(self, progress: Progress, sums: Sums) -> None:
        """Know which weights these are, and how much of the step's time was learning."""
        self.version = progress.step
        whole, drawing = (sums.totals.get(name, [0.0, 0.0])[0] for name in ("seconds", "rollout/seconds_drawing"))
        sums.add("rollout/seconds_learning", whole - drawing, 1)

    def on_end(self, progress: Progress) -> None:
        """Let go of the sampler."""
        self.maker.sampler.close()

    def state(self) -> dict[str, Any]:
        """The rollout, as there may be further updates on it."""
        return {} if self.current is None or self.updates == 1 else {"rollout": self.current.state()}

    def restore(self, state: Mapping[str, Any]) -> None:
        """Go on with a rollout that was drawn before the interruption."""
        self.current = None
        if "rollout" in state:
            kept = state["rollout"]
            prompts = [self.asked[place].group for place in self.order.of(int(kept["number"]))]
            self._take(Rollout.restored(kept, prompts))


_EVALUATED = {"rollout/length": "sample_length"}
"""Names under which a held-out line has what other runs measure, too."""


def require_signal(rollout: Rollout, is_rewarded: bool) -> None:
    """Refuse a first rollout that teaches nothing.

    Raises:
        DataError: nothing was scored, or every completion got the same reward.
    """
    if not is_rewarded:
        return
    rewards = rollout.rewards
    scored = rewards[~np.isnan(rewards)]
    if not len(scored):
        raise DataError(f"rollout.reward scored none of the {len(rewards)} completions of the first rollout")
    if np.ptp(scored) == 0:
        raise DataError(
            f"rollout.reward gives {scored[0]:g} to all {len(scored)} completions of the first rollout, so there is nothing to learn "
            "from; look at it with `exptilt sample`, raise batch.size or rollout.num_samples, or begin with a better model"
        )
