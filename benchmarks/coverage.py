"""Coverage at full size: how often 95 % intervals hold the true value, by number of prompts and by how values are spread.

    python benchmarks/coverage.py --experiments 2000

Every experiment draws prompts with four values each, whose prompts differ as much as values of one prompt do. The small
twins are in tests/evaluation/test_intervals.py and tests/evaluation/frontier/test_optimum.py.
"""

import argparse

import numpy as np

from exptilt.evaluation.intervals import Resampling, mean, ratio, wilson

SIZES = (20, 60, 200)
PER_PROMPT = 4


def normal(rng: np.random.Generator, prompts: int) -> tuple[np.ndarray, float]:
    return rng.normal(size=(prompts, 1)) + rng.normal(size=(prompts, PER_PROMPT)), 0.0


def skewed(rng: np.random.Generator, prompts: int) -> tuple[np.ndarray, float]:
    return rng.exponential(size=(prompts, 1)) + rng.exponential(size=(prompts, PER_PROMPT)), 2.0


def covers(estimate: object, truth: float) -> bool:
    return estimate.low <= truth <= estimate.high


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--experiments", type=int, default=2000)
    parser.add_argument("--resamples", type=int, default=1000)
    settings = parser.parse_args()
    rng = np.random.default_rng(0)
    for prompts in SIZES:
        owners, hits = (
            np.repeat(np.arange(prompts), PER_PROMPT),
            dict.fromkeys(("normal", "skewed", "ratio", "wilson"), 0),
        )
        for seed in range(settings.experiments):
            how = Resampling(seed=seed, num_resamples=settings.resamples)
            for draw in (normal, skewed):
                values, truth = draw(rng, prompts)
                hits[draw.__name__] += covers(mean(values.ravel(), owners, how), truth)
            lengths = rng.integers(1, 40, size=prompts).astype(float)
            sums = 0.3 * lengths + rng.normal(size=prompts) * np.sqrt(lengths)
            hits["ratio"] += covers(ratio(sums, lengths, np.arange(prompts), how), 0.3)
            hits["wilson"] += covers(wilson(int(rng.binomial(prompts, 0.7)), prompts), 0.7)
        shares = ", ".join(f"{name} {100 * hit / settings.experiments:.1f} %" for name, hit in hits.items())
        print(f"{prompts} prompts: {shares} of {settings.experiments} intervals hold the truth (nominal 95 %)")


if __name__ == "__main__":
    main()
