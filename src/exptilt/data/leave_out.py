"""Removal of prepared examples for a reason that only a model can find."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace

from exptilt.data.prepared import Prepared, lengths_of
from exptilt.data.stage_account import NOTHING, Account, Decisions
from exptilt.data.table import GroupTable
from exptilt.kinds import Kind
from exptilt.labels import Preferred


def leave_out(prepared: Prepared, positions: Sequence[int], code: str, kind: Kind, detail: str) -> Prepared:
    """Remove training examples at some positions, counted like all others that are left out.

    Shares that the report gives for the text of all examples (the longer side, the side with more markup) are unknown
    for the rest and become None.

    Args:
        prepared: rows of a run.
        positions: positions of training examples, from 0.
        code: why, one of `problems.CATALOGUE`.
        kind: kind of the objective.
        detail: the reason with numbers, for a person.
    """
    gone = set(positions)
    remaining = GroupTable.of(group for at, group in enumerate(prepared.train) if at not in gone)
    account = NOTHING
    for at in positions:
        account += Account.of(code, prepared.train[at].id, detail)
    before, p_chosen = (
        prepared.report.train,
        [group.label.p_chosen for group in remaining if isinstance(group.label, Preferred)],
    )
    split = before.updated(
        examples_left_out={**before.examples_left_out, code: len(gone)},
        kept=len(remaining),
        lengths=lengths_of(remaining, kind),
        longer_chosen=None,
        more_markup_chosen=None,
        p_chosen=(min(p_chosen), sum(p_chosen) / len(p_chosen), max(p_chosen)) if p_chosen else None,
    )
    report = prepared.report.updated(train=split).adding(*account.findings(Decisions({})))
    return replace(prepared, train=remaining, report=report)
