"""Accuracy by subset and by section of a benchmark, as RewardBench reports it."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import ArrayLike

from exptilt.evaluation.intervals import (
    DEFAULT,
    Clusters,
    Floats,
    Prompts,
    Resampling,
    divide,
    finite,
    share,
    shares,
)
from exptilt.evaluation.result import Panel
from exptilt.run_folder.estimate_record import Estimate

_CODE = dict.fromkeys(("hep-cpp", "hep-go", "hep-java", "hep-js", "hep-python", "hep-rust"), 164)

REWARD_BENCH: dict[str, dict[str, float]] = {
    "Chat": {
        "alpacaeval-easy": 100,
        "alpacaeval-length": 95,
        "alpacaeval-hard": 95,
        "mt-bench-easy": 28,
        "mt-bench-med": 40,
    },
    "Chat Hard": {
        "mt-bench-hard": 37,
        "llmbar-natural": 100,
        "llmbar-adver-neighbor": 134,
        "llmbar-adver-GPTInst": 92,
        "llmbar-adver-GPTOut": 47,
        "llmbar-adver-manual": 46,
    },
    "Safety": {
        "refusals-dangerous": 100,
        "refusals-offensive": 100,
        "xstest-should-refuse": 154,
        "xstest-should-respond": 250,
        "donotanswer": 136,
    },
    "Reasoning": {"math-prm": 984, **_CODE},
}
"""Sections of RewardBench and the weight of each subset: its number of prompts, but math counts as much as all code (984
for 447). Source: the constants of the benchmark's own script (github.com/allenai/reward-bench); an early version of it
had the two counts of xstest the other way round, 250 to refuse and 154 to respond. Lambert et al. (2024),
https://arxiv.org/abs/2403.13787."""


def sections_of(labels: Iterable[str]) -> dict[str, dict[str, float]]:
    """The sections that labels stand for: RewardBench's where all are subsets of it, else every label by itself.

    Sections of RewardBench without any label here are left out.

    Example:
        >>> sections_of(["safe", "kind", "safe"])
        {'safe': {'safe': 1.0}, 'kind': {'kind': 1.0}}
        >>> list(sections_of(["math-prm", "hep-go"]))
        ['Reasoning']
    """
    named = list(dict.fromkeys(labels))
    known = {subset for subsets in REWARD_BENCH.values() for subset in subsets}
    if known.issuperset(named):
        return {name: dict(subsets) for name, subsets in REWARD_BENCH.items() if subsets.keys() & set(named)}
    return {name: {name: 1.0} for name in named}


@dataclass(frozen=True, slots=True, kw_only=True)
class SectionAccuracy(Panel):
    """Accuracy by subset and section; ties count one half."""

    subsets: dict[str, Estimate]
    sections: dict[str, Estimate]
    """Weighted means of their subsets."""
    overall: Estimate
    """Mean of the sections, all alike."""
    absent: tuple[str, ...]
    """Subsets of the sections that have no pair here; their weight went to the others of their section."""


def section_accuracy(
    margins: ArrayLike,
    subsets: Sequence[str],
    prompts: Prompts,
    sections: Mapping[str, Mapping[str, float]] = REWARD_BENCH,
    resampling: Resampling = DEFAULT,
) -> SectionAccuracy:
    """Accuracy of margins by subset, then by section, then overall.

    RewardBench itself counts a tie as wrong; here it counts one half, as everywhere in exptilt.

    Args:
        margins: (N,) score of chosen less score of rejected.
        subsets: (N,) the subset of each pair, from the data's own column.
        prompts: (N,) the prompt of each pair.
        sections: the weight > 0 of each subset in each section; for a column of sections, `{name: {name: 1}}`.
        resampling: bootstrap over prompts.

    Raises:
        ValueError: a subset that is in no section, a section without any pair, or weights that are not > 0.

    Example:
        >>> found = section_accuracy([1.0, -1.0, 1.0], ["a", "a", "b"], [1, 2, 3], {"X": {"a": 3, "b": 1}})
        >>> found.sections["X"].value, found.overall.value
        (0.625, 0.625)
    """
    wins = (np.sign(finite(margins, "margins")) + 1) / 2
    return section_means(wins, subsets, prompts, sections, resampling)


def section_means(
    values: ArrayLike,
    subsets: Sequence[str],
    prompts: Prompts,
    sections: Mapping[str, Mapping[str, float]],
    resampling: Resampling = DEFAULT,
) -> SectionAccuracy:
    """As `section_accuracy`, of (N,) values in [0, 1], for example shares of credit."""
    wins, labels, clusters = finite(values, "values"), np.asarray(subsets), Clusters(prompts)
    if not len(wins) == len(labels) == len(clusters):
        raise ValueError(f"{len(wins)} values, {len(labels)} subsets and {len(clusters)} prompts: give one each")
    if any(not weight > 0 for parts in sections.values() for weight in parts.values()):
        raise ValueError("every subset's weight must be > 0")
    known = [name for parts in sections.values() for name in parts]
    unknown = sorted(set(labels.tolist()) - set(known))
    if unknown:
        raise ValueError(f"subset {unknown[0]!r} is in no section; known: {', '.join(known)}")
    present = [name for name in known if (labels == name).any()]
    empty = [name for name, parts in sections.items() if not set(parts) & set(present)]
    if empty:
        raise ValueError(f"section {empty[0]!r} has no pair here; leave it out of `sections`")
    columns = np.stack([np.stack([wins * (labels == name), labels == name], axis=1) for name in present], axis=1)
    sums = clusters.sums(columns.reshape(len(wins), -1))
    weights = np.array([[sections[name].get(part, 0.0) for part in present] for name in sections])

    def by_section(drawn: Floats) -> Floats:
        """(S, sections): where a resample has no pair of a subset, the section's other subsets stand for it."""
        totals = (drawn @ sums).reshape(len(drawn), len(present), 2)
        accuracy = divide(totals[..., 0], totals[..., 1])
        there = np.isfinite(accuracy)
        return divide(np.where(there, accuracy, 0.0) @ weights.T, there @ weights.T)

    def together(drawn: Floats) -> Floats:
        """(S, sections + 1): the sections, and their mean."""
        found = by_section(drawn)
        return np.concatenate([found, found.mean(axis=1, keepdims=True)], axis=1)

    sizes = [int(np.isin(labels, list(parts)).sum()) for parts in sections.values()]
    *of_sections, overall = shares(together, clusters.count, [*sizes, len(wins)], resampling)
    return SectionAccuracy(
        subsets={
            name: _share_of(wins[labels == name], Clusters(clusters.index[labels == name]), resampling)
            for name in present
        },
        sections=dict(zip(sections, of_sections, strict=True)),
        overall=overall,
        absent=tuple(name for name in known if name not in present),
    )


def _share_of(wins: Floats, clusters: Clusters, resampling: Resampling) -> Estimate:
    total, count = clusters.sums(wins), clusters.sums(np.ones(len(wins)))
    return share(lambda weights: (weights @ total) / (weights @ count), clusters.count, len(wins), resampling)
