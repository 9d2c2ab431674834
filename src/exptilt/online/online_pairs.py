"""The rows that a loss is formed on, of a rollout: its groups with what was scored, or pairs of completions."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import replace

import numpy as np

from exptilt.data.groups import Group
from exptilt.labels import Preferred
from exptilt.rewards.preferred_pairs import PairRule


def scored_groups(groups: Mapping[int, Group], least: int, left_out: Counter[str]) -> list[Group]:
    """Groups without unscored completions; those with fewer than `least` left are left out.

    Args:
        groups: of a rollout, by place.
        least: 2 where completions of one prompt are compared; 0 where rewards are not read at all.
        left_out: counts what is left out, by reason.
    """
    if not least:
        return list(groups.values())
    kept = []
    for group in groups.values():
        scored = tuple(one for one in group.completions if one.score is not None)
        if len(scored) < least:
            left_out["prompts with fewer than two scored completions"] += 1
        else:
            kept.append(replace(group, completions=scored))
    return kept


def pairs_of(groups: Mapping[int, Group], rule: PairRule, seed: tuple[int, int], left_out: Counter[str]) -> list[Group]:
    """Pairs of completions with the preferred one first.

    Args:
        groups: of a rollout, by place.
        rule: which completions are compared, and who wins.
        seed: of the run, and number of the rollout; with the place it decides about the coin.
        left_out: counts pairs that are not made, by reason.
    """
    return [pair for at, group in groups.items() for pair in _pairs_of(group, rule, (*seed, at), left_out)]


def _pairs_of(group: Group, rule: PairRule, seed: Sequence[int], left_out: Counter[str]) -> Iterator[Group]:
    rewards = np.array([np.nan if one.score is None else one.score for one in group.completions])
    sides = [0 if one.version is not None else 1 for one in group.completions]
    rng = np.random.default_rng(seed)
    for preferred in rule.pairs(rewards, rng, left_out, sides):
        chosen, rejected = group.completions[preferred.chosen], group.completions[preferred.rejected]
        if np.array_equal(chosen.ids, rejected.ids):
            left_out["the same completion on both sides"] += 1
            continue
        yield replace(
            group,
            id=f"{group.id} {preferred.chosen + 1}>{preferred.rejected + 1}",
            completions=(chosen, rejected),
            label=Preferred(preferred.p_chosen, preferred.margin),
        )
