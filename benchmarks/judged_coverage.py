"""Coverage at size: how often 95 % intervals of win rates and agreement hold the true value.

    python benchmarks/judged_coverage.py --experiments 400

Prints the table of docs/judges.md. `as AlpacaEval prints it` is the spread of fitted values that AlpacaEval 2 calls a standard
error, with its own fit, on the same verdicts. The small twins are in tests/evaluation/judged.
"""

import argparse
import time
from collections.abc import Callable

import numpy as np
from scipy.special import expit

from exptilt.evaluation.intervals import Resampling
from exptilt.evaluation.judged.agreement import alpha_interval, krippendorff_alpha, pair_agreement
from exptilt.evaluation.judged.alpaca_eval_fit import GamedBaselines, fit, predicted_rate
from exptilt.evaluation.judged.judgements import Judgements
from exptilt.evaluation.judged.length_controlled import length_controlled
from exptilt.evaluation.judged.prediction_powered import prediction_powered
from exptilt.evaluation.judged.simultaneous import best_on_dev_half, simultaneous
from exptilt.evaluation.judged.win_rate import win_rates

SIZES = (30, 100, 300)
THETA, SLOT, SLOPE, SHIFT = 0.4, 0.6, 1.5, 0.7
NOBODY = GamedBaselines(np.zeros(0), np.zeros(0), np.zeros(2))

Trial = Callable[[np.random.Generator, int, Resampling], list[bool]]


def verdicts(rng: np.random.Generator, prompts: int) -> Judgements:
    """Both orders of each prompt; the judge leans to a slot and to length, and prompts differ."""
    gap = np.repeat(rng.normal(SHIFT, 1.0, prompts), 2)
    first = np.tile([True, False], prompts)
    z = THETA + np.where(first, SLOT, -SLOT) + SLOPE * np.tanh(gap / np.sqrt(1 + SHIFT**2))
    return Judgements(np.repeat(np.arange(prompts), 2), (rng.random(2 * prompts) < expit(z)).astype(float), first, gap)


_MANY = verdicts(np.random.default_rng(1), 2_000_000)
_FIRST, _SECOND = (float(np.mean(_MANY.wins[_MANY.shown_first == slot])) for slot in (True, False))
SWAPPED = (_FIRST + _SECOND) / 2
CORRECTED = float(expit((np.log(_FIRST / (1 - _FIRST)) + np.log(_SECOND / (1 - _SECOND))) / 2))
CONTROLLED = float((expit(THETA + SLOT) + expit(THETA - SLOT)) / 2)


def rates(rng: np.random.Generator, prompts: int, resampling: Resampling) -> list[bool]:
    asked = verdicts(rng, prompts)
    found = win_rates(asked, resampling)
    controlled = length_controlled(asked, resampling)
    return [
        one is not None and one.low <= truth <= one.high
        for one, truth in (
            (found.swap_average, SWAPPED),
            (found.slot_corrected, CORRECTED),
            (controlled and controlled.win_rate, CONTROLLED),
        )
    ]


def published(rng: np.random.Generator, prompts: int, resampling: Resampling) -> list[bool]:
    """One order, prompts of unequal difficulty: AlpacaEval's own fit, and the spread of its fitted values."""
    difficulty, gap = rng.normal(size=prompts), rng.normal(-SHIFT, 1.0, prompts)
    z = THETA + 0.3 * difficulty - SLOPE * np.tanh(gap / gap.std(ddof=1))
    preference = (rng.random(prompts) < expit(z)).astype(float)
    weights = fit(preference, gap, difficulty, NOBODY, 100.0)
    rate = predicted_rate(weights, difficulty) / 100
    fitted = expit(weights[1] * difficulty + weights[2])
    error = fitted.std(ddof=1) / np.sqrt(prompts)
    truth = float(np.mean(expit(THETA + 0.3 * np.random.default_rng(0).normal(size=400_000))))
    return [abs(rate - truth) <= 1.96 * error]


def powered(rng: np.random.Generator, prompts: int, resampling: Resampling) -> list[bool]:
    truth = (rng.random(10 * prompts) < 0.58).astype(float)
    judge = (rng.random(10 * prompts) < np.where(truth == 1, 0.75, 0.35)).astype(float)
    found = prediction_powered(truth[:prompts], judge[:prompts], judge[prompts:]).win_rate
    return [found.low <= 0.58 <= found.high]


