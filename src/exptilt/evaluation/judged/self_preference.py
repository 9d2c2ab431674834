"""Does a judge prefer answers of its own kin more than other judges do?

Where judge and policy come from one base, the judge's win rate for that policy is compared with the mean of the other
judges', prompt by prompt. A gap is what self-preference would look like, and may also be what only this judge sees.

Source: Panickssery et al. 2024, arXiv 2404.13076.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np

from exptilt.evaluation.intervals import DEFAULT, Resampling, paired_difference
from exptilt.evaluation.judged.judgements import Judgements
from exptilt.evaluation.judged.matches import Match, prompt_means
from exptilt.evaluation.result import Panel
from exptilt.judges.model_families import shared_base
from exptilt.run_folder.estimate_record import Estimate


@dataclass(frozen=True, slots=True, kw_only=True)
class Kinship(Panel):
    """A judge and a policy from one base."""

    judge: str
    match: str
    base: str
    """What both were made of."""
    more_than_others: Estimate | None
    """The judge's win rate for its kin minus the mean of the other judges', paired; None where there is no other."""


def kinships(
    columns: Mapping[str, Mapping[str, Judgements]],
    matches: Sequence[Match],
    judges: Mapping[str, frozenset[str]],
    writers: Mapping[str, frozenset[str]],
    resampling: Resampling = DEFAULT,
) -> list[Kinship]:
    """Every judge on every policy of its own kin, on whichever side that plays.

    Args:
        columns: verdicts by judge and match.
        matches: the matches.
        judges: what each judge is called and was made of (`model_names`); yardsticks are left out.
        writers: the same of each policy, where it is known.
        resampling: bootstrap over prompts.
    """
    found = []
    for judge, names in judges.items():
        for match in matches:
            for kin, other in ((match.one, match.other), (match.other, match.one)):
                base = shared_base(names, writers.get(kin, frozenset()))
                if base is None:
                    continue
                by_judge = {name: columns[name][match.title] for name in (judge, *(o for o in judges if o != judge))}
                if kin == match.other:
                    by_judge = {name: asked.swapped() for name, asked in by_judge.items()}
                gap = _more_than_others(judge, by_judge, resampling)
                found.append(Kinship(judge=judge, match=f"{kin} against {other}", base=base, more_than_others=gap))
    return found


def _more_than_others(judge: str, columns: Mapping[str, Judgements], resampling: Resampling) -> Estimate | None:
    """The first judge's win rate minus the mean of the others', on the prompts that all have a verdict on."""
    asked = {name: verdicts for name, verdicts in columns.items() if verdicts.scored.any()}
    _, table = prompt_means(asked)
    if judge not in asked or len(asked) < 2 or len(table) < 2:
        return None
    return paired_difference(table[:, 0], table[:, 1:].mean(axis=1), np.arange(len(table)), resampling, most=1.0)
