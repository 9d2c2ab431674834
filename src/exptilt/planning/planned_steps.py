"""First steps of a planned run, with the rows they will really have."""

from __future__ import annotations

from bisect import bisect_right
from collections.abc import Sequence
from dataclasses import dataclass, replace
from itertools import accumulate, chain

from exptilt.data.batching import pack
from exptilt.data.groups import Group
from exptilt.losses.from_choice import build_loss
from exptilt.planning.arithmetic import Load
from exptilt.planning.phases import steps_of
from exptilt.planning.planned_rollouts import rows_of_update
from exptilt.planning.planned_rows import PlannedRows
from exptilt.planning.probe import TURNS
from exptilt.runs.run_batches import batches_for
from exptilt.settings.recipe import Recipe
from exptilt.training.objective import Objective

_MOST_STEPS = 200
_MOST_ROWS = 20_000


@dataclass(frozen=True)
class Steps:
    """Groups of each step as they will be scored."""

    groups: Sequence[Sequence[Group]]
    more: float
    """How many times larger a step of the run is: above 1 where a step has more rows than the sample."""

    @classmethod
    def of(cls, recipe: Recipe, rows: PlannedRows) -> Steps:
        """All steps of a short run, or the first steps of a long one."""
        objective = Objective(build_loss(recipe.loss))
        size = rows_of_update(recipe)
        batches = batches_for(objective.loss, rows.train, replace(recipe.batch, size=size), seed=recipe.seed)
        most = min(_MOST_STEPS, max(1, _MOST_ROWS // size))
        count = min(most, steps_of(recipe, rows.num_train))
        more = max(1.0, min(size, rows.num_train) / len(rows.train))
        return cls([objective.prepare(batches.groups(step)) for step in range(count)], more)

    @property
    def load(self) -> Load:
        """Mean load of a step."""
        return Load.of(list(chain.from_iterable(self.groups))).times(self.more / len(self.groups))

    @property
    def largest(self) -> float:
        """Tokens of the largest step, which decides about memory."""
        return self.more * max(_tokens(step) for step in self.groups)

    @property
    def longest(self) -> int:
        """Tokens of the longest group, which is never split."""
        return max(group.num_tokens for step in self.groups for group in step)

    def micro_batches(self, tokens: int) -> float:
        """Mean number of micro-batches in a step, with at most `tokens` tokens in each."""
        return self.more * sum(len(pack(step, tokens)) for step in self.groups) / len(self.groups)

    def rehearsed(self, tokens: int, most: int, sample: int) -> list[list[list[Group]]]:
        """Steps for a rehearsal: the first of the run, or micro-batches of `sample` tokens where those would take long.

        Args:
            tokens: most tokens of a micro-batch of the run.
            most: most tokens of all rehearsed steps.
            sample: tokens of a sampled micro-batch.
        """
        count = bisect_right(list(accumulate(_tokens(step) for step in self.groups)), most)
        if self.more > 1 or count < min(TURNS + 1, len(self.groups)):
            return [[groups] for groups in self.samples(sample)]
        return [pack(self.groups[turn % count], tokens) for turn in range(max(TURNS + 1, count))]

    def samples(self, tokens: int) -> list[list[Group]]:
        """Micro-batches of at most `tokens` tokens, filled with groups in turn; the shortest group alone where none fits."""
        groups = list(chain.from_iterable(self.groups))
        short = [group for group in groups if group.num_tokens <= tokens] or [
            min(groups, key=lambda one: one.num_tokens)
        ]
        micro_batches, begin = list[list[Group]](), 0
        for _ in range(TURNS + 1):
            chosen = [short[begin % len(short)]]
            room, begin = tokens - chosen[0].num_tokens, begin + 1
            for offset in range(len(short) - 1):
                group = short[(begin + offset) % len(short)]
                if group.num_tokens <= room:
                    chosen.append(group)
                    room -= group.num_tokens
            begin += len(chosen) - 1
            micro_batches.append(chosen)
        return micro_batches


def _tokens(groups: Sequence[Group]) -> int:
    return sum(group.num_tokens for group in groups)