def people(rng: np.random.Generator, items: int, raters: int = 12, each: int = 3) -> tuple[np.ndarray, np.ndarray]:
    truth, hard = rng.integers(2, size=items), rng.random(items) * 0.3
    skill = np.clip(rng.normal(0.78, 0.12, raters), 0.5, 1)
    votes = np.full((items, raters), np.nan)
    for i in range(items):
        for r in rng.choice(raters, each, replace=False):
            votes[i, r] = truth[i] if rng.random() < np.clip(skill[r] - hard[i] + 0.1, 0, 1) else 1 - truth[i]
    return np.where(rng.random(items) < 0.75 - hard / 2, truth, 1 - truth).astype(float), votes


_WORLDS = [people(np.random.default_rng(seed), 500, 300) for seed in range(5000, 5040)]
_QUICK = Resampling(num_resamples=100)
AGREEMENT = float(np.mean([pair_agreement(*world, _QUICK).agreement.value for world in _WORLDS]))
KAPPA = float(np.mean([pair_agreement(*world, _QUICK).kappa.value for world in _WORLDS]))
ALPHA = float(np.mean([krippendorff_alpha(votes) for _, votes in _WORLDS]))


def agreement(rng: np.random.Generator, items: int, resampling: Resampling) -> list[bool]:
    judge, votes = people(rng, items)
    found, alpha = pair_agreement(judge, votes, resampling), alpha_interval(votes, resampling)
    pairs = ((found.agreement, AGREEMENT), (found.kappa, KAPPA), (alpha, ALPHA))
    return [one.low is not None and one.low <= truth <= one.high for one, truth in pairs]


def sweep(rng: np.random.Generator, prompts: int, resampling: Resampling) -> list[bool]:
    truths = np.array([0.5, 0.52, 0.54, 0.52, 0.5])
    hard = rng.normal(size=(prompts, 1))
    chance = expit(np.log(truths / (1 - truths)) + 0.5 * hard)
    means = expit(np.log(truths / (1 - truths)) + 0.5 * np.random.default_rng(0).normal(size=(200_000, 1))).mean(axis=0)
    wins = ((rng.random((prompts, 5)) < chance).astype(float) + (rng.random((prompts, 5)) < chance)) / 2
    at_once = simultaneous(wins, resampling)
    best = best_on_dev_half(wins, list(range(prompts)), resampling)
    return [
        all(one.low <= truth <= one.high for one, truth in zip(at_once, means, strict=True)),
        best.rate.low is not None and best.rate.low <= means[best.index] <= best.rate.high,
    ]


ROWS: list[tuple[tuple[str, ...], Trial]] = [
    (("swap-average", "slot-corrected", "length-controlled"), rates),
    (("as AlpacaEval prints it",), published),
    (("people and judge together (PPI++), people on", ), powered),
    (("agreement, 12 people of unequal skill", "kappa, the same", "Krippendorff's alpha, the same"), agreement),
    (("five at once", "the best of five, on the other half"), sweep),
]  # fmt: skip


def main() -> None:
    options = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    options.add_argument("--experiments", type=int, default=400)
    options.add_argument("--resamples", type=int, default=200)
    chosen = options.parse_args()
    began = time.process_time()
    print(f"| interval | {' | '.join(map(str, SIZES))} prompts |\n|---|{'---|' * len(SIZES)}")
    for names, trial in ROWS:
        held = np.zeros((len(names), len(SIZES)))
        for column, prompts in enumerate(SIZES):
            rng = np.random.default_rng(100 + column)
            for seed in range(chosen.experiments):
                held[:, column] += trial(rng, prompts, Resampling(num_resamples=chosen.resamples, seed=seed))
        for name, shares in zip(names, 100 * held / chosen.experiments, strict=True):
            print(f"| {name} | {' | '.join(f'{share:.1f}' for share in shares)} |", flush=True)
    print(f"\n{chosen.experiments} experiments, {time.process_time() - began:.0f} CPU seconds")


if __name__ == "__main__":
    main()
