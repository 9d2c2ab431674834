"""The prompts of an online run: token ids to draw from, and the words that a reward reads. Never imports torch."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Iterable, Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from exptilt.data.conversions import record_to_prompt
from exptilt.data.groups import Group
from exptilt.data.records import Preference, Prompt, Ranking, Rating, Record
from exptilt.data.splits import read_splits
from exptilt.data.stage_account import Decisions
from exptilt.errors import DataError
from exptilt.settings.data_settings import DataConfig
from exptilt.wording import counted


@dataclass(frozen=True, slots=True, eq=False)
class RolloutPrompt:
    """One prompt."""

    group: Group
    """Its token ids, its name and its weight; without completions."""
    record: Prompt
    """Its words, and the right answer if the row has one."""


def rollout_prompts(
    config: DataConfig, splits: Sequence[Sequence[Group]], *, take_prompts: bool = False
) -> list[list[RolloutPrompt]]:
    """Join tokenised prompts with the words of their rows, which are read again.

    Args:
        config: where the rows are.
        splits: prompts of each split, as prepared.
        take_prompts: whether rows with preferences are asked as well, their completions unread.

    Raises:
        DataError: a row has preferences, which would go unused.
    """
    named = {group.id for split in splits for group in split}
    records: dict[str, Prompt] = {}
    for split in read_splits(config, Decisions(config.decisions)):
        if split is None:
            continue
        if not take_prompts:
            _refuse_preferences(split.source, split.records)
        for record in split.records:
            if record.id in named:
                records[record.id] = record if isinstance(record, Prompt) else record_to_prompt(record)
    return [[RolloutPrompt(group, records[group.id]) for group in split] for split in splits]


def _refuse_preferences(source: str, records: Iterable[Record]) -> None:
    number = sum(isinstance(record, Preference | Ranking | Rating) for record in records)
    if number:
        raise DataError(
            f"{source}: {counted(number, 'row')} with preferences, but `rollout:` samples completions itself and reads prompts only; "
            "set rollout.take_prompts=true to ask their prompts, or leave out rollout to train on them"
        )


def digest_of_prompts(asked: Iterable[RolloutPrompt]) -> str:
    """Fingerprint of the words of all prompts and of their answers, in order."""
    digest = hashlib.blake2b(digest_size=16)
    for one in asked:
        digest.update(json.dumps([one.record.prompt, one.record.answer]).encode("utf-8", "surrogatepass"))
    return digest.hexdigest()


@dataclass(frozen=True, kw_only=True)
class PromptOrder:
    """Which prompts each rollout asks: all of them in a new seeded order, then in another one, without a gap.

    Example:
        >>> order = PromptOrder(num_prompts=5, size=2, seed=0)
        >>> asked = [place for rollout in range(5) for place in order.of(rollout)]
        >>> sorted(asked[:5]), sorted(asked[5:]), order.rollouts_per_epoch
        ([0, 1, 2, 3, 4], [0, 1, 2, 3, 4], 3)
    """

    num_prompts: int
    size: int
    """Prompts of one rollout."""
    seed: int
    shuffle: bool = True

    def of(self, rollout: int) -> list[int]:
        """Places of the prompts that a rollout asks; one may stand in it twice where an epoch ends inside."""
        places = range(rollout * self.size, (rollout + 1) * self.size)
        orders = {epoch: self._order(epoch) for epoch in {place // self.num_prompts for place in places}}
        return [int(orders[place // self.num_prompts][place % self.num_prompts]) for place in places]

    @property
    def rollouts_per_epoch(self) -> int:
        """Rollouts after which every prompt was asked."""
        return -(-self.num_prompts // self.size)

    def _order(self, epoch: int) -> NDArray[np.int64]:
        if not self.shuffle:
            return np.arange(self.num_prompts)
        return np.random.default_rng((self.seed, epoch)).permutation(self.num_prompts)
