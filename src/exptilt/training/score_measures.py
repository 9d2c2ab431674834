"""What is measured of a reward model's scores beside the loss, under the names of TRL's RewardTrainer where it is the same."""

from __future__ import annotations

import torch
from torch import Tensor

from exptilt.types import Columns, LossResult, Measured


def score_measures(result: LossResult, columns: Columns, scores: Tensor, sizes: Tensor) -> Measured:
    """Metrics of G rows.

        accuracy         the preferred completion has the highest score; of ties in the score, their share
        margin           score of the preferred completion less the mean of the others'
        mean_reward      mean over completions
        spread           highest score of the row less its lowest; near 0 the model says the same of everything
        rewards/chosen   score of the preferred completion, and `rewards/rejected` of the other one of a pair

    TRL's `min_reward` and `max_reward` are extremes of a batch, which depend on its size; `spread` stands in their place.

    Args:
        result: of a reward model's loss.
        columns: those it was formed with.
        scores: (C,) of all completions.
        sizes: (G,) completions of each row, in main memory.

    Example:
        >>> from exptilt.types import PairLoss
        >>> scores = torch.tensor([2.0, 1.0])
        >>> found = score_measures(PairLoss(scores[:1], scores[:1], scores[1:]), {}, scores, torch.tensor([2]))
        >>> {name: float(value[0]) for name, value in found.items() if name != "mean_reward"}
        {'accuracy': 1.0, 'margin': 1.0, 'spread': 1.0, 'rewards/chosen': 2.0, 'rewards/rejected': 1.0}
    """
    measured = result.rewards(columns)
    groups = torch.split(scores, sizes.tolist())
    totals = torch.stack([group.sum() for group in groups])
    counts = sizes.to(totals)
    chosen = measured["chosen"]
    assert isinstance(chosen, Tensor)  # noqa: S101  (one value per row, in pairs and in lists)
    found: Measured = {
        "accuracy": measured["accuracies"],
        "margin": chosen - (totals - chosen) / (counts - 1),
        "mean_reward": (totals, counts),
        "spread": torch.stack([group.max() - group.min() for group in groups]),
    }
    return found | {f"rewards/{side}": measured[side] for side in ("chosen", "rejected") if side in measured}
