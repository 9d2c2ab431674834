"""What weights, beliefs, order and split of rows change in a gradient, for every objective: the table of docs/log.md.

    PYTHONPATH=src python benchmarks/batch_contract.py

Each cell is the largest difference of two gradients that must be one, relative to the gradient's largest entry; 0 where it is below
1e-6. Rows and properties are those of tests/training/test_batch_contract.py, away from the reference and at it.
"""

from __future__ import annotations

import random
import sys
from dataclasses import replace
from pathlib import Path
from typing import Any

sys.path.insert(0, str(Path(__file__).parents[1] / "tests" / "training"))

from test_batch_contract import LOSSES, STARTS, Step, drawn, mixed, step, swapped


def difference(one: Step, other: Step) -> float:
    """Of their gradients, relative to the largest entry of the first."""
    return float((one.gradient - other.gradient).abs().max() / (one.gradient.abs().max() + 1e-12))


def properties(loss: Any, distance: float) -> dict[str, list[float]]:
    """By property, how far apart steps are that must be equal."""
    rows, others = drawn(loss.kind, seed=1), drawn(loss.kind, seed=2)
    plain = step(loss, distance, rows)
    heavy = [replace(row, weight=2.0) if row.id == "row 2" else row for row in rows]
    absent = [replace(row, id=f"{row.id}, absent", weight=0.0) for row in others[2:4]]
    halves = [replace(row, id=f"{row.id}{half}", weight=0.5) for row in rows for half in "ab"]
    every, noisy = mixed(loss.kind), step(loss, distance, mixed(loss.kind), noise=0)
    whole = step(loss, distance, every)
    orders = [random.Random(seed).sample(every, len(every)) for seed in range(1, 5)]
    found = {
        "weight 2, twice": [
            difference(step(loss, distance, [*rows, replace(rows[2], id="row 9")]), step(loss, distance, heavy))
        ],
        "weight 0, absent": [difference(plain, step(loss, distance, [*rows[:3], *absent, *rows[3:]]))],
        "two halves": [difference(plain, step(loss, distance, halves))],
        "split, order": [difference(whole, step(loss, distance, order, [2, 1, 3])) for order in orders],
        "rounding": [difference(noisy, step(loss, distance, order, [2, 1, 3], noise=7)) for order in orders],
    }
    if loss.kind.is_paired:
        given = [
            replace(row, label=replace(row.label, p_chosen=0.0)) if n in (1, 4) else row for n, row in enumerate(rows)
        ]
        turned = [swapped(row, 1.0) if n in (1, 4) else row for n, row in enumerate(rows)]
        found["p = 0, swapped"] = [difference(step(loss, distance, turned), step(loss, distance, given))]
    return found


def main() -> None:
    """Print the table."""
    names = ("weight 2, twice", "weight 0, absent", "two halves", "p = 0, swapped", "split, order", "rounding")
    print("| objective | " + " | ".join(names) + " |\n|" + "---|" * (len(names) + 1))
    for name, loss in LOSSES.items():
        worst: dict[str, float] = {}
        for distance in STARTS.values():
            for key, values in properties(loss, distance).items():
                worst[key] = max([worst.get(key, 0.0), *values])
        cells = ["-" if key not in worst else f"{worst[key]:.2g}" if worst[key] > 1e-6 else "0" for key in names]
        print(f"| {name} | " + " | ".join(cells) + " |")


if __name__ == "__main__":
    main()
