"""What is measured of pairs does not depend on which side a file calls chosen."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
import torch

from exptilt.data.groups import Completion, Group
from exptilt.evaluation.held_out import measure_preferences
from exptilt.evaluation.intervals import Resampling
from exptilt.evaluation.pairs.preferred_side import decided_pairs
from exptilt.labels import Preferred
from exptilt.types import LogProbs


def pairs() -> list[Group]:
    def side(token: int, length: int) -> Completion:
        return Completion(np.full(length, token, np.int32), np.ones(length, np.bool_))

    return [
        Group(
            id=f"r:{n}",
            prompt=np.array([1, n], np.int32),
            completions=(side(10 + n, 1 + n % 3), side(20 + n, 2)),
            label=Preferred(1.0),
        )
        for n in range(6)
    ]


def scores(groups: list[Group], scale: float) -> LogProbs:
    """By content, so that a side has its number wherever it stands."""
    parts = [part for group in groups for part in group.completions]
    values = torch.cat([-scale * torch.sin(torch.tensor(part.ids.copy()).double()).abs() - 0.1 for part in parts])
    return LogProbs(values=values, lengths=torch.tensor([len(part.ids) for part in parts]))


def turned(group: Group, p_chosen: float) -> Group:
    return replace(group, completions=group.completions[::-1], label=Preferred(p_chosen))


def measured(groups: list[Group]) -> dict[str, object]:
    found = decided_pairs(groups, scores(groups, 1.0), scores(groups, 0.7))
    record = measure_preferences(found.policy, found.reference, found.groups, 0.1, Resampling())
    return record.model_dump() | {"ties": found.num_ties}


def test_a_pair_believed_wrong_is_measured_as_the_exchanged_pair():
    rows = pairs()
    given = [turned(row, 0.0) if n in (1, 4) else row for n, row in enumerate(rows)]
    assert measured(given) == measured(rows)
    assert [group.completions for group in decided_pairs(given, scores(given, 1), None).groups] == [
        row.completions for row in rows
    ]


def test_a_tie_counts_for_neither_side():
    rows = pairs()
    for tie in (replace(rows[2], label=Preferred(0.5)), turned(rows[2], 0.5)):
        found = measured([*rows[:2], tie, *rows[3:]])
        assert found == measured([*rows[:2], *rows[3:]]) | {"ties": 1}


def test_pairs_that_are_certain_are_measured_as_they_are():
    rows = pairs()
    found = decided_pairs(rows, policy := scores(rows, 1.0), None)
    assert (found.groups, found.policy, found.num_ties) == (rows, policy, 0)
    ties = [replace(row, label=Preferred(0.5)) for row in rows]
    assert decided_pairs(ties, policy, None)[0] == []
    assert decided_pairs(ties, policy, None).num_ties == len(rows) == pytest.approx(6)
