"""CPU seconds until a mistake in a recipe is refused, by verb; aim 0.5, bound 1.0.

`python benchmarks/mistake.py` prints the least of three runs each, and ends with status 1 where one is above the bound. Beside it stands
what importing torch alone costs here, to compare hosts by.
"""

from __future__ import annotations

import os
import subprocess
import sys
import tempfile
from pathlib import Path

BOUND = 1.0
RUNS = 3
RECIPE = "output: run\nmodel: {path: m}\ndata: {train: rows.jsonl}\n"
GRID = "output: grid\ntask: {name: world}\nmethods: [{loss: dpo}]\n"
MISTAKES = (
    ("train", "r.yaml", "loss.bet=1"),
    ("train", "r.yaml", "loss.beta=-1"),
    ("train", "r.yaml", "optim.learning_rate=true"),
    ("train", "r.yaml", "loss=dpoo"),
    ("plan", "r.yaml", "loss.bet=1"),
    ("doctor", "r.yaml", "loss.bet=1"),
    ("evaluate", "run", "evaluate.level=2"),
    ("frontier", "grid.yaml", "optim.learning_rte=1"),
    ("config", "los"),
)


def main() -> None:
    """Measure all and print a table."""
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        (folder / "run").mkdir()
        for path, text in (("r.yaml", RECIPE), ("run/config.yaml", RECIPE), ("grid.yaml", GRID)):
            (folder / path).write_text(text)
        torch = min(cpu_seconds(folder, 0, "-c", "import torch") for _ in range(RUNS))
        print(f"{torch:5.2f} s  import torch")
        slowest = 0.0
        for words in MISTAKES:
            seconds = min(cpu_seconds(folder, 2, "-m", "exptilt", *words) for _ in range(RUNS))
            slowest = max(slowest, seconds)
            print(f"{seconds:5.2f} s  exptilt {' '.join(words)}")
    sys.exit(int(slowest > BOUND))


def cpu_seconds(folder: Path, status: int, *words: str) -> float:
    """User and system seconds of one process, which must end with this status."""
    before = os.times()
    done = subprocess.run([sys.executable, *words], cwd=folder, capture_output=True, text=True)
    after = os.times()
    assert done.returncode == status, done.stderr
    return after.children_user + after.children_system - before.children_user - before.children_system


if __name__ == "__main__":
    main()
