"""Likelihood displacement: where probability went when chosen log-probabilities fall."""

from __future__ import annotations

import numpy as np
from numpy.typing import ArrayLike, NDArray

from exptilt.evaluation.intervals import (
    DEFAULT,
    Clusters,
    Floats,
    Prompts,
    Resampling,
    bootstrap,
    divide,
    finite,
)
from exptilt.evaluation.pairs.pair_scores import log_ratios
from exptilt.run_folder.estimate_record import Estimate
from exptilt.run_folder.evaluation_record import Displacement
from exptilt.types import Pair


def displacement(
    policy: Pair,
    reference: Pair,
    prompts: Prompts,
    *,
    forward_kl: ArrayLike | None = None,
    forward_prompts: Prompts | None = None,
    resampling: Resampling = DEFAULT,
) -> Displacement:
    """How far chosen and rejected log-probabilities moved, and how much of it no training could avoid.

    With pairs drawn from the reference, the two sides together are samples of it, so

        (E log-ratio(chosen) + E log-ratio(rejected)) / 2 = E_ref log(pi / pi_ref) = -KL(pi_ref || pi) <= 0

    whatever the labels and the method: a policy that moves at all lowers the mean, and at DPO's exact optimum even the
    chosen side often falls. Multiply by beta for implicit rewards.

    Args:
        policy: log-probabilities of N pairs.
        reference: the same under the reference.
        prompts: (N,) the prompt of each pair.
        forward_kl: (S,) log pi_ref - log pi on samples of the reference (or their Rao-Blackwellised sums), nats.
        forward_prompts: (S,) the prompt of each such sample; prompts shared with the pairs are resampled together.
        resampling: bootstrap over prompts.

    Example:
        >>> import torch
        >>> from exptilt.types import LogProbs
        >>> def side(total): return LogProbs.from_sums(torch.tensor([total, total]), torch.tensor([4, 4]))
        >>> reference = Pair(side(-10.0), side(-10.0))
        >>> found = displacement(Pair(side(-11.0), side(-15.0)), reference, ["a", "b"], forward_kl=[2.0, 3.0],
        ...                      forward_prompts=["a", "b"])
        >>> found.chosen.value, found.mean.value, found.forced.value, found.remainder.value
        (-1.0, -3.0, -2.5, -0.5)
    """
    ratios = [finite(side.sum().numpy(), "log-ratios") for side in log_ratios(policy, reference)]
    extra = finite([] if forward_kl is None else forward_kl, "forward_kl")
    labels = [list(prompts), list(() if forward_prompts is None else forward_prompts)]
    for what, values, named in (("pairs", ratios[0], labels[0]), ("forward KLs", extra, labels[1])):
        if len(values) != len(named):
            raise ValueError(f"{len(values)} {what} but {len(named)} prompt labels: give one label for each")
    clusters, num = Clusters(labels[0] + labels[1]), len(ratios[0])
    columns = np.zeros((num + len(extra), 5))
    columns[:num, :3] = np.stack([*ratios, np.ones(num)], axis=1)
    columns[num:, 3:] = np.stack([-extra, np.ones(len(extra))], axis=1)
    sums = clusters.sums(columns)

    def estimate(chosen: float, rejected: float, forced: float) -> Estimate:
        def statistic(weights: Floats) -> Floats:
            totals = weights @ sums
            found = divide(chosen * totals[:, 0] + rejected * totals[:, 1], totals[:, 2])
            return found + forced * divide(totals[:, 3], totals[:, 4]) if forced else found

        return bootstrap(statistic, clusters.count, resampling)

    return Displacement(
        chosen=estimate(1, 0, 0),
        rejected=estimate(0, 1, 0),
        mean=estimate(0.5, 0.5, 0),
        forced=estimate(0, 0, 1) if len(extra) else None,
        remainder=estimate(0.5, 0.5, -1) if len(extra) else None,
    )


def top_gainers(log_ratios_of_samples: ArrayLike, num: int = 10) -> NDArray[np.int64]:
    """(num,) indices of the samples whose log-probability rose most over the reference's, the highest first.

    On fresh samples of the policy these show where the probability went.

    Example:
        >>> top_gainers([0.1, 3.0, -1.0, 2.0], num=2).tolist()
        [1, 3]
    """
    return np.argsort(-finite(log_ratios_of_samples, "log-ratios"), kind="stable")[:num].astype(np.int64)
