"""Coverage at full size: how often 95 % intervals hold the true value, by kind of interval and number of prompts.

    python benchmarks/coverage.py --experiments 4000 --resamples 500

Prints the table of docs/intervals.md, and below every kind the line that `exptilt.evaluation.measured_coverage` holds:
the worst of the ways in which values of that kind spread. Values as skewed as e^normal stand in a row of their own,
which no line takes in. The small twin in the suite is tests/evaluation/test_measured_coverage.py.
"""

import argparse
from collections.abc import Callable

import numpy as np
from scipy.special import expit
from scipy.stats import norm

from exptilt.evaluation.frontier.optimum import OptimalFrontier
from exptilt.evaluation.intervals import Clusters, Resampling, mean, ratio
from exptilt.evaluation.pairs.accuracy import margin_auc, share_above_zero
from exptilt.evaluation.pairs.calibration import calibration
from exptilt.evaluation.variance_components import variance_components
from exptilt.run_folder.estimate_record import Estimate

SIZES = (2, 3, 5, 10, 20, 30, 100)
PER_PROMPT = 4
SAMPLES = 64

Trial = Callable[[np.random.Generator, int, Resampling], tuple[Estimate, float]]


def owners(prompts: int) -> np.ndarray:
    return np.repeat(np.arange(prompts), PER_PROMPT)


def clustered(draw: str, truth: float) -> Trial:
    def trial(rng: np.random.Generator, prompts: int, resampling: Resampling) -> tuple[Estimate, float]:
        sample = getattr(rng, draw)
        rows = sample(size=(prompts, 1)) + sample(size=(prompts, PER_PROMPT))
        return mean(rows.ravel(), owners(prompts), resampling), truth

    return trial


def unequal(rng: np.random.Generator, prompts: int, resampling: Resampling) -> tuple[Estimate, float]:
    """One to eight rows of a prompt, which share a part of their value that does not depend on how many there are."""
    which = np.repeat(np.arange(prompts), rng.integers(1, 9, size=prompts))
    return mean(rng.normal(size=prompts)[which] + rng.normal(size=len(which)), which, resampling), 0.0


def seeds(number: int) -> Trial:
    """Runs from several seeds: one third of the variance each is the seed's, the prompt's and the rest."""

    def trial(rng: np.random.Generator, prompts: int, resampling: Resampling) -> tuple[Estimate, float]:
        rows = rng.normal(size=(number, 1)) + rng.normal(size=(1, prompts)) + rng.normal(size=(number, prompts))
        return variance_components(rows, resampling.level).mean, 0.0

    return trial


def heavy(rng: np.random.Generator, prompts: int, resampling: Resampling) -> tuple[Estimate, float]:
    return mean(rng.lognormal(size=prompts), np.arange(prompts), resampling), float(np.exp(0.5))


def per_token(rng: np.random.Generator, prompts: int, resampling: Resampling) -> tuple[Estimate, float]:
    lengths = rng.integers(1, 40, size=prompts).astype(float)
    sums = 0.3 * lengths + rng.normal(size=prompts) * np.sqrt(lengths)
    return ratio(sums, lengths, np.arange(prompts), resampling), 0.3


def accuracy(truth: float, within: float) -> Trial:
    """Clustered verdicts: `within` is the correlation of two pairs of one prompt."""

    def trial(rng: np.random.Generator, prompts: int, resampling: Resampling) -> tuple[Estimate, float]:
        size = (1 - within) / within
        chance = rng.beta(truth * size, (1 - truth) * size, size=(prompts, 1))
        right = rng.random((prompts, PER_PROMPT)) < chance
        return share_above_zero(np.where(right, 1.0, -1.0).ravel(), Clusters(owners(prompts)), resampling), truth

    return trial


def auc(rng: np.random.Generator, prompts: int, resampling: Resampling) -> tuple[Estimate, float]:
    margins = 0.5 + rng.normal(size=prompts)
    return margin_auc(margins, Clusters(np.arange(prompts)), resampling), float(norm.cdf(1.0 / np.sqrt(2)))


