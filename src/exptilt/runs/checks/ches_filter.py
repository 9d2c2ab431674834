"""The CHES filter: it finds pairs that are likely to displace under the starting weights, and leaves them out on request."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np

from exptilt.data.groups import Group
from exptilt.data.leave_out import leave_out
from exptilt.data.prepared import Prepared
from exptilt.data.stage_account import NOTHING, Account, Decisions
from exptilt.errors import ConfigError
from exptilt.evaluation.pairs.ches import ches_of, highest
from exptilt.kinds import Kind
from exptilt.labels import Preferred
from exptilt.run_folder.data_record import Finding
from exptilt.settings.data_settings import DEFAULT_TOKENS

_NAMED = 5
"""Rows with the highest score that a finding names."""
_LOOKED_AT = 2000
"""Pairs the doctor scores, spread evenly over the data."""


def leave_out_displacing(
    model: Any, rows: Prepared, share: float, *, kind: Kind, max_tokens: int = DEFAULT_TOKENS
) -> Prepared:
    """Remove the share of training pairs with the highest length-normalised CHES.

    Args:
        model: the weights training starts from, on the device to compute on.
        rows: rows of the run; held-out rows stay as they are.
        share: `data.drop_highest_ches`, in [0, 1); 0 gives the rows back untouched.
        kind: kind of the objective.
        max_tokens: unique tokens at once.

    Returns:
        The rest, with a report that counts what was left out as `displacing`.

    Raises:
        ConfigError: the objective is not trained on pairs.

    Source: Razin et al. (2024), https://arxiv.org/abs/2410.08847, who train on the pairs with the lowest such scores.
    """
    if not share:
        return rows
    if not kind.is_paired:
        raise ConfigError(
            f"data.drop_highest_ches: only pairs have a CHES, and this objective is trained on kind {kind.name!r}; set it to 0"
        )
    scores = ches_of(model, rows.train, max_tokens)
    gone = highest(scores, min(max(1, round(share * len(rows.train))), len(rows.train) - 1))
    if not len(gone):
        return rows
    detail = (
        f"{len(gone)} of {len(rows.train)} pairs were left out by data.drop_highest_ches={share:g}: "
        f"their CHES per token is {scores.normalised[gone].min():.3g} or more"
    )
    return leave_out(rows, gone.tolist(), "displacing", kind, detail)


def ches_finding(model: Any, groups: Sequence[Group]) -> Finding | None:
    """The doctor's finding about CHES, with the pairs that score highest; None without pairs.

    Args:
        model: the weights training would start from.
        groups: training rows as prepared; those that are no pairs are passed over.
    """
    count = min(len(groups), _LOOKED_AT)
    rows = (groups[at * len(groups) // count] for at in range(count))
    pairs = [group for group in rows if isinstance(group.label, Preferred)]
    if not pairs:
        return None
    scores = ches_of(model, pairs)
    median, far, most = np.quantile(scores.normalised, [0.5, 0.95, 1.0])
    detail = (
        f"CHES per token of {len(pairs)} pairs: median {median:.3g}, 95 % below {far:.3g}, highest {most:.3g}; "
        f"data.drop_highest_ches=0.05 leaves the highest {max(1, round(0.05 * len(pairs)))} out"
    )
    account = NOTHING
    for at in highest(scores, _NAMED):
        account += Account.of("ches", pairs[at].id, detail)
    return account.findings(Decisions({}))[0]
