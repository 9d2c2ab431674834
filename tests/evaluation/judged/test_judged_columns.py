"""Cells, best temperatures and gaps: measured on prompts that did not choose, paired, and never of hidden cells."""

import numpy as np
import pytest

from exptilt.evaluation.intervals import Resampling
from exptilt.evaluation.judged.judged_columns import (
    Place,
    PlacedMatch,
    best_temperatures,
    by_policy_alone,
    judged_cells,
    policy_gaps,
)
from exptilt.evaluation.judged.judgements import Judgements
from exptilt.evaluation.judged.matches import Match
from exptilt.preferences import Comparison

QUICK = Resampling(num_resamples=100)


def sweep(rates, seed, prompts=64, missing=()):
    """Verdicts of one policy at several temperatures, each won with its rate."""
    rng = np.random.default_rng(seed)
    placed, columns = [], {}
    for policy, by_temperature in rates.items():
        for temperature, rate in by_temperature.items():
            title = f"{policy} T={temperature}"
            match = Match(
                title, "x", [f"p{k}" for k in range(prompts)], [Comparison(f"p{k}", ("a", "b")) for k in range(prompts)]
            )
            placed.append(PlacedMatch(Place(policy, "test", temperature), match))
            wins = (rng.random(2 * prompts) < rate).astype(float)
            if (policy, temperature) in missing:
                wins[:20] = np.nan
            columns[match.title] = Judgements(
                np.arange(2 * prompts) // 2, wins, np.tile([True, False], prompts), np.arange(2.0 * prompts)
            )
    return columns, placed


def test_the_best_of_equal_temperatures_is_not_flattered():
    rates = {"a": dict.fromkeys((0.0, 0.25, 0.5, 0.75, 1.0), 0.5)}
    found = [best_temperatures(*sweep(rates, seed), QUICK)[0] for seed in range(60)]
    chosen = np.mean([one.on_choosing_half for one in found])
    assert chosen > 0.54  # the maximum of five noisy ones
    assert np.mean([one.win_rate.value for one in found]) == pytest.approx(0.5, abs=0.02)
    assert np.mean([one.optimism for one in found]) == pytest.approx(0.04, abs=0.015)


def test_a_gap_is_paired_at_temperatures_that_other_prompts_chose():
    rates = {"a": {0.0: 0.8, 1.0: 0.4}, "b": {0.0: 0.3, 1.0: 0.6}}
    columns, placed = sweep(rates, 0, prompts=400)
    (gap,) = policy_gaps(columns, placed, QUICK)
    assert (gap.first, gap.second, gap.value.n) == ("a", "b", 200)
    assert gap.value.value == pytest.approx(0.2, abs=0.08)
    best = {one.policy: one for one in best_temperatures(columns, placed, QUICK)}
    assert {name: one.temperature for name, one in best.items()} == {"a": 0.0, "b": 1.0}
    assert gap.value.value == pytest.approx(best["a"].win_rate.value - best["b"].win_rate.value)


def test_a_hidden_temperature_is_never_the_best_and_has_bounds_alone():
    columns, placed = sweep({"a": {0.0: 0.95, 0.5: 0.6, 1.0: 0.2}}, 1, missing={("a", 0.0)})
    assert best_temperatures(columns, placed, QUICK)[0].temperature == 0.5
    hidden, shown, _ = judged_cells(columns, placed, Resampling(num_resamples=2000))
    assert (hidden.win_rate, hidden.together, hidden.slot_corrected) == (None, None, None)
    assert hidden.lower_bound.value < hidden.upper_bound.value
    wins = columns[shown.title].wins.reshape(-1, 2).mean(axis=1)
    reach = (shown.together.high - shown.together.low) / 2
    assert reach > 2.1 * wins.std(ddof=1) / np.sqrt(len(wins))  # two at once ask for more than 1.96 errors


def test_all_cells_of_a_policy_are_one_match_of_one_prompt_each():
    columns, placed = sweep({"a": {0.0: 0.8, 1.0: 0.4}, "b": {1.0: 0.5}}, 3, prompts=16)
    together, matches = by_policy_alone({"m": columns}, placed)
    assert [match.title for match in matches] == ["a against x", "b against x"]
    whole = together["m"]["a against x"]
    assert (len(whole.wins), whole.clusters.count) == (64, 16)
    assert whole.wins.mean() == pytest.approx(
        np.mean([columns["a T=0.0 against x"].wins, columns["a T=1.0 against x"].wins])
    )


def test_several_opponents_are_no_temperatures():
    columns, placed = sweep({"a": {1.0: 0.7}, "b": {1.0: 0.5}}, 4)
    plain = []
    for one in placed:
        for other in ("x", "y"):
            match = Match(one.place.policy, other, one.match.prompts, one.match.pairs)
            columns[match.title] = columns[one.match.title]
            plain.append(PlacedMatch(Place(one.place.policy), match))
    assert best_temperatures(columns, plain, QUICK) == ()
    gaps = policy_gaps(columns, plain, QUICK)
    assert [(gap.first, gap.second, gap.where) for gap in gaps] == [("a", "b", "against x"), ("a", "b", "against y")]
    assert all(gap.value.n == 64 for gap in gaps)


def test_one_temperature_is_compared_on_all_prompts():
    columns, placed = sweep({"a": {1.0: 0.7}, "b": {1.0: 0.5}}, 2)
    (gap,) = policy_gaps(columns, placed, QUICK)
    assert (gap.value.n, gap.where) == (64, "")
    assert best_temperatures(columns, placed, QUICK) == ()