def calibrated(scale: float) -> Trial:
    """Margins `1 / scale` times too large."""
    many = 1.5 * np.random.default_rng(0).normal(size=400_000)
    confidence, chance = expit(np.abs(many)), expit(scale * np.abs(many))
    which = np.minimum(((confidence - 0.5) * 20).astype(int), 9)
    truth = float(np.abs(np.bincount(which, chance - confidence)).sum() / len(many))

    def trial(rng: np.random.Generator, prompts: int, resampling: Resampling) -> tuple[Estimate, float]:
        margins = 1.5 * rng.normal(size=prompts)
        rows = np.where(rng.random(prompts) < expit(scale * margins), margins, -margins)
        found = calibration(rows, Clusters(np.arange(prompts)), resampling=resampling).error
        assert found is not None
        return found, truth

    return trial


def optimum(kind: str, share: float) -> Trial:
    """R* at `share` of log M nats, of a Gaussian reward or one squeezed into (0, 1)."""
    nats = share * np.log(SAMPLES)
    if kind == "gaussian":
        truth = float(np.sqrt(2 * nats))
    else:
        even = expit(norm.ppf((np.arange(20_000) + 0.5) / 20_000))[None]
        truth = float(
            OptimalFrontier.from_law(even, np.full_like(even, 1 / 20_000)).samples.reward_at(
                np.ones((1, 1)), np.array([nats])
            )[0]
        )

    def trial(rng: np.random.Generator, prompts: int, resampling: Resampling) -> tuple[Estimate, float]:
        values = rng.normal(size=(prompts, SAMPLES))
        frontier = OptimalFrontier.from_samples(values if kind == "gaussian" else expit(values), resampling=resampling)
        return frontier.reward_at(float(nats)), truth

    return trial


def gap(rng: np.random.Generator, prompts: int, resampling: Resampling) -> tuple[Estimate, float]:
    """beta KL(N(1, 1) || N(2, 1)) at beta = 1/2 over N(0, 1)."""
    frontier = OptimalFrontier.from_samples(rng.normal(size=(prompts, SAMPLES)), resampling=resampling)
    return frontier.gap(0.5, np.full(prompts, 0.5), 1 + rng.normal(size=prompts) / 4), 0.25


KINDS: dict[str, dict[str, Trial]] = {
    "studentised": {
        "normal": clustered("normal", 0.0),
        "exponential": clustered("exponential", 2.0),
        "per token": per_token,
        "unequal numbers of rows": unequal,
    },
    "share": {
        "accuracy .6": accuracy(0.6, 0.1),
        "accuracy .75": accuracy(0.75, 0.3),
        "accuracy .9": accuracy(0.9, 0.5),
        "AUC": auc,
    },
    "calibration": {"calibrated": calibrated(1.0), "twice too sure": calibrated(0.5), "4 times": calibrated(0.25)},
    "frontier": {
        f"{kind} at {share} log M": optimum(kind, share) for kind in ("gaussian", "bounded") for share in (0.2, 0.35)
    }
    | {"gap": gap},
    "frontier beyond": {
        f"{kind} at {share} log M": optimum(kind, share) for kind in ("gaussian", "bounded") for share in (0.6, 0.85)
    },
    "two seeds": {"a third each": seeds(2)},
    "seeds": {f"{number} of them": seeds(number) for number in (3, 5)},
}
SLOW = {"calibration": 4, "frontier": 8, "frontier beyond": 8}
"""How many times fewer experiments these get."""


def covered(trial: Trial, prompts: int, experiments: int, resamples: int) -> float:
    rng, hits = np.random.default_rng(prompts), 0
    for seed in range(experiments):
        found, truth = trial(rng, prompts, Resampling(seed=seed, num_resamples=resamples))
        hits += not found.excludes(truth)  # an interval without ends claims nothing
    return hits / experiments


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--experiments", type=int, default=4000)
    parser.add_argument("--resamples", type=int, default=500)
    settings = parser.parse_args()
    print("| interval | " + " | ".join(map(str, SIZES)) + " prompts |\n|" + "---|" * (len(SIZES) + 1))
    lines = []
    for kind, trials in {**KINDS, "beyond the table": {"e^normal": heavy}}.items():
        rows = []
        for name, trial in trials.items():
            number = max(20, settings.experiments // SLOW.get(kind, 1))
            rows.append([covered(trial, size, number, settings.resamples) for size in SIZES])
            print(f"| {kind}, {name} | " + " | ".join(f"{100 * one:.1f}" for one in rows[-1]) + " |", flush=True)
        worst = {size: round(min(column), 3) for size, column in zip(SIZES, zip(*rows, strict=True), strict=True)}
        lines.append(f'    "{kind}": {worst},')
    print("\n" + "\n".join(lines))


if __name__ == "__main__":
    main()
